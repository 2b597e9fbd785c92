// Runs a program on a batch: all threads of the pool walk the tape together.
#pragma once
#include <functional>

#include "attention_plan.h"
#include "batch.h"
#include "kv_pages.h"
#include "pool.h"
#include "program.h"
#include "workspace.h"

namespace tgi {

class Executor {
 public:
  Executor(Pool& pool, const Kernels& kernels, const Program& program);

  // What is done with a row of logits, or a hidden state, on any of the threads: `index` counts the scored rows of the
  // batch.
  using Look = std::function<void(int index, const float* numbers, int thread)>;

  void run(const Batch& batch, const Look& look);
  size_t kv_bytes() const { return pages_.bytes(); }

 private:
  // One thread in one part of a step: all rows, or a tile of the gathered ones.
  struct Part {
    int thread;
    int rows;
    int begin, end;  // the rows that are this thread's own
    int first;       // of the tile among all gathered rows
    bool single() const { return rows == 1; }
  };

  Part part(int thread, int rows, int first = 0) const;
  void walk(const Batch& batch, const Look& look, int thread);
  void row_ops(const Batch& batch, const Part& part, const Phase& phase);
  void row_op(const Batch& batch, const Part& part, const Op& op, int row);
  void embed(const Batch& batch, const Part& part, const Op& op, int row);
  void linear(const Part& part, const Op& op, const Op* next);
  void gather(const Batch& batch, const Part& all, const Part& tile, const Op& op);
  void attention(const Batch& batch, const Part& part, const Op& qkv, const Op& attend);
  void turn(const Batch& batch, const Op& qkv, int row, int kv_head);
  void attend_unit(const Batch& batch, const Part& part, const Op& attend, const AttentionUnit& unit);
  void rotations(const Batch& batch, int begin, int end);
  AttentionTask task(const Batch& batch, const Op& attend, const AttentionUnit& unit) const;
  float* row_of(const Part& part, int buffer, int row) const;
  const Activations& prepared(const Part& part) const;
  bool together(const Part& part, const Op& op) const;

  Pool& pool_;
  const Kernels& kernels_;
  const Program& program_;
  KvPages pages_;
  Workspace space_;
  AttentionPlan plan_;
};

}  // namespace tgi
