// How the attention of one step is shared out: in units that one thread computes by itself.
#pragma once
#include <memory>
#include <vector>

#include "batch.h"
#include "memory.h"

namespace tgi {

// Consecutive queries of one chunk and KV head. Where `partitions` is not 0, only those from `partition` on.
struct AttentionUnit {
  int32_t chunk, kv_head;
  int32_t query, queries;
  int32_t partition, partitions;
  int64_t partial;  // the place in AttentionPlan::partials of the first one
};

struct AttentionPlan {
  std::vector<AttentionUnit> units;  // the longest first
  // Where the units are parts of tasks, to be combined after all are done:
  std::vector<AttentionUnit> tasks;
  std::vector<AttentionPartial> partials;
  // One row a chunk, and no parts: a unit needs no key or value but those that it writes itself.
  bool self_contained = false;

  void make(const Batch& batch, const Geometry& geometry, int threads);

 private:
  void split(const Batch& batch, const Geometry& geometry, int threads);

  std::unique_ptr<Memory> floats_;
};

}  // namespace tgi
