#include "noise.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tgi {
namespace {

constexpr uint32_t MULTIPLIERS[2] = {0xD2511F53, 0xCD9E8D57};
constexpr uint32_t WEYL[2] = {0x9E3779B9, 0xBB67AE85};

typedef uint64_t Pair __attribute__((vector_size(16)));

// The products of the low halves. The high halves of counters are never looked at and hold anything.
inline Pair multiply(Pair x, uint32_t multiplier) {
#if defined(__SSE2__)
  return (Pair)_mm_mul_epu32((__m128i)x, (__m128i)Pair{multiplier, multiplier});
#else
  return (x & 0xFFFFFFFF) * multiplier;
#endif
}

}  // namespace

Noise::Noise(uint64_t seed, uint32_t position) : position_(position) {
  uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  for (auto& round : key_)
    for (int i = 0; i < 2; i++) {
      round[i][0] = round[i][1] = key[i];
      key[i] += WEYL[i];
    }
}

uint32_t Noise::word(int32_t id) const {
  uint32_t c[4] = {(uint32_t)id / 4, position_, 0, 0};
  for (auto& key : key_) {
    uint64_t first = (uint64_t)c[0] * MULTIPLIERS[0], second = (uint64_t)c[2] * MULTIPLIERS[1];
    c[0] = (uint32_t)(second >> 32) ^ c[1] ^ (uint32_t)key[0][0];
    c[1] = (uint32_t)second;
    c[2] = (uint32_t)(first >> 32) ^ c[3] ^ (uint32_t)key[1][0];
    c[3] = (uint32_t)first;
  }
  return c[id % 4];
}

void Noise::words(int32_t first, uint32_t* out) const {
  constexpr int PAIRS = 2;  // at once, to hide the latency of the products
  for (int32_t group = first / 4; group < first / 4 + BATCH / 4; group += 2 * PAIRS, out += 8 * PAIRS) {
    Pair c[4][PAIRS];
    for (int i = 0; i < PAIRS; i++) {
      c[0][i] = Pair{(uint64_t)(group + 2 * i), (uint64_t)(group + 2 * i + 1)};
      c[1][i] = Pair{position_, position_};
      c[2][i] = c[3][i] = Pair{0, 0};
    }
    for (auto& words : key_) {
      Pair key[2];
      memcpy(key, words, sizeof key);
      for (int i = 0; i < PAIRS; i++) {
        Pair one = multiply(c[0][i], MULTIPLIERS[0]), two = multiply(c[2][i], MULTIPLIERS[1]);
        c[0][i] = (two >> 32) ^ c[1][i] ^ key[0];
        c[1][i] = two;
        c[2][i] = (one >> 32) ^ c[3][i] ^ key[1];
        c[3][i] = one;
      }
    }
    for (int i = 0; i < PAIRS; i++) {
      auto low = [&](int j) { return c[j][i] & 0xFFFFFFFF; };
      Pair even = low(0) | c[1][i] << 32, odd = low(2) | c[3][i] << 32;  // two words of each of two groups
      Pair first = {even[0], odd[0]}, second = {even[1], odd[1]};
      memcpy(out + 8 * i, &first, sizeof first);
      memcpy(out + 8 * i + 4, &second, sizeof second);
    }
  }
}

}  // namespace tgi
