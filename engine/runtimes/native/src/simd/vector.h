// Vectors of W floats or 32-bit integers, as GCC's and Clang's vector extensions give them on every machine.
// Included by simd/<isa>.h inside the namespace of its instruction set, after W was defined. Arithmetic is written with
// operators; what they cannot say (multiply-add, rounding, narrow loads, dot products) each simd/<isa>.h defines.
//
// Everything here is static and always inlined: no symbol may leave the translation unit.

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef float vf_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));

INLINE vf load(const float* p) { return *(const vf_unaligned*)p; }
INLINE void store(float* p, vf x) { *(vf_unaligned*)p = x; }
INLINE vi load_words(const void* p) { return *(const vi_unaligned*)p; }
INLINE void store_words(void* p, vi x) { *(vi_unaligned*)p = x; }
INLINE vf set1(float x) { return x - (vf){}; }
INLINE vi set1_words(int32_t x) { return x + (vi){}; }
INLINE vi as_words(vf x) { return (vi)x; }
INLINE vf as_floats(vi x) { return (vf)x; }
// mask lanes are all ones or all zeros, as comparisons give them
INLINE vf select(vi mask, vf yes, vf no) { return as_floats((mask & as_words(yes)) | (~mask & as_words(no))); }
INLINE vi lanes() {
  vi x;
  for (int i = 0; i < W; i++) x[i] = i;
  return x;
}

// Two 16-bit floats in one word, the even k low: as floats.
INLINE vf bf16_low(vi words) { return as_floats(words << 16); }
INLINE vf bf16_high(vi words) { return as_floats(words & (int32_t)0xffff0000); }
// Round to nearest even; a NaN stays one.
INLINE uint16_t to_bf16(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)((u >> 16) | 0x40);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
