// AVX2 with FMA and F16C, 8 floats a vector.
#define W 8
#include "vector.h"

INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE void fma_into(vf& acc, vf a, vf b) { asm("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b)); }
INLINE void fma_into(vf& acc, const float* x, vf b) { fma_into(acc, (vf)_mm256_broadcast_ss(x), b); }
INLINE vf maximum(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf square_root(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
INLINE vf round_even(vf x) { return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vi to_words(vf x) { return (vi)_mm256_cvtps_epi32((__m256)x); }
INLINE vf to_floats(vi x) { return (vf)_mm256_cvtepi32_ps((__m256i)x); }
INLINE vf load_bf16(const uint16_t* p) {
  return as_floats((vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)) << 16);
}
INLINE vf load_f16(const uint16_t* p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
INLINE vf f16_low(vi words) {
  __m256i low = _mm256_and_si256((__m256i)words, _mm256_set1_epi32(0xffff));
  return (vf)_mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
INLINE vf f16_high(vi words) { return f16_low((vi)_mm256_srli_epi32((__m256i)words, 16)); }
INLINE vi load_u8_words(const uint8_t* p) { return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
INLINE void store_i8(int8_t* p, vi x) {
  __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(pairs, pairs));
}
INLINE void store_bf16(uint16_t* p, vf x) {
  vi u = as_words(x), high = (vi)_mm256_srli_epi32((__m256i)u, 16);
  vi rounded = (vi)_mm256_srli_epi32((__m256i)(u + 0x7fff + (high & 1)), 16);
  vi words = (vi)_mm256_blendv_epi8((__m256i)rounded, (__m256i)(high | 0x40), (__m256i)(vi)(x != x));
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(_mm256_castsi256_si128((__m256i)words),
                                                 _mm256_extracti128_si256((__m256i)words, 1)));
}
// The numbers of a table of 16 that the low 4 bits of each word name.
INLINE vf lookup(const float* table, vi index) {
  __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
  __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)index);
  return (vf)_mm256_blendv_ps(low, high, (__m256)(index << 28));
}
INLINE float reduce_add(vf x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float reduce_max(vf x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
INLINE int32_t reduce_add_words(vi x) {
  int32_t sum = 0;
  for (int i = 0; i < W; i++) sum += x[i];
  return sum;
}
INLINE vf scale_by_power_of_2(vf x, vf n) { return x * as_floats((to_words(n) + 127) << 23); }  // n in -126..127
INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// acc += the sums of 4 products: w unsigned bytes, x signed bytes. Through 16 bits, so that nothing saturates.
INLINE void dot(vi& acc, vi w, vi x) {
  __m256i even_w = _mm256_and_si256((__m256i)w, _mm256_set1_epi16(0xff)), odd_w = _mm256_srli_epi16((__m256i)w, 8);
  __m256i even_x = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)x, 8), 8), odd_x = _mm256_srai_epi16((__m256i)x, 8);
  acc += (vi)_mm256_madd_epi16(even_w, even_x) + (vi)_mm256_madd_epi16(odd_w, odd_x);
}
INLINE void dot(vi& acc, vi w, const int32_t* x) { dot(acc, w, set1_words(*x)); }

// Weights as dot_weights takes them: what was stored less 128, so WEIGHT_ZERO of it is left to subtract.
constexpr int WEIGHT_ZERO = 0;
INLINE vi weight_bytes(vi stored) { return stored ^ set1_words((int32_t)0x80808080); }
// acc += the sums of 4 products. x is within -127..127, so a pair of products is at most 2 * 128 * 127: 16 bits hold it.
INLINE void dot_weights(vi& acc, vi w, vi x) {
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w), _mm256_sign_epi8((__m256i)x, (__m256i)w));
  acc += (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// w below 16, x within -127..127: the sums of 8 such dots fit 16 bits, two in a word; nibble_sums adds the two.
constexpr bool NARROW_NIBBLES = true;
constexpr bool DOTS_OF_BYTES = false;
INLINE void dot_nibbles(vi& acc, vi w, vi x) {
  acc = (vi)_mm256_add_epi16((__m256i)acc, _mm256_maddubs_epi16((__m256i)w, (__m256i)x));
}
INLINE vi nibble_sums(vi acc) { return (vi)_mm256_madd_epi16((__m256i)acc, _mm256_set1_epi16(1)); }
