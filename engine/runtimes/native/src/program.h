// The tape: what a step computes, as a flat list of ops over numbered buffers, linears and vectors. Python writes it
// from a ModelSpec (../program.py); nothing here knows a model.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"

namespace tgi {

// Operands, in the order of Op.operand (buffers, linears and vectors are indices; -1: none). A buffer has a row for
// each token of the step:
enum class OpCode : int32_t {
  embed,     // out buffer, positions (0/1: add the row of the position table); scale
  norm,      // in buffer, in offset, out buffer, out offset, width, weight vector, bias vector, kind; eps
  linear,    // in buffer, linear, out buffer
  qkv,       // buffer [heads q | kv heads k | kv heads v], layer, rope index, q norm vector, k norm vector,
             // q norm bias, k norm bias, norm kind; eps, scale of q.   Norms here are over each head.
             // Turns q and k, scales q, writes k and v to the cache. `attend` on the same buffer must follow.
  attend,    // qkv buffer, out buffer, layer, window (0: none); soft cap (0: none)
  activate,  // in buffer [gate | up] or [up], out buffer, width, kind, gated
  add,       // x buffer, y buffer, width; scale:  x += scale * y
  gather,    // in buffer, out buffer, width: the rows that are asked for; all later ops work on those rows
  scale_cap, // buffer, width; scale, cap.  Follows the linear that writes the buffer.
};

constexpr const char* OP_NAMES[] = {"embed",    "norm", "linear", "qkv",      "attend",
                                    "activate", "add",  "gather", "scale_cap"};  // in the order of OpCode

struct Op {
  OpCode code;
  int32_t operand[8];
  float number[2];
};

struct Rope {
  std::vector<float> inv_freq;
  float attention_factor;
  bool interleaved;
};

// The rows of an embedding, as the checkpoint has them.
struct Table {
  const uint8_t* data;  // null: there is none
  int64_t rows;
  int32_t width;
  WeightKind kind;  // f32, bf16 or f16

  const uint8_t* row(int64_t index) const {
    return data + static_cast<size_t>(index) * static_cast<size_t>(width) * (kind == WeightKind::f32 ? 4 : 2);
  }
};

struct Tape {
  std::vector<int32_t> buffers;  // widths
  std::vector<Op> ops;
  std::vector<const Linear*> linears;
  std::vector<std::vector<float>> vectors;
  std::vector<Rope> ropes;
  Table embedding;
  Table positions;
};

// Which rows of a text to embed are asked for.
enum class EmbedRows : int32_t { all, first, last };

// The sizes that no op carries.
struct Geometry {
  int32_t num_layers, num_heads, num_kv_heads, head_dim;
  KvKind kv_kind;
  int32_t num_blocks, block_size;
  int32_t num_slots, max_context;
  int32_t num_tokens;
  EmbedRows embed_rows = EmbedRows::last;
};

// Row-wise ops, then one op that needs other rows or another split of the work: a linear, qkv with its attend, a
// gather, or none at the end.
struct Phase {
  int32_t begin, end;    // row-wise ops
  int32_t joint;         // the op after them, -1: none
  bool scored;           // works on gathered rows
};

// A tape that has been checked, cut into phases.
struct Program {
  Tape tape;
  Geometry geometry;
  std::vector<Phase> phases;
  std::vector<uint8_t> scored;  // for each buffer: its rows are gathered ones
  std::vector<uint8_t> joint;   // for each buffer: a linear or attend writes it, all threads together
  int32_t hidden;  // the buffer that the head reads, or the last one written where there is no head
  int32_t logits;  // the buffer that the head writes, the linear at the end; -1: there is none

  // Throws std::invalid_argument where the tape does not fit together.
  Program(Tape tape, Geometry geometry);

  const float* vector(int32_t index) const { return index < 0 ? nullptr : tape.vectors[index].data(); }
  int32_t vocab_size() const { return logits < 0 ? static_cast<int32_t>(tape.embedding.rows) : tape.buffers[logits]; }
  int32_t hidden_size() const { return tape.buffers[hidden]; }
  bool is_head(const Phase& phase) const {
    return logits >= 0 && phase.joint >= 0 && tape.ops[phase.joint].code == OpCode::linear &&
           tape.ops[phase.joint].operand[2] == logits;
  }
};

int32_t output_of(const Op& op);  // the buffer that it writes
OpCode find_op(const std::string& name);  // throws std::invalid_argument

}  // namespace tgi
