// The runner, for Python: as the class Program.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "isa.h"
#include "kinds.h"
#include "pack.h"
#include "runner.h"
#include "sampler_bindings.h"

namespace nb = nanobind;

namespace tgi {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using PythonOp = std::tuple<std::string, std::vector<int32_t>, std::vector<float>>;
using PythonRope = std::tuple<Floats, float, bool>;

// What the program reads in place must outlive it.
struct PythonProgram {
  Bytes embedding;
  std::optional<Bytes> positions;
  nb::object pool, linears;
  std::unique_ptr<Runner> runner;
};

Op make_op(const PythonOp& from) {
  const auto& [name, operands, numbers] = from;
  Op op{find_op(name), {-1, -1, -1, -1, -1, -1, -1, -1}, {0, 0}};
  if (operands.size() > std::size(op.operand) || numbers.size() > std::size(op.number))
    throw std::invalid_argument("too many operands for the op '" + name + "'");
  std::copy(operands.begin(), operands.end(), op.operand);
  std::copy(numbers.begin(), numbers.end(), op.number);
  return op;
}

Table make_table(const Bytes& bytes, WeightKind kind) {
  const size_t size = kind == WeightKind::f32 ? 4 : 2;
  return {bytes.data(), static_cast<int64_t>(bytes.shape(0)), static_cast<int32_t>(bytes.shape(1) / size), kind};
}

EmbedRows find_embed_rows(const std::string& name) {
  if (name == "all") return EmbedRows::all;
  if (name == "first") return EmbedRows::first;
  if (name == "last") return EmbedRows::last;
  throw std::invalid_argument("unknown rows to embed '" + name + "'");
}

void make_program(PythonProgram* self, nb::object pool, const std::string& isa, std::vector<int32_t> buffers,
                  const std::vector<PythonOp>& ops, nb::object linears, const std::vector<Floats>& vectors,
                  Bytes embedding, std::optional<Bytes> positions, const std::string& embedding_kind,
                  const std::vector<PythonRope>& ropes, const std::string& kv_kind, Geometry geometry) {
  const WeightKind kind = find_float_kind(embedding_kind);
  Tape tape;
  tape.buffers = std::move(buffers);
  for (const PythonOp& op : ops) tape.ops.push_back(make_op(op));
  for (nb::handle linear : linears) tape.linears.push_back(&nb::cast<const PackedLinear&>(linear).view);
  for (const Floats& vector : vectors) tape.vectors.emplace_back(vector.data(), vector.data() + vector.size());
  for (const auto& [inv_freq, factor, interleaved] : ropes)
    tape.ropes.push_back({{inv_freq.data(), inv_freq.data() + inv_freq.size()}, factor, interleaved});
  tape.embedding = make_table(embedding, kind);
  tape.positions = positions ? make_table(*positions, WeightKind::f32) : Table{nullptr, 0, 0, WeightKind::f32};
  geometry.kv_kind = find_kv_kind(kv_kind);
  auto runner = std::make_unique<Runner>(nb::cast<Pool&>(pool), find_kernels(isa), Program(std::move(tape), geometry));
  new (self) PythonProgram{std::move(embedding), std::move(positions), std::move(pool), std::move(linears),
                           std::move(runner)};
}

std::vector<int32_t> integers(nb::handle sequence) {
  nb::object fast = nb::steal(PySequence_Fast(sequence.ptr(), "a chunk holds sequences of integers"));
  if (!fast.is_valid()) throw nb::python_error();
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(fast.ptr());
  std::vector<int32_t> numbers(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; i++) {
    const long number = PyLong_AsLong(PySequence_Fast_GET_ITEM(fast.ptr(), i));
    if (number == -1 && PyErr_Occurred()) throw nb::python_error();
    if (number != static_cast<int32_t>(number)) throw nb::value_error("a token or block is out of range");
    numbers[static_cast<size_t>(i)] = static_cast<int32_t>(number);
  }
  return numbers;
}

// From engine.sched.plan.Chunk
std::vector<Chunk> make_chunks(nb::handle chunks) {
  std::vector<Chunk> made;
  for (nb::handle chunk : chunks)
    made.push_back({nb::cast<int32_t>(chunk.attr("slot")), nb::cast<int32_t>(chunk.attr("start")),
                    integers(chunk.attr("tokens")), nb::cast<int32_t>(chunk.attr("num_draft")),
                    integers(chunk.attr("blocks")), nb::cast<bool>(chunk.attr("sample")),
                    nb::cast<bool>(chunk.attr("prompt_logprobs")), nb::cast<bool>(chunk.attr("embed")),
                    nb::cast<bool>(chunk.attr("bidirectional"))});
  return made;
}

nb::object fault_name(Fault fault) {
  switch (fault) {
    case Fault::none: return nb::none();
    case Fault::nan: return nb::str("NaN");
    case Fault::plus_infinity: return nb::str("plus infinity");
    case Fault::all_minus_infinity: return nb::str("nothing but minus infinity");
  }
  return nb::none();
}

nb::list make_rows(const std::vector<Choice>& choices) {
  nb::list rows;
  for (const Choice& choice : choices) {
    nb::list top;
    for (const auto& [token, logprob] : choice.top) top.append(nb::make_tuple(token, logprob));
    rows.append(nb::make_tuple(choice.token, choice.logprob, nb::tuple(top), fault_name(choice.fault)));
  }
  return rows;
}

nb::ndarray<nb::numpy, float> make_matrix(std::vector<float> from, size_t width) {
  auto numbers = std::make_unique<std::vector<float>>(std::move(from));
  const size_t rows = numbers->size() / width;
  float* data = numbers->data();
  nb::capsule owner(numbers.release(), [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return nb::ndarray<nb::numpy, float>(data, {rows, width}, owner);
}

// What `masks` returns, once it is called: for each chunk an array [num_draft + 1, words], or None.
class PythonMasks {
 public:
  PythonMasks(nb::object masks, const std::vector<Chunk>& chunks, int vocab_size)
      : masks_(std::move(masks)), words_((static_cast<size_t>(vocab_size) + 31) / 32) {
    for (const Chunk& chunk : chunks) rows_.push_back(static_cast<size_t>(chunk.num_draft) + 1);
  }

  // Any thread may call it.
  std::vector<Allowed> operator()() {
    nb::gil_scoped_acquire held;
    arrays_ = nb::cast<std::vector<std::optional<Masks>>>(masks_());
    if (arrays_.size() != rows_.size()) throw std::invalid_argument("there must be a mask, or None, for each chunk");
    std::vector<Allowed> allowed(rows_.size());
    for (size_t i = 0; i < rows_.size(); i++) {
      if (!arrays_[i]) continue;
      if (arrays_[i]->shape(0) < rows_[i] || arrays_[i]->shape(1) < words_)
        throw std::invalid_argument("a mask has too few rows or words");
      allowed[i] = {arrays_[i]->data(), arrays_[i]->shape(1)};
    }
    return allowed;
  }

 private:
  using Masks = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
  nb::object masks_;
  size_t words_;
  std::vector<size_t> rows_;  // that are needed, of each chunk
  std::vector<std::optional<Masks>> arrays_;
};

nb::list step(PythonProgram& self, nb::handle chunks, nb::object masks) {
  std::vector<Chunk> made = make_chunks(chunks);
  std::vector<ChunkChoices> choices;
  PythonMasks wait(masks, made, self.runner->vocab_size());
  const AllowedTokens allowed = masks.is_none() ? AllowedTokens() : [&] { return wait(); };
  {
    nb::gil_scoped_release release;
    choices = self.runner->step(std::move(made), allowed);
  }
  nb::list result;
  for (ChunkChoices& chunk : choices) {
    if (chunk.hidden.empty())
      result.append(nb::make_tuple(make_rows(chunk.prompt), make_rows(chunk.drawn)));
    else
      result.append(make_matrix(std::move(chunk.hidden), static_cast<size_t>(self.runner->hidden_size())));
  }
  return result;
}

nb::ndarray<nb::numpy, float> logits(PythonProgram& self, nb::handle chunks) {
  std::vector<Chunk> made = make_chunks(chunks);
  std::vector<float> numbers;
  {
    nb::gil_scoped_release release;
    numbers = self.runner->logits(std::move(made));
  }
  return make_matrix(std::move(numbers), static_cast<size_t>(self.runner->vocab_size()));
}

void enter(PythonProgram& self, nb::handle request) {
  const std::vector<int32_t> tokens = integers(request.attr("tokens"));
  self.runner->slots().enter(nb::cast<int>(request.attr("slot")), {tokens.begin(), tokens.end()},
                             nb::cast<int64_t>(request.attr("prompt_len")), sampling_params(request.attr("params")));
}

nb::ndarray<nb::numpy, int64_t> tokens(nb::handle self, int slot) {
  Slots& slots = nb::cast<PythonProgram&>(self).runner->slots();
  return nb::ndarray<nb::numpy, int64_t>(slots.at(slot).tokens, {static_cast<size_t>(slots.capacity())}, self);
}

}  // namespace

void bind_runner(nb::module_& m) {
  nb::class_<PythonProgram>(m, "Program")
      .def(
          "__init__",
          [](PythonProgram* self, nb::object pool, const std::string& isa, std::vector<int32_t> buffers,
             const std::vector<PythonOp>& ops, nb::object linears, const std::vector<Floats>& vectors, Bytes embedding,
             std::optional<Bytes> positions, const std::string& embedding_kind, const std::vector<PythonRope>& ropes,
             int num_layers, int num_heads, int num_kv_heads, int head_dim, const std::string& kv_kind, int num_blocks,
             int block_size, int num_slots, int max_context, int num_tokens, const std::string& embed_rows) {
            const Geometry geometry{num_layers, num_heads, num_kv_heads, head_dim,   KvKind::f32,
                                    num_blocks, block_size, num_slots,   max_context, num_tokens,
                                    find_embed_rows(embed_rows)};
            make_program(self, std::move(pool), isa, std::move(buffers), ops, std::move(linears), vectors,
                         std::move(embedding), std::move(positions), embedding_kind, ropes, kv_kind, geometry);
          },
          nb::arg("pool"), nb::kw_only(), nb::arg("isa"), nb::arg("buffers"), nb::arg("ops"), nb::arg("linears"),
          nb::arg("vectors"), nb::arg("embedding"), nb::arg("positions").none(), nb::arg("embedding_kind"),
          nb::arg("ropes"), nb::arg("num_layers"), nb::arg("num_heads"), nb::arg("num_kv_heads"), nb::arg("head_dim"),
          nb::arg("kv_kind"), nb::arg("num_blocks"), nb::arg("block_size"), nb::arg("num_slots"),
          nb::arg("max_context"), nb::arg("num_tokens"), nb::arg("embed_rows") = "last")
      .def_prop_ro("isa", [](const PythonProgram& self) { return self.runner->kernels().name; })
      .def_prop_ro("kv_bytes", [](const PythonProgram& self) { return self.runner->kv_bytes(); })
      .def("enter", &enter, nb::arg("enter"))
      .def("leave", [](PythonProgram& self, int slot) { self.runner->slots().leave(slot); }, nb::arg("slot"))
      .def("tokens", &tokens, nb::arg("slot"))
      .def("step", &step, nb::arg("chunks"), nb::arg("masks").none() = nb::none())
      .def("logits", &logits, nb::arg("chunks"));
  m.def(
      "kv_block_bytes",
      [](const std::string& kind, int block_size, int num_kv_heads, int head_dim, int num_layers) {
        return KvPages::block_bytes(find_kv_kind(kind), num_layers, block_size, num_kv_heads, head_dim);
      },
      nb::arg("kind"), nb::arg("block_size"), nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("num_layers"));
}

}  // namespace tgi
