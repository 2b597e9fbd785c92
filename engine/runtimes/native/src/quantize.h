// The laws by which weights are rounded: each function takes numbers of one output. Written on vectors that every CPU
// has, with every operation in a fixed order, so that all machines make the same weights of a checkpoint.
//
// `n` is a multiple of 4; numbers past the end of a row are zeros. Included by pack.cpp alone.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

namespace tgi {
namespace {

#include "simd/portable.h"

constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();

INLINE vi select_words(vi mask, vi yes, vi no) { return (mask & yes) | (~mask & no); }
INLINE vf clamp(vf x, float low, float high) { return minimum(maximum(x, set1(low)), set1(high)); }
INLINE vf magnitude(vf x) { return as_floats(as_words(x) & 0x7fffffff); }

// ---- 16 and 8-bit floats, rounded to the nearest, ties to even ------------------------------------------------------

INLINE vf widen_f16(const uint16_t* p) {
  vi half;
  for (int i = 0; i < W; i++) half[i] = p[i];
  vf x = as_floats((half & 0x7fff) << 13) * 0x1p112f;  // exact, also for subnormal numbers
  vi special = as_words(x) | (((half & 0x7c00) == 0x7c00) & 0x7f800000);
  return as_floats(special | (half & 0x8000) << 16);
}

INLINE vi round_bf16(vf x) {
  vi words = as_words(x), high = (words >> 16) & 0xffff;
  vi rounded = ((words + 0x7fff + (high & 1)) >> 16) & 0xffff;
  return select_words(magnitude(x) <= std::numeric_limits<float>::infinity(), rounded, high | 0x40);
}

INLINE vi round_f16(vf x) {
  vf size = magnitude(x);
  vi words = as_words(size);
  vi normal = (words + 0xfff + ((words >> 13) & 1) - (112 << 23)) >> 13;
  vi subnormal = as_words(size + 0.5f) - as_words(set1(0.5f));  // the unit in the last place of 1/2 is 2^-24
  vi rounded = select_words(size < 0x1p-14f, subnormal, normal);
  rounded = select_words(size >= 65520.0f, set1_words(0x7c00), rounded);
  rounded = select_words(size <= std::numeric_limits<float>::infinity(), rounded, set1_words(0x7e00));
  return rounded | ((as_words(x) >> 16) & 0x8000);
}

INLINE vi round_e4m3(vf x) {  // finite; what is larger than 448 becomes 448
  vf size = minimum(magnitude(x), set1(448.0f));
  vi words = as_words(size);
  vi normal = (words + 0x7ffff + ((words >> 20) & 1) - (120 << 23)) >> 20;
  vi subnormal = as_words(size + 0x1p14f) - as_words(set1(0x1p14f));
  return select_words(size < 0x1p-6f, subnormal, normal) | ((as_words(x) >> 24) & 0x80);
}

inline uint16_t round_f16(float x) { return (uint16_t)round_f16(set1(x))[0]; }

INLINE void store_bytes(uint8_t* out, vi x) {
  for (int i = 0; i < W; i++) out[i] = (uint8_t)x[i];
}
INLINE void store_halves(uint8_t* out, vi x) {
  uint16_t halves[W];
  for (int i = 0; i < W; i++) halves[i] = (uint16_t)x[i];
  memcpy(out, halves, sizeof halves);
}

// ---- One scale for a whole row -------------------------------------------------------------------------------------

// The largest magnitude, or NaN where a number is not finite.
inline float largest_magnitude(const float* x, int n) {
  vf largest = {}, poison = {};
  for (int i = 0; i < n; i += W) {
    vf size = magnitude(load(x + i));
    largest = maximum(size, largest);
    poison += load(x + i) * 0.0f;  // 0, or NaN from there on
  }
  return reduce_max(largest) + reduce_add(poison);
}

// Bytes of weight / scale + 128, half away from zero. Returns the scale.
inline float quantize_int8(const float* x, int n, int steps, uint8_t* out) {
  float scale = largest_magnitude(x, n) / (float)steps;
  if (!(scale > 0)) {
    memset(out, 128, (size_t)n);
    return scale;
  }
  for (int i = 0; i < n; i += W) {
    vf whole = load(x + i) / scale;
    vf half = as_floats((as_words(whole) & (int32_t)0x80000000) | as_words(set1(0.49999997f)));  // the float below 1/2
    vi code = __builtin_convertvector(clamp(whole + half, -128, 127), vi);
    store_bytes(out + i, code + 128);
  }
  return scale;
}

inline float quantize_fp8(const float* x, int n, uint8_t* out) {
  float scale = largest_magnitude(x, n) / 448.0f;
  if (!(scale > 0)) {
    memset(out, 0, (size_t)n);
    return scale;
  }
  for (int i = 0; i < n; i += W) store_bytes(out + i, round_e4m3(load(x + i) / scale));
  return scale;
}

// ---- A scale for each group ----------------------------------------------------------------------------------------

// The number of largest magnitude, with its sign.
inline float extreme(const float* x, int n) {
  vf high = {}, low = {};
  for (int i = 0; i < n; i += W) {
    high = maximum(load(x + i), high);
    low = minimum(load(x + i), low);
  }
  float top = reduce_max(high), bottom = -reduce_max(-low);
  return -bottom >= top ? bottom : top;
}

// Codes -8..7 that `inverse` gives: how much of the sum of squares the best scale for them explains, and that scale.
struct Fit {
  float explained, scale;
};
inline Fit fit_int4(const float* x, int n, float inverse) {
  vf product = {}, square = {};
  for (int i = 0; i < n; i += W) {
    vf weight = load(x + i), code = round_even(clamp(weight * inverse, -8, 7));
    product += weight * code;
    square += code * code;
  }
  float scale = reduce_add(product) / reduce_add(square);
  return {reduce_add(product) * scale, scale};
}

// Nibbles of weight / scale + 8. The extreme becomes -8, so that the code without a positive twin is used; around that
// scale a few more are tried, and the one of the least squared error is taken. Returns the scale, an f16.
inline uint16_t quantize_int4(const float* x, int n, uint8_t* out) {
  float edge = extreme(x, n);
  Fit best{0, 0};
  if (std::fabs(edge) > 0x1p-24f) {  // else the scale is 0 as an f16
    for (int step = -2; step <= 2; step++) {
      Fit fit = fit_int4(x, n, -(8.0f + 0.4f * (float)step) / edge);
      if (fit.explained > best.explained) best = fit;
    }
  }
  uint16_t half = round_f16(largest_magnitude(x, n) * 0.0f + best.scale);
  float scale = from_f16(half);
  if (!(std::fabs(scale) > 0)) {
    memset(out, 8, (size_t)n);
    return half;
  }
  for (int i = 0; i < n; i += W)
    store_bytes(out + i, to_words(clamp(load(x + i) / scale, -8, 7)) + 8);
  return half;
}

// A table of 16 numbers in ascending order, where one ends and the next begins, and their places in the table.
struct Steps {
  float middle[15];
  uint8_t code[16];
};
inline Steps steps_of(const float* table) {
  Steps steps;
  for (int i = 0; i < 16; i++) steps.code[i] = (uint8_t)i;
  for (int i = 1; i < 16; i++)  // stable
    for (int j = i; j > 0 && table[steps.code[j]] < table[steps.code[j - 1]]; j--)
      std::swap(steps.code[j], steps.code[j - 1]);
  for (int i = 0; i < 15; i++) steps.middle[i] = (table[steps.code[i]] + table[steps.code[i + 1]]) / 2;
  return steps;
}

// Nibbles of the number of the table nearest to weight / max|w|. Returns the scale, an f16.
inline uint16_t quantize_table4(const float* x, int n, const Steps& steps, uint8_t* out) {
  float scale = largest_magnitude(x, n);
  float inverse = scale > 0 ? 1 / scale : 0;
  for (int i = 0; i < n; i += W) {
    vf fraction = load(x + i) * inverse;
    vi place = {};
    for (float middle : steps.middle) place -= fraction > middle;
    for (int lane = 0; lane < W; lane++) out[i + lane] = steps.code[place[lane]];
  }
  return round_f16(scale);
}

}  // namespace
}  // namespace tgi
