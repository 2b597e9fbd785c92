#include "program.h"

#include <stdexcept>
#include <utility>

namespace tgi {
namespace {

// Goes through a tape once and throws where an op cannot be computed.
class Check {
 public:
  explicit Check(Program& program) : program_(program), tape_(program.tape), geometry_(program.geometry) {}

  void run() {
    check_geometry();
    for (at_ = 0; at_ < static_cast<int>(tape_.ops.size()); at_++) check_op(tape_.ops[at_]);
    require(gathered_, "the tape gathers no rows to score");
    find_ends();
    require(geometry_.num_tokens >= 1 && geometry_.num_tokens <= program_.vocab_size(),
            "num_tokens is not in 1 .. vocabulary");
  }

 private:
  void require(bool holds, const char* what) const {
    if (holds) return;
    std::string where;
    if (at_ < static_cast<int>(tape_.ops.size()))
      where = "op " + std::to_string(at_) + " (" + OP_NAMES[static_cast<int>(tape_.ops[at_].code)] + "): ";
    throw std::invalid_argument(where + what);
  }

  void check_geometry() {
    const Geometry& g = geometry_;
    at_ = static_cast<int>(tape_.ops.size());
    require(g.num_layers >= 0 && g.num_kv_heads >= 1 && g.head_dim >= 1, "sizes must be positive");
    require(g.num_heads >= 1 && g.num_heads % g.num_kv_heads == 0, "heads must be a multiple of KV heads");
    require(g.num_blocks >= 1 && g.block_size >= 1 && g.num_slots >= 1 && g.max_context >= 1, "sizes must be positive");
    require(tape_.embedding.data != nullptr, "there is no embedding");
    require(tape_.positions.data == nullptr || tape_.positions.width == tape_.embedding.width,
            "the position table is not as wide as the embedding");
    for (const Rope& rope : tape_.ropes)
      require(static_cast<int>(rope.inv_freq.size()) * 2 <= g.head_dim, "a rope turns more than a head has");
    for (int width : tape_.buffers) require(width >= 1, "a buffer without a width");
  }

  // The head is a linear at the end, with a scale_cap behind it or not.
  void find_ends() {
    const size_t last = tape_.ops.size() - 1;
    const Op& op = tape_.ops[tape_.ops[last].code == OpCode::scale_cap ? last - 1 : last];
    const bool head = op.code == OpCode::linear;
    program_.logits = head ? op.operand[2] : -1;
    program_.hidden = head ? op.operand[0] : output_of(op);
    require(program_.scored[program_.hidden], "the tape ends with rows that are not gathered");
  }

  void check_op(const Op& op) {
    const auto& o = op.operand;
    switch (op.code) {
      case OpCode::embed:
        writes(o[0], tape_.embedding.width);
        return require(!o[1] || tape_.positions.data, "there is no position table");
      case OpCode::norm:
        reads(o[0], o[1], o[4]);
        writes(o[2], o[4], o[3]);
        vector(o[5], o[4], true);
        return vector(o[6], o[4], false);
      case OpCode::linear: return check_linear(op);
      case OpCode::qkv: return check_qkv(op);
      case OpCode::attend: return check_attend(op);
      case OpCode::activate:
        reads(o[0], 0, o[4] ? 2 * o[2] : o[2]);
        return writes(o[1], o[2]);
      case OpCode::add:
        reads(o[0], 0, o[2]);
        reads(o[1], 0, o[2]);
        return writes(o[0], o[2]);
      case OpCode::gather: return check_gather(op);
      case OpCode::scale_cap:
        require(at_ > 0 && tape_.ops[at_ - 1].code == OpCode::linear && tape_.ops[at_ - 1].operand[2] == o[0],
                "does not follow the linear that writes its buffer");
        return reads(o[0], 0, o[1]);
    }
    throw std::invalid_argument("an op without a code");
  }

  void check_linear(const Op& op) {
    const auto& [in, linear, out, a, b, c, d, e] = op.operand;
    require(linear >= 0 && linear < static_cast<int>(tape_.linears.size()), "no such linear");
    reads(in, 0, tape_.linears[linear]->inputs);
    require(out != in, "writes what it reads");
    writes(out, tape_.linears[linear]->outputs);
    program_.joint[out] = 1;
  }

  void check_qkv(const Op& op) {
    const auto& [buffer, layer, rope, q_norm, k_norm, q_bias, k_bias, kind] = op.operand;
    const int dim = geometry_.head_dim;
    require(!gathered_, "comes after the gather");
    reads(buffer, 0, (geometry_.num_heads + 2 * geometry_.num_kv_heads) * dim);
    require(program_.joint[buffer], "works on a buffer that no linear has written");
    require(layer >= 0 && layer < geometry_.num_layers, "no such layer");
    require(rope >= -1 && rope < static_cast<int>(tape_.ropes.size()), "no such rope");
    require((q_norm < 0) == (k_norm < 0), "norms either q or k alone");
    for (int index : {q_norm, k_norm, q_bias, k_bias}) vector(index, dim, false);
    require(at_ + 1 < static_cast<int>(tape_.ops.size()) && tape_.ops[at_ + 1].code == OpCode::attend,
            "is not followed by attend");
  }

  void check_attend(const Op& op) {
    const auto& [in, out, layer, window, a, b, c, d] = op.operand;
    require(at_ > 0 && tape_.ops[at_ - 1].code == OpCode::qkv, "does not follow qkv");
    const Op& qkv = tape_.ops[at_ - 1];
    require(in == qkv.operand[0] && layer == qkv.operand[1], "has another buffer or layer than its qkv");
    require(out != in && window >= 0, "writes what it reads, or has a negative window");
    writes(out, geometry_.num_heads * geometry_.head_dim);
    program_.joint[out] = 1;
  }

  void check_gather(const Op& op) {
    const auto& [in, out, width, a, b, c, d, e] = op.operand;
    reads(in, 0, width, true);
    require(!program_.scored[in], "gathers rows that are gathered already");
    gathered_ = true;
    writes(out, width);
  }

  void buffer(int index, int offset, int width) const {
    require(index >= 0 && index < static_cast<int>(tape_.buffers.size()), "no such buffer");
    require(offset >= 0 && width >= 1 && width <= tape_.buffers[index] - offset, "does not fit its buffer");
  }

  void reads(int index, int offset, int width, bool gather = false) const {
    buffer(index, offset, width);
    require(written_[index], "reads a buffer that nothing has written");
    require(gather || static_cast<bool>(program_.scored[index]) == gathered_, "reads rows of the other kind");
  }

  void writes(int index, int width, int offset = 0) {
    buffer(index, offset, width);
    require(!written_[index] || static_cast<bool>(program_.scored[index]) == gathered_,
            "writes rows of the other kind");
    written_[index] = 1;
    program_.scored[index] = gathered_;
  }

  void vector(int index, int width, bool needed) const {
    if (index < 0) return require(!needed, "lacks a vector");
    require(index < static_cast<int>(tape_.vectors.size()) && static_cast<int>(tape_.vectors[index].size()) == width,
            "has a vector of another width");
  }

  Program& program_;
  const Tape& tape_;
  const Geometry& geometry_;
  std::vector<uint8_t> written_ = std::vector<uint8_t>(program_.tape.buffers.size());
  bool gathered_ = false;
  int at_ = 0;
};

bool row_wise(OpCode code) {
  return code == OpCode::embed || code == OpCode::norm || code == OpCode::activate || code == OpCode::add;
}

std::vector<Phase> cut(const std::vector<Op>& ops) {
  std::vector<Phase> phases;
  const int count = static_cast<int>(ops.size());
  bool scored = false;
  for (int at = 0; at < count;) {
    Phase phase{at, at, -1, scored};
    while (phase.end < count && row_wise(ops[phase.end].code)) phase.end++;
    at = phase.end;
    if (at < count) {
      phase.joint = at;
      scored = scored || ops[at].code == OpCode::gather;
      const bool pair = ops[at].code == OpCode::qkv ||
                        (ops[at].code == OpCode::linear && at + 1 < count && ops[at + 1].code == OpCode::scale_cap);
      at += pair ? 2 : 1;
    }
    phases.push_back(phase);
  }
  return phases;
}

}  // namespace

Program::Program(Tape the_tape, Geometry the_geometry)
    : tape(std::move(the_tape)),
      geometry(the_geometry),
      scored(tape.buffers.size()),
      joint(tape.buffers.size()),
      hidden(-1),
      logits(-1) {
  Check(*this).run();
  phases = cut(tape.ops);
}

int32_t output_of(const Op& op) {
  switch (op.code) {
    case OpCode::norm:
    case OpCode::linear: return op.operand[2];
    case OpCode::attend:
    case OpCode::activate:
    case OpCode::gather: return op.operand[1];
    default: return op.operand[0];  // embed, qkv, add, scale_cap
  }
}

OpCode find_op(const std::string& name) {
  int code = 0;
  for (const char* known : OP_NAMES) {
    if (name == known) return static_cast<OpCode>(code);
    code++;
  }
  throw std::invalid_argument("unknown op '" + name + "'");
}

}  // namespace tgi
