// AArch64 with the dot product extension, 4 floats a vector.
#define SIMD_FMA
#define SIMD_DOT
typedef float neon_floats __attribute__((vector_size(16)));
typedef int32_t neon_words __attribute__((vector_size(16)));
static inline __attribute__((always_inline)) neon_floats fma(neon_floats a, neon_floats b, neon_floats c) {
  return (neon_floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
// w - 128 is a signed byte, so sum(w x) = sdot(w - 128, x) + 128 sum(x), and sum(x) = sdot(1, x).
static inline __attribute__((always_inline)) void dot(neon_words& acc, neon_words w, neon_words x) {
  int8x16_t low = vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_s32((int32x4_t)w), vdupq_n_u8(128)));
  int8x16_t bytes = vreinterpretq_s8_s32((int32x4_t)x);
  int32x4_t sum = vdotq_s32((int32x4_t)acc, low, bytes);
  acc = (neon_words)vaddq_s32(sum, vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), bytes), 7));
}
// The linear kernels need no such correction: their weights come as signed bytes, nibbles are below 128 anyway.
constexpr int WEIGHT_ZERO = 0;
static inline __attribute__((always_inline)) neon_words weight_bytes(neon_words stored) {
  return (neon_words)vreinterpretq_s32_u8(veorq_u8(vreinterpretq_u8_s32((int32x4_t)stored), vdupq_n_u8(128)));
}
static inline __attribute__((always_inline)) void dot_weights(neon_words& acc, neon_words w, neon_words x) {
  acc = (neon_words)vdotq_s32((int32x4_t)acc, vreinterpretq_s8_s32((int32x4_t)w), vreinterpretq_s8_s32((int32x4_t)x));
}
static inline __attribute__((always_inline)) void dot_nibbles(neon_words& acc, neon_words w, neon_words x) {
  dot_weights(acc, w, x);
}
#include "portable.h"
