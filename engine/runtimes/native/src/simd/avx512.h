// AVX-512 F, BW, VL and DQ, 16 floats a vector; with DOT_VNNI also the VNNI dot product.
#define W 16
#include "vector.h"

INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
// Accumulators of a register tile: GCC keeps arrays of them in memory unless the instruction is written out.
INLINE void fma_into(vf& acc, vf a, vf b) { asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }
// acc += broadcast(*x) * b
INLINE void fma_into(vf& acc, const float* x, vf b) {
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(b), "m"(*x));
}
INLINE vf maximum(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }  // of a NaN and b: b
INLINE vf minimum(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf square_root(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
INLINE vf round_even(vf x) { return (vf)_mm512_roundscale_ps((__m512)x, 0); }
INLINE vi to_words(vf x) { return (vi)_mm512_cvtps_epi32((__m512)x); }  // to nearest even
INLINE vf to_floats(vi x) { return (vf)_mm512_cvtepi32_ps((__m512i)x); }
INLINE vf load_bf16(const uint16_t* p) {
  return as_floats((vi)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)) << 16);
}
INLINE vf load_f16(const uint16_t* p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INLINE vf f16_low(vi words) { return (vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)words)); }
INLINE vf f16_high(vi words) { return (vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)words, 16))); }
INLINE vi load_u8_words(const uint8_t* p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
// The low byte of each word; the words must be within -128..127.
INLINE void store_i8(int8_t* p, vi x) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)x)); }
INLINE void store_bf16(uint16_t* p, vf x) {
  vi u = as_words(x), odd = (vi)_mm512_srli_epi32((__m512i)u, 16) & 1;
  __m512i rounded = _mm512_srli_epi32((__m512i)(u + 0x7fff + odd), 16);
  __m512i quiet = _mm512_or_si512(_mm512_srli_epi32((__m512i)u, 16), _mm512_set1_epi32(0x40));
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q), quiet);
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(rounded));
}
// The numbers of a table of 16 that the low 4 bits of each word name.
INLINE vf lookup(const float* table, vi index) {
  return (vf)_mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(table));
}
INLINE float reduce_add(vf x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float reduce_max(vf x) { return _mm512_reduce_max_ps((__m512)x); }
INLINE int32_t reduce_add_words(vi x) { return _mm512_reduce_add_epi32((__m512i)x); }
INLINE vf scale_by_power_of_2(vf x, vf n) { return (vf)_mm512_scalef_ps((__m512)x, (__m512)n); }
INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

#if defined(DOT_VNNI)
// acc += the sums of 4 products: w unsigned bytes, x signed bytes (exact: no saturation)
INLINE void dot(vi& acc, vi w, vi x) { asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x)); }
INLINE void dot(vi& acc, vi w, const int32_t* x) {  // the same four x for every lane
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*x));
}
constexpr bool NARROW_NIBBLES = false;
INLINE void dot_nibbles(vi& acc, vi w, vi x) { dot(acc, w, x); }
INLINE vi nibble_sums(vi acc) { return acc; }
constexpr bool DOTS_OF_BYTES = true;  // in one instruction
#else
constexpr bool DOTS_OF_BYTES = false;
INLINE void dot(vi& acc, vi w, vi x) {
  __m512i even_w = _mm512_and_si512((__m512i)w, _mm512_set1_epi16(0xff)), odd_w = _mm512_srli_epi16((__m512i)w, 8);
  __m512i even_x = _mm512_srai_epi16(_mm512_slli_epi16((__m512i)x, 8), 8), odd_x = _mm512_srai_epi16((__m512i)x, 8);
  acc += (vi)_mm512_madd_epi16(even_w, even_x) + (vi)_mm512_madd_epi16(odd_w, odd_x);
}
INLINE void dot(vi& acc, vi w, const int32_t* x) { dot(acc, w, set1_words(*x)); }
// w below 16, x within -127..127: the sums of 8 such dots fit 16 bits, two in a word; nibble_sums adds the two.
constexpr bool NARROW_NIBBLES = true;
INLINE void dot_nibbles(vi& acc, vi w, vi x) {
  acc = (vi)_mm512_add_epi16((__m512i)acc, _mm512_maddubs_epi16((__m512i)w, (__m512i)x));
}
INLINE vi nibble_sums(vi acc) { return (vi)_mm512_madd_epi16((__m512i)acc, _mm512_set1_epi16(1)); }
#endif
// Weights as dot_weights takes them, and the zero that is left in them.
constexpr int WEIGHT_ZERO = 128;
INLINE vi weight_bytes(vi stored) { return stored; }
INLINE void dot_weights(vi& acc, vi w, vi x) { dot(acc, w, x); }
