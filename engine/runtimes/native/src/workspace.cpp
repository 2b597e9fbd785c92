#include "workspace.h"

#include <algorithm>

namespace tgi {

// Pieces of one Memory, each from a cache line of its own. Goes over them twice: to add up their sizes, then to place
// them.
class Workspace::Layout {
 public:
  explicit Layout(uint8_t* base) : base_(base) {}
  size_t bytes() const { return bytes_; }

  template <typename T>
  T* take(size_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + bytes_) : nullptr;
    bytes_ += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }

  template <typename Place>
  static std::unique_ptr<Memory> fill(const Place& place) {
    Layout sizes(nullptr);
    place(sizes);
    auto memory = std::make_unique<Memory>(sizes.bytes());
    Layout places(memory->data());
    place(places);
    return memory;
  }

 private:
  uint8_t* base_;
  size_t bytes_ = 0;
};

Workspace::Workspace(const Program& program, const Kernels& kernels, int threads)
    : program_(program), threads_(static_cast<size_t>(threads)), shared_(program.tape.buffers.size()) {
  for (int width : program.tape.buffers) strides_.push_back((int64_t{width} + PANEL - 1) / PANEL * PANEL);
  for (const Linear* linear : program.tape.linears) {
    inputs_ = std::max(inputs_, static_cast<size_t>(linear->padded_inputs) + 64);
    groups_ = std::max(groups_, linear->group ? static_cast<size_t>(linear->padded_inputs / linear->group) : 1);
  }
  for (const Rope& rope : program.tape.ropes)
    rope_width_ = std::max(rope_width_, (rope.inv_freq.size() + 15) / 16 * 16);
  const Geometry& g = program.geometry;
  KvCache sizes{};
  sizes.block_size = g.block_size;
  sizes.slots = (g.block_size + LANES - 1) / LANES * LANES;
  sizes.kv_heads = g.num_kv_heads;
  sizes.head_dim = g.head_dim;
  sizes.dim = (g.head_dim + 15) / 16 * 16;
  sizes.kind = g.kv_kind;
  const int scratch = std::max(kernels.attention_scratch(sizes, g.num_heads / g.num_kv_heads),
                               program.tape.embedding.width + 16);
  for (Thread& thread : threads_) place_thread(thread, scratch);
}

void Workspace::place_thread(Thread& thread, int scratch) {
  thread.buffers.resize(strides_.size());
  thread.memory = Layout::fill([&](Layout& layout) {
    for (size_t i = 0; i < strides_.size(); i++)
      if (!program_.joint[i]) thread.buffers[i] = layout.take<float>(static_cast<size_t>(strides_[i]));
    place_prepared(layout, 1, thread.prepared);
    thread.scratch = layout.take<float>(static_cast<size_t>(scratch));
  });
}

void Workspace::place_prepared(Layout& layout, size_t rows, Activations& out) const {
  out.data = layout.take<float>(rows * inputs_);
  out.scales = layout.take<float>(rows * groups_);
  out.sums = layout.take<int32_t>(rows * groups_);
}

void Workspace::reserve(int rows) {
  if (rows <= rows_) return;
  rows_ = 0;
  memory_.reset();  // before the next is taken
  const size_t tile = TILE_ROWS, count = (static_cast<size_t>(rows) + tile - 1) / tile * tile;
  memory_ = Layout::fill([&](Layout& layout) {
    for (size_t i = 0; i < strides_.size(); i++)
      shared_[i] = layout.take<float>(static_cast<size_t>(strides_[i]) * (program_.scored[i] ? tile : count));
    place_prepared(layout, count, prepared_);
    rotations_ = layout.take<float>(2 * program_.tape.ropes.size() * count * rope_width_);
  });
  rows_ = static_cast<int>(count);
}

}  // namespace tgi
