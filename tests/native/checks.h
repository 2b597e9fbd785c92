// Checks that count and go on, random numbers that are the same everywhere, and memory whose end a sanitizer watches.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <new>
#include <string>

#include "kernels.h"

namespace tgi::tests {

constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();
constexpr float INFINITE = std::numeric_limits<float>::infinity();
constexpr float UNTOUCHED = -777.0f;  // what lies where nothing may be written

// Counts one check. Where it does not hold, prints what is said and where; after many of those the program ends.
bool check(bool holds, const char* format, ...) __attribute__((format(printf, 2, 3)));
int64_t checks_made();
int64_t checks_failed();

// Names what the checks in its scope are about.
class Where {
 public:
  explicit Where(const char* format, ...) __attribute__((format(printf, 2, 3)));
  ~Where();
  Where(const Where&) = delete;
  Where& operator=(const Where&) = delete;

 private:
  size_t outer_;
};

// SplitMix64 (Steele, Lea, Flood, 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  int below(int count) { return static_cast<int>(next() % static_cast<uint64_t>(count)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  bool chance(int one_in) { return below(one_in) == 0; }
  template <typename T>
  T pick(std::initializer_list<T> from) {
    return from.begin()[below(static_cast<int>(from.size()))];
  }
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  // Nearly normal, of variance 1: the sum of four uniform numbers.
  float normal() { return (uniform() + uniform() + uniform() + uniform() - 2.0f) * 1.7320508f; }

 private:
  uint64_t state_;
};

// Aligned as the kernels want it, and not one byte longer than asked for.
template <typename T>
class Array {
 public:
  explicit Array(size_t size, T value = T{})
      : data_(static_cast<T*>(::operator new(std::max<size_t>(size, 1) * sizeof(T), std::align_val_t{64}))),
        size_(size) {
    std::fill_n(data_, size, value);
  }
  Array(const T* from, size_t size) : Array(size) { std::copy_n(from, size, data_); }
  ~Array() { ::operator delete(data_, std::align_val_t{64}); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }

 private:
  T* data_;
  size_t size_;
};

// Rows of floats as the kernels want them: each padded to whole vectors of 16; the padding is no number.
class Rows {
 public:
  Rows(int count, int width)
      : width_(width), stride_((width + 15) / 16 * 16), floats_(size_t(count) * size_t(stride_), NOT_A_NUMBER) {}
  Rows(int count, int width, Random& random) : Rows(count, width) {
    for (int i = 0; i < count; i++) fill(i, random);
  }
  float* operator[](int i) { return floats_.data() + size_t(i) * size_t(stride_); }
  int width() const { return width_; }
  void fill(int i, Random& random) {
    for (int j = 0; j < width_; j++) (*this)[i][j] = random.normal();
  }
  // The padding of every row as it was made.
  bool padding_is_untouched() const {
    for (size_t i = 0; i < floats_.size(); i++)
      if (static_cast<int>(i) % stride_ >= width_ && floats_[i] == floats_[i]) return false;
    return true;
  }

 private:
  int width_, stride_;
  Array<float> floats_;
};

inline bool same_bytes(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}
bool any_nan(const float* x, size_t count);
bool all_nan(const float* x, size_t count);

// What is proved of one instruction set; `effort` is the amount of random cases, 1 or more.
void check_rows(const Kernels& kernels, int effort);
void check_linears(const Kernels& kernels, int effort);
void check_attention(const Kernels& kernels, int effort);
void check_runner(const Kernels& kernels, int effort);
void check_sampler(const Kernels& kernels, int effort);
// Of all of them together, or of none.
void check_linears_agree(int effort);
void check_pack(int effort);
void check_pool(int effort);

}  // namespace tgi::tests
