// Where a step keeps its numbers: the buffers of the tape, the inputs prepared for a linear, cosines and sines.
//
// A buffer has one row for each token. Where a step has one row only, every thread computes the row-wise ops by itself,
// in buffers of its own; only what all threads write together (linears, attention) is shared then.
#pragma once
#include <memory>
#include <vector>

#include "memory.h"
#include "program.h"

namespace tgi {

class Workspace {
 public:
  static constexpr int TILE_ROWS = 64;  // gathered rows that are worked on at once: vocabularies are large

  Workspace(const Program& program, const Kernels& kernels, int threads);

  // Make room for that many rows. Throws std::bad_alloc.
  void reserve(int rows);

  int64_t stride(int buffer) const { return strides_[buffer]; }
  float* shared(int buffer) const { return shared_[buffer]; }                         // [rows][stride]
  float* own(int thread, int buffer) const { return threads_[thread].buffers[buffer]; }  // one row
  const Activations& prepared() const { return prepared_; }
  const Activations& own_prepared(int thread) const { return threads_[thread].prepared; }
  float* scratch(int thread) const { return threads_[thread].scratch; }  // for attention, or one row of the embedding

  // Cosines and sines of one position, [rope_width] each, zero-padded.
  float* cosines(int rope, int row) const {
    return rotations_ + (2 * (size_t)rope * (size_t)rows_ + (size_t)row) * rope_width_;
  }
  float* sines(int rope, int row) const { return cosines(rope, row) + (size_t)rows_ * rope_width_; }

 private:
  struct Thread {
    std::unique_ptr<Memory> memory;
    std::vector<float*> buffers;
    Activations prepared;
    float* scratch;
  };
  class Layout;

  void place_thread(Thread& thread, int scratch);
  void place_prepared(Layout& layout, size_t rows, Activations& out) const;

  const Program& program_;
  std::vector<int64_t> strides_;
  size_t inputs_ = 0;  // the most floats of a prepared row
  size_t groups_ = 0;  // and its most scales
  size_t rope_width_ = 0;
  std::vector<Thread> threads_;

  int rows_ = 0;
  std::unique_ptr<Memory> memory_;
  std::vector<float*> shared_;
  Activations prepared_{};
  float* rotations_ = nullptr;
};

}  // namespace tgi
