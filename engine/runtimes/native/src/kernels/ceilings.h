// The peaks of this machine with this instruction set: what the benchmarks hold the kernels' speed against.

constexpr int CHAINS = 12;  // independent operations: enough to hide the latency of each

static uint64_t read(const uint8_t* bytes, size_t n) {
  vi sum[8] = {};
  size_t i = 0;
  for (; i + sizeof sum <= n; i += sizeof sum) {
    UNROLL for (size_t line = 0; line < sizeof sum; line += 64) prefetch(bytes + i + 4096 + line);
    UNROLL for (int j = 0; j < 8; j++) sum[j] += load_words(bytes + i + j * W * 4);
  }
  uint64_t total = 0;
  for (; i < n; i++) total += bytes[i];
  for (vi s : sum) total += (uint32_t)reduce_add_words(s);
  return total;
}

static float fma_rounds(int64_t rounds) {
  constexpr int PARTS = 16 / W;  // vectors of this instruction set in 16 floats
  vf sum[CHAINS];
  UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = set1((float)i);
  alignas(64) float x[2 * W];
  for (int i = 0; i < 2 * W; i++) x[i] = 1e-3f * (float)(i + 1);
  for (int64_t round = 0; round < rounds; round++) {
    asm volatile("" : : "r"(x) : "memory");  // x may have changed: nothing can be worked out beforehand
    vf a = load(x), b = load(x + W);
    UNROLL for (int part = 0; part < PARTS; part++) UNROLL for (int i = 0; i < CHAINS; i++) fma_into(sum[i], a, b);
  }
  vf total = {};
  UNROLL for (int i = 0; i < CHAINS; i++) total += sum[i];
  return reduce_add(total);
}

static int64_t dot_rounds(int64_t rounds) {
  constexpr int PARTS = 16 / W;
  vi sum[CHAINS];
  UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = set1_words(i);
  alignas(64) int32_t x[2 * W];
  for (int i = 0; i < 2 * W; i++) x[i] = 0x01020304 + i;
  for (int64_t round = 0; round < rounds; round++) {
    asm volatile("" : : "r"(x) : "memory");
    vi a = load_words(x), b = load_words(x + W);
    UNROLL for (int part = 0; part < PARTS; part++) UNROLL for (int i = 0; i < CHAINS; i++) dot(sum[i], a, b);
  }
  vi total = {};
  UNROLL for (int i = 0; i < CHAINS; i++) total += sum[i];
  return reduce_add_words(total);
}
