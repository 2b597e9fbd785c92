#include "executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tgi {
namespace {

constexpr int CHUNKS_PER_THREAD = 4;  // of the panels of a linear
constexpr size_t CHUNK_BYTES = size_t{1} << 17;  // of a single row's chunk at most: the last one is waited for

}  // namespace

Executor::Executor(Pool& pool, const Kernels& kernels, const Program& program)
    : pool_(pool),
      kernels_(kernels),
      program_(program),
      pages_(program.geometry.kv_kind, program.geometry.num_layers, program.geometry.num_blocks,
             program.geometry.block_size, program.geometry.num_kv_heads, program.geometry.head_dim),
      space_(program, kernels, pool.threads()) {}

void Executor::run(const Batch& batch, const Look& look) {
  if (batch.rows() == 0) return;
  space_.reserve(batch.rows());
  plan_.make(batch, program_.geometry, pool_.threads());
  if (batch.rows() == 1) rotations(batch, 0, 1);
  pool_.run([&](int thread) { walk(batch, look, thread); });
}

Executor::Part Executor::part(int thread, int rows, int first) const {
  if (rows == 1) return {thread, 1, 0, 1, first};
  const int64_t count = rows, threads = pool_.threads();
  return {thread, rows, static_cast<int>(count * thread / threads), static_cast<int>(count * (thread + 1) / threads),
          first};
}

void Executor::walk(const Batch& batch, const Look& look, int thread) {
  const std::vector<Op>& ops = program_.tape.ops;
  const Part all = part(thread, batch.rows());
  if (!all.single()) rotations(batch, all.begin, all.end);
  auto run_phase = [&](const Phase& phase, const Part& own) {
    row_ops(batch, own, phase);
    if (phase.joint < 0) return;
    const Op& op = ops[phase.joint];
    const Op* next = phase.joint + 1 < static_cast<int>(ops.size()) ? &op + 1 : nullptr;
    if (op.code == OpCode::linear) return linear(own, op, next);
    if (op.code != OpCode::qkv) return;
    if (!own.single() && phase.begin < phase.end) pool_.barrier();
    attention(batch, own, op, *next);
  };
  const auto& phases = program_.phases;
  size_t head = 0;
  for (; head < phases.size() && !phases[head].scored; head++) run_phase(phases[head], all);
  if (batch.scored.empty()) return;
  if (!all.single()) pool_.barrier();

  const int count = static_cast<int>(batch.scored.size());
  for (int first = 0; first < count; first += Workspace::TILE_ROWS) {
    const Part tile = part(thread, std::min(Workspace::TILE_ROWS, count - first), first);
    const auto scored = batch.scored.begin() + first;
    const bool wanted = std::any_of(scored, scored + tile.rows, [](const ScoredRow& row) { return row.hidden < 0; });
    for (size_t i = head - 1; i < phases.size(); i++) {
      if (phases[i].scored) {
        if (wanted || !program_.is_head(phases[i])) run_phase(phases[i], tile);
        else row_ops(batch, tile, phases[i]);
      }
      if (phases[i].joint >= 0 && ops[phases[i].joint].code == OpCode::gather)
        gather(batch, all, tile, ops[phases[i].joint]);
    }
    if (!wanted && !tile.single()) pool_.barrier();  // which a head would have done
    pool_.share(tile.rows, 1, [&](int begin, int end) {
      for (int row = begin; row < end; row++) {
        const int buffer = scored[row].hidden < 0 ? program_.logits : program_.hidden;
        look(first + row, row_of(tile, buffer, row), thread);
      }
    });
  }
}

float* Executor::row_of(const Part& part, int buffer, int row) const {
  if (part.single() && !program_.joint[buffer]) return space_.own(part.thread, buffer);
  return space_.shared(buffer) + row * space_.stride(buffer);
}

const Activations& Executor::prepared(const Part& part) const {
  return part.single() ? space_.own_prepared(part.thread) : space_.prepared();
}

// With a single row all threads do the row-wise ops; but not those that change what all threads share.
bool Executor::together(const Part& part, const Op& op) const {
  return part.single() && program_.joint[output_of(op)];
}

// ---- Row-wise ops --------------------------------------------------------------------------------------------------

// The ops of a phase, and then the preparation of its linear, row by row.
void Executor::row_ops(const Batch& batch, const Part& part, const Phase& phase) {
  const Tape& tape = program_.tape;
  const Op* joint = phase.joint < 0 ? nullptr : &tape.ops[phase.joint];
  const Op* linear = joint && joint->code == OpCode::linear ? joint : nullptr;
  for (int row = part.begin; row < part.end; row++) {
    for (int at = phase.begin; at < phase.end; at++) {
      const Op& op = tape.ops[at];
      const bool shared = together(part, op);
      if (!shared || part.thread == 0) row_op(batch, part, op, row);
      if (shared) pool_.barrier();
    }
    if (linear)
      kernels_.prepare(*tape.linears[linear->operand[1]], row_of(part, linear->operand[0], row), row, part.rows,
                       prepared(part));
  }
}

void Executor::row_op(const Batch& batch, const Part& part, const Op& op, int row) {
  switch (op.code) {
    case OpCode::embed: return embed(batch, part, op, row);
    case OpCode::norm: {
      const auto& [in, in_offset, out, out_offset, width, weight, bias, kind] = op.operand;
      return kernels_.norm(static_cast<Norm>(kind), row_of(part, in, row) + in_offset, program_.vector(weight),
                           program_.vector(bias), op.number[0], row_of(part, out, row) + out_offset, width);
    }
    case OpCode::activate: {
      const auto& [in, out, width, kind, gated, a, b, c] = op.operand;
      const float* x = row_of(part, in, row);
      return kernels_.activate(static_cast<Activation>(kind), x, gated ? x + width : nullptr, row_of(part, out, row),
                               width);
    }
    case OpCode::add: {
      const auto& [x, y, width, a, b, c, d, e] = op.operand;
      return kernels_.add(row_of(part, x, row), row_of(part, y, row), op.number[0], width);
    }
    default: return;
  }
}

void Executor::embed(const Batch& batch, const Part& part, const Op& op, int row) {
  const Table &table = program_.tape.embedding, &positions = program_.tape.positions;
  float* x = row_of(part, op.operand[0], row);
  kernels_.embed(table.row(batch.tokens[row]), table.kind, op.number[0], x, table.width);
  if (!op.operand[1]) return;
  float* position = space_.scratch(part.thread);
  kernels_.embed(positions.row(batch.positions[row]), positions.kind, 1, position, table.width);
  kernels_.add(x, position, 1, table.width);
}

// Rows of the step to the rows of a tile.
void Executor::gather(const Batch& batch, const Part& all, const Part& tile, const Op& op) {
  const auto& [in, out, width, a, b, c, d, e] = op.operand;
  for (int row = tile.begin; row < tile.end; row++)
    std::memcpy(row_of(tile, out, row), row_of(all, in, batch.scored[tile.first + row].row),
                static_cast<size_t>(width) * sizeof(float));
}

void Executor::rotations(const Batch& batch, int begin, int end) {
  for (int index = 0; index < static_cast<int>(program_.tape.ropes.size()); index++) {
    const Rope& rope = program_.tape.ropes[index];
    for (int row = begin; row < end; row++) {
      const float position = static_cast<float>(batch.positions[row]);
      float *cosines = space_.cosines(index, row), *sines = space_.sines(index, row);
      for (size_t i = 0; i < rope.inv_freq.size(); i++) {
        const float angle = position * rope.inv_freq[i];
        cosines[i] = std::cos(angle) * rope.attention_factor;
        sines[i] = std::sin(angle) * rope.attention_factor;
      }
    }
  }
}

// ---- Linears -------------------------------------------------------------------------------------------------------

void Executor::linear(const Part& part, const Op& op, const Op* next) {
  const auto& [in, index, out, a, b, c, d, e] = op.operand;
  const Linear& linear = *program_.tape.linears[index];
  float* to = space_.shared(out);
  const int64_t stride = space_.stride(out);
  if (!part.single()) pool_.barrier();
  int grain = linear.panels / (pool_.threads() * CHUNKS_PER_THREAD);
  if (part.single()) grain = std::min(grain, static_cast<int>(CHUNK_BYTES / linear.panel_bytes));
  pool_.share(linear.panels, std::max(1, grain), [&](int begin, int end) {
    kernels_.multiply(linear, prepared(part), part.rows, begin, end, to, stride);
    if (!next || next->code != OpCode::scale_cap) return;
    const int first = begin * PANEL, width = std::min(end * PANEL, next->operand[1]) - first;
    for (int row = 0; row < part.rows; row++)
      kernels_.scale_cap(to + row * stride + first, next->number[0], next->number[1], width);
  });
}

// ---- Attention -----------------------------------------------------------------------------------------------------

void Executor::attention(const Batch& batch, const Part& part, const Op& qkv, const Op& attend) {
  const int kv_heads = program_.geometry.num_kv_heads;
  if (plan_.self_contained) {
    pool_.share(static_cast<int>(plan_.units.size()), 1, [&](int begin, int end) {
      for (int i = begin; i < end; i++) {
        const AttentionUnit& unit = plan_.units[i];
        turn(batch, qkv, batch.first_row[unit.chunk], unit.kv_head);
        attend_unit(batch, part, attend, unit);
      }
    });
    return;
  }
  pool_.share(part.rows * kv_heads, std::max(1, part.rows / (pool_.threads() * CHUNKS_PER_THREAD)) * kv_heads,
              [&](int begin, int end) {
                for (int i = begin; i < end; i++) turn(batch, qkv, i / kv_heads, i % kv_heads);
              });
  pool_.share(static_cast<int>(plan_.units.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; i++) attend_unit(batch, part, attend, plan_.units[i]);
  });
  if (plan_.tasks.empty()) return;
  pool_.share(static_cast<int>(plan_.tasks.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; i++) {
      const AttentionUnit& unit = plan_.tasks[i];
      kernels_.combine(task(batch, attend, unit), plan_.partials.data() + unit.partial, unit.partitions);
    }
  });
}

// Norms, rotation and scale of one KV head of a row and of the queries that share it; writes its key and value.
void Executor::turn(const Batch& batch, const Op& qkv, int row, int kv_head) {
  const auto& [buffer, layer, rope, q_norm, k_norm, q_bias, k_bias, kind] = qkv.operand;
  const Geometry& g = program_.geometry;
  const int group = g.num_heads / g.num_kv_heads, dim = g.head_dim;
  float* queries = space_.shared(buffer) + row * space_.stride(buffer);
  float *keys = queries + g.num_heads * dim, *values = keys + g.num_kv_heads * dim;
  float* key = keys + kv_head * dim;
  const int half = rope < 0 ? 0 : static_cast<int>(program_.tape.ropes[rope].inv_freq.size());
  const int interleaved = rope >= 0 && program_.tape.ropes[rope].interleaved;
  const float* cosines = rope < 0 ? nullptr : space_.cosines(rope, row);
  const float* sines = rope < 0 ? nullptr : space_.sines(rope, row);
  auto finish = [&](float* head, int norm, int bias, float scale) {
    if (norm >= 0)
      kernels_.norm(static_cast<Norm>(kind), head, program_.vector(norm), program_.vector(bias), qkv.number[0], head,
                    dim);
    if (half > 0)
      kernels_.rotate(head, cosines, sines, half, interleaved, scale, dim);
    else if (scale != 1)
      kernels_.scale_cap(head, scale, 0, dim);
  };
  for (int i = kv_head * group; i < (kv_head + 1) * group; i++)
    finish(queries + i * dim, q_norm, q_bias, qkv.number[1]);
  finish(key, k_norm, k_bias, 1);
  const int position = batch.positions[row];
  const int block = batch.chunks[batch.chunk_of[row]].blocks[position / g.block_size];
  kernels_.store_kv(pages_.layer(layer), block, position % g.block_size, kv_head, key, values + kv_head * dim);
}

AttentionTask Executor::task(const Batch& batch, const Op& attend, const AttentionUnit& unit) const {
  const auto& [in, out, layer, window, a, b, c, d] = attend.operand;
  const Geometry& g = program_.geometry;
  const Chunk& chunk = batch.chunks[unit.chunk];
  const int group = g.num_heads / g.num_kv_heads;
  const int64_t row = batch.first_row[unit.chunk] + unit.query;
  const int64_t head = int64_t{unit.kv_head} * group * g.head_dim;
  AttentionTask task{};
  task.cache = &pages_.layer(layer);
  task.blocks = chunk.blocks.data();
  task.kv_head = unit.kv_head;
  task.group = group;
  task.start = chunk.start + unit.query;
  task.num_queries = unit.queries;
  task.length = chunk.bidirectional ? chunk.end() : task.start + unit.queries;
  task.causal = !chunk.bidirectional;
  task.window = window;
  task.softcap = attend.number[0];
  task.queries = space_.shared(in) + row * space_.stride(in) + head;
  task.query_stride = space_.stride(in);
  task.out = space_.shared(out) + row * space_.stride(out) + head;
  task.out_stride = space_.stride(out);
  return task;
}

void Executor::attend_unit(const Batch& batch, const Part& part, const Op& attend, const AttentionUnit& unit) {
  float* scratch = space_.scratch(part.thread);
  if (unit.partitions == 0) return kernels_.attend(task(batch, attend, unit), scratch);
  kernels_.attend_partial(task(batch, attend, unit), unit.partition, unit.partition + unit.partitions,
                          plan_.partials.data() + unit.partial, scratch);
}

}  // namespace tgi
