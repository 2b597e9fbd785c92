#include "attention_plan.h"

#include <algorithm>

namespace tgi {
namespace {

// Rows (queries times heads of a group) of a unit: enough that what is read of the cache is read for many.
constexpr int UNIT_ROWS = 192;
constexpr int MIN_ROWS = 48;         // of a unit made smaller so that there are units for all threads
constexpr int UNITS_PER_THREAD = 4;  // below, threads would wait for each other

int partitions_of(const Chunk& chunk, int block_size) {
  const int slots = (block_size + LANES - 1) / LANES * LANES, last = chunk.end() - 1;
  const int64_t padded = int64_t{last} / block_size * slots + last % block_size + 1;
  return static_cast<int>((padded + PARTITION - 1) / PARTITION);
}

int64_t cost(const Batch& batch, const AttentionUnit& unit) {
  const Chunk& chunk = batch.chunks[unit.chunk];
  return int64_t{chunk.bidirectional ? chunk.end() : chunk.start + unit.query + unit.queries} * unit.queries;
}

// Queries of a unit: UNIT_ROWS rows, or fewer where that leaves threads without work.
int queries_of_unit(const Batch& batch, int group, int kv_heads, int threads) {
  const int64_t rows = int64_t{batch.rows()} * group * kv_heads;
  const int64_t fair = rows / (int64_t{threads} * UNITS_PER_THREAD);
  return std::max(1, static_cast<int>(std::clamp<int64_t>(fair, MIN_ROWS, UNIT_ROWS)) / group);
}

}  // namespace

void AttentionPlan::make(const Batch& batch, const Geometry& geometry, int threads) {
  const int group = geometry.num_heads / geometry.num_kv_heads;
  const int queries = queries_of_unit(batch, group, geometry.num_kv_heads, threads);
  units.clear();
  tasks.clear();
  partials.clear();
  int most = 1;
  for (int chunk = 0; chunk < static_cast<int>(batch.chunks.size()); chunk++) {
    const int count = batch.chunks[chunk].count();
    most = std::max(most, partitions_of(batch.chunks[chunk], geometry.block_size));
    for (int query = 0; query < count; query += queries)
      for (int head = 0; head < geometry.num_kv_heads; head++)
        units.push_back({chunk, head, query, std::min(queries, count - query), 0, 0, 0});
  }
  if (threads > 1)
    std::stable_sort(units.begin(), units.end(), [&](const AttentionUnit& a, const AttentionUnit& b) {
      return cost(batch, a) > cost(batch, b);
    });
  const bool few = static_cast<int>(units.size()) < UNITS_PER_THREAD * threads;
  if (threads > 1 && few && most > 1) split(batch, geometry, threads);
  self_contained = tasks.empty() && batch.rows() == static_cast<int>(batch.chunks.size());
}

// Every unit becomes a task of several units, each a run of partitions. The cuts between partitions are where they
// would be in any other batch, so the numbers are the same.
void AttentionPlan::split(const Batch& batch, const Geometry& geometry, int threads) {
  tasks.swap(units);
  units.clear();
  const int pieces = (UNITS_PER_THREAD * threads + static_cast<int>(tasks.size()) - 1) / static_cast<int>(tasks.size());
  const int group = geometry.num_heads / geometry.num_kv_heads;
  const size_t width = static_cast<size_t>((geometry.head_dim + 15) / 16 * 16 + 16);
  std::vector<size_t> places;
  size_t floats = 0;
  for (AttentionUnit& task : tasks) {
    task.partitions = partitions_of(batch.chunks[task.chunk], geometry.block_size);
    task.partial = static_cast<int64_t>(places.size());
    for (int i = 0; i < task.partitions; i++) {
      places.push_back(floats);
      floats += static_cast<size_t>(task.queries) * static_cast<size_t>(group) * width;
    }
    const int run = (task.partitions + pieces - 1) / pieces;
    for (int first = 0; first < task.partitions; first += run) {
      AttentionUnit unit = task;
      unit.partition = first;
      unit.partitions = std::min(run, task.partitions - first);
      unit.partial += first;
      units.push_back(unit);
    }
  }
  if (!floats_ || floats_->size() < floats * sizeof(float)) floats_ = std::make_unique<Memory>(floats * sizeof(float));
  for (size_t place : places) partials.push_back({reinterpret_cast<float*>(floats_->data()) + place});
}

}  // namespace tgi
