// Counter-based noise as engine/sample/noise.py defines it: a pure function of (seed, position, token id).
#pragma once
#include <cmath>
#include <cstdint>

namespace tgi {

// The random words of one row: Philox4x32-10, key = seed, counter = (id / 4, position, 0, 0), word id % 4.
class Noise {
 public:
  static constexpr int BATCH = 64;

  Noise(uint64_t seed, uint32_t position);

  uint32_t word(int32_t id) const;
  void words(int32_t first, uint32_t* out) const;  // of the ids first .. first + BATCH; first is a multiple of 4

 private:
  static constexpr int ROUNDS = 10;
  uint64_t key_[ROUNDS][2][2];  // two words for each round, each twice: two counters are encrypted at once
  uint32_t position_;
};

// The Gumbel number of a word w: -log(-log(u)), u = (w + 1/2) / 2^32.
inline double gumbel(uint32_t word) { return -std::log(-std::log((word + 0.5) * 0x1p-32)); }

}  // namespace tgi
