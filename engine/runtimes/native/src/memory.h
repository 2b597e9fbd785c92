// Memory of the weights and of the KV cache.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace tgi {

// Bytes that are 64-byte aligned, zero, and readable 4096 bytes past the end. With `huge` they lie in huge pages where
// the system has them, close to those of other Memory, so that also small ones get some: what is read whole in every
// step. Without, the system commits them a small page at a time: what is written bit by bit.
class Memory {
 public:
  explicit Memory(size_t bytes, bool huge = true);  // throws std::bad_alloc
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  class Mapping;
  std::shared_ptr<Mapping> mapping_;
  uint8_t* data_;
  size_t size_;
};

}  // namespace tgi
