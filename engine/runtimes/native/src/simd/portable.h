// Plain C++ on vectors of 4: runs everywhere. simd/neon.h builds on it.
#define W 4
#include "vector.h"

#if !defined(SIMD_FMA)
INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }  // two roundings, everywhere alike (-ffp-contract=off)
#endif
INLINE void fma_into(vf& acc, vf a, vf b) { acc = fma(a, b, acc); }
INLINE void fma_into(vf& acc, const float* x, vf b) { acc = fma(set1(*x), b, acc); }
INLINE vf maximum(vf a, vf b) { return select(a > b, a, b); }
INLINE vf minimum(vf a, vf b) { return select(a < b, a, b); }
INLINE vf square_root(vf x) {
  vf y;
  for (int i = 0; i < W; i++) y[i] = __builtin_sqrtf(x[i]);
  return y;
}
// Nearest even through the float's own rounding; the numbers that are rounded here are small.
INLINE vf round_even(vf x) {
  vf big = as_floats((as_words(x) & (int32_t)0x80000000) | set1_words(0x4b000000));  // 2^23 with the sign of x
  vf rounded = (x + big) - big;
  return select((as_words(x) & 0x7fffffff) < 0x4b000000, rounded, x);
}
INLINE vi to_words(vf x) { return __builtin_convertvector(round_even(x), vi); }
INLINE vf to_floats(vi x) { return __builtin_convertvector(x, vf); }
INLINE vf load_bf16(const uint16_t* p) {
  vi words;
  for (int i = 0; i < W; i++) words[i] = (int32_t)((uint32_t)p[i] << 16);
  return as_floats(words);
}
INLINE float from_f16(uint32_t h) {
  uint32_t sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
  if (exponent == 31) bits = 0x7f800000 | mantissa << 13;
  else if (exponent) bits = (exponent + 112) << 23 | mantissa << 13;
  else {
    float tiny = (float)mantissa * 0x1p-24f;
    __builtin_memcpy(&bits, &tiny, 4);
  }
  bits |= sign;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
INLINE vf load_f16(const uint16_t* p) {
  vf x;
  for (int i = 0; i < W; i++) x[i] = from_f16(p[i]);
  return x;
}
INLINE vf f16_low(vi words) {
  vf x;
  for (int i = 0; i < W; i++) x[i] = from_f16((uint32_t)words[i] & 0xffff);
  return x;
}
INLINE vf f16_high(vi words) {
  vf x;
  for (int i = 0; i < W; i++) x[i] = from_f16((uint32_t)words[i] >> 16);
  return x;
}
INLINE vi load_u8_words(const uint8_t* p) {
  vi x;
  for (int i = 0; i < W; i++) x[i] = p[i];
  return x;
}
INLINE void store_i8(int8_t* p, vi x) {
  for (int i = 0; i < W; i++) p[i] = (int8_t)x[i];
}
INLINE void store_bf16(uint16_t* p, vf x) {
  for (int i = 0; i < W; i++) p[i] = to_bf16(x[i]);
}
#if !defined(SIMD_LOOKUP)
// The numbers of a table of 16 that the low 4 bits of each word name.
INLINE vf lookup(const float* table, vi index) {
  vf x;
  for (int i = 0; i < W; i++) x[i] = table[index[i] & 15];
  return x;
}
#endif
INLINE float reduce_add(vf x) { return (x[0] + x[2]) + (x[1] + x[3]); }
INLINE float reduce_max(vf x) {
  float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
}
INLINE int32_t reduce_add_words(vi x) { return x[0] + x[1] + x[2] + x[3]; }
INLINE vf scale_by_power_of_2(vf x, vf n) { return x * as_floats((to_words(n) + 127) << 23); }  // n in -126..127
INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

#if !defined(SIMD_DOT)
// Weights as dot_weights takes them, and the zero that is left in them.
constexpr int WEIGHT_ZERO = 128;
INLINE vi weight_bytes(vi stored) { return stored; }
// acc += the sums of 4 products: w unsigned bytes, x signed bytes
INLINE void dot(vi& acc, vi w, vi x) {
  UNROLL for (int j = 0; j < 4; j++) acc += (w >> (8 * j) & 255) * ((x << (24 - 8 * j)) >> 24);
}
INLINE void dot_weights(vi& acc, vi w, vi x) { dot(acc, w, x); }
INLINE void dot_nibbles(vi& acc, vi w, vi x) { dot(acc, w, x); }
#endif
INLINE void dot(vi& acc, vi w, const int32_t* x) { dot(acc, w, set1_words(*x)); }
constexpr bool NARROW_NIBBLES = false;
constexpr bool DOTS_OF_BYTES = false;
INLINE vi nibble_sums(vi acc) { return acc; }
