// Functions of one row, or of each number, by itself. Row lengths may be any number: what lies behind the end of a row
// is never read into a result and never written.

// ---- The first `count` floats of a vector --------------------------------------------------------------------------

INLINE vf load_first(const float* p, int count) {
  if (count >= W) return load(p);
  vf x = {};
  for (int i = 0; i < count; i++) x[i] = p[i];
  return x;
}
INLINE void store_first(float* p, vf x, int count) {
  if (count >= W) return store(p, x);
  for (int i = 0; i < count; i++) p[i] = x[i];
}

// ---- Elementary functions ------------------------------------------------------------------------------------------

INLINE vf absolute(vf x) { return as_floats(as_words(x) & 0x7fffffff); }

// e^x with a relative error of about 1e-7; below -86.9 (e^x = 1.8e-38) zero. A NaN stays one.
// With n = round(x / ln 2) and r = x - n ln 2 (Cody and Waite: ln 2 in two parts), e^x = 2^(n - 1) * 2 e^r: so the
// power of two stays a normal number up to the largest finite result. The polynomial is Cephes' expf, times 2.
INLINE vf exp(vf x) {
  const float lowest = -86.9f, highest = 89.0f;
  vf inside = minimum(set1(highest), maximum(set1(lowest), x));
  vf n = round_even(inside * set1(1.44269504f));
  vf r = fma(n, set1(-0.693359375f), inside);
  r = fma(n, set1(2.12194440e-4f), r);
  vf p = fma(set1(2 * 1.9875691500e-4f), r, set1(2 * 1.3981999507e-3f));
  p = fma(p, r, set1(2 * 8.3334519073e-3f));
  p = fma(p, r, set1(2 * 4.1665795894e-2f));
  p = fma(p, r, set1(2 * 1.6666665459e-1f));
  p = fma(p, r, set1(2 * 5.0000001201e-1f));
  p = fma(p, r, set1(2.0f));
  p = fma(p, r, set1(2.0f));
  return select(x < set1(lowest), set1(0.0f), scale_by_power_of_2(p, n - 1.0f));
}

// 1 - 2 / (e^2|x| + 1) with the sign of x; near zero, where that cancels, the polynomial of Cephes' tanhf.
INLINE vf tanh(vf x) {
  vf size = absolute(x), square = x * x;
  vf p = fma(set1(-5.70498872745e-3f), square, set1(2.06390887954e-2f));
  p = fma(p, square, set1(-5.37397155531e-2f));
  p = fma(p, square, set1(1.33314422036e-1f));
  p = fma(p, square, set1(-3.33332819422e-1f));
  vf small = fma(p * square, x, x);
  vf large = 1.0f - 2.0f / (exp(size + size) + 1.0f);
  large = as_floats(as_words(large) | (as_words(x) & (int32_t)0x80000000));
  return select(size < set1(0.625f), small, large);
}

// The probability that a standard normal variable is below x: erfc(|x| / sqrt 2) / 2 or one minus that, with the fit of
// Press et al., Numerical Recipes, 6.2.
INLINE vf normal_distribution(vf x) {
  vf t = 1.0f / fma(absolute(x), set1(0.353553391f), set1(1.0f));  // 1 / (1 + z / 2), z = |x| / sqrt 2
  vf fit = fma(set1(0.17087277f), t, set1(-0.82215223f));
  fit = fma(fit, t, set1(1.48851587f));
  fit = fma(fit, t, set1(-1.13520398f));
  fit = fma(fit, t, set1(0.27886807f));
  fit = fma(fit, t, set1(-0.18628806f));
  fit = fma(fit, t, set1(0.09678418f));
  fit = fma(fit, t, set1(0.37409196f));
  fit = fma(fit, t, set1(1.00002368f));
  fit = fma(fit, t, set1(-1.26551223f));
  vf tail = t * exp(fma(x * -0.5f, x, fit)) * 0.5f;
  return select(x > set1(0.0f), 1.0f - tail, tail);
}

// ---- Rows ----------------------------------------------------------------------------------------------------------

INLINE vf load_weights(const void* row, WeightKind kind, int i) {
  if (kind == WeightKind::f32) return load((const float*)row + i);
  const uint16_t* words = (const uint16_t*)row + i;
  return kind == WeightKind::bf16 ? load_bf16(words) : load_f16(words);
}

static void embed(const void* row, WeightKind kind, float scale, float* out, int n) {
  int i = 0;
  for (; i + W <= n; i += W) store(out + i, load_weights(row, kind, i) * scale);
  if (i == n) return;
  // A row of an embedding table has no padding behind it.
  size_t size = kind == WeightKind::f32 ? 4 : 2;
  uint8_t last[W * 4] = {};
  __builtin_memcpy(last, (const uint8_t*)row + i * size, (n - i) * size);
  store_first(out + i, load_weights(last, kind, 0) * scale, n - i);
}

// In four sums side by side, so that an addition need not wait for the last one.
static float sum_row(const float* x, int n) {
  vf sum[4] = {};
  int i = 0;
  for (; i + 4 * W <= n; i += 4 * W) UNROLL for (int j = 0; j < 4; j++) sum[j] += load(x + i + j * W);
  for (; i < n; i += W) sum[0] += load_first(x + i, n - i);
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static float sum_squares(const float* x, float centre, int n) {
  vf sum[4] = {};
  int i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    UNROLL for (int j = 0; j < 4; j++) {
      vf d = load(x + i + j * W) - centre;
      sum[j] = fma(d, d, sum[j]);
    }
  for (; i < n; i += W) {
    vf d = load_first(x + i, n - i) - centre;
    if (n - i < W) d = select(lanes() < set1_words(n - i), d, set1(0.0f));
    sum[0] = fma(d, d, sum[0]);
  }
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static void norm(Norm kind, const float* x, const float* weight, const float* bias, float eps, float* out, int n) {
  float mean = kind == Norm::layer ? sum_row(x, n) / (float)n : 0.0f;
  float variance = sum_squares(x, mean, n) / (float)n;
  float scale = 1.0f / square_root(set1(variance + eps))[0];
  for (int i = 0; i < n; i += W) {
    int count = n - i;
    vf y = (load_first(x + i, count) - mean) * scale * load_first(weight + i, count);
    if (bias) y += load_first(bias + i, count);
    store_first(out + i, y, count);
  }
}

static void add(float* x, const float* y, float scale, int n) {
  for (int i = 0; i < n; i += W)
    store_first(x + i, fma(load_first(y + i, n - i), set1(scale), load_first(x + i, n - i)), n - i);
}

template <Activation KIND>
INLINE vf activated(vf x) {
  if constexpr (KIND == Activation::silu) return x / (1.0f + exp(-x));
  if constexpr (KIND == Activation::gelu) return x * normal_distribution(x);
  if constexpr (KIND == Activation::gelu_tanh) {
    // (1 + tanh z) / 2 = 1 / (1 + e^-2z), which loses nothing where tanh is near -1; twice sqrt(2 / pi) is 1.5957...
    return x / (1.0f + exp(-1.59576912f * fma(0.044715f * x * x, x, x)));
  }
}

template <Activation KIND>
static void activate_row(const float* gate, const float* up, float* out, int n) {
  for (int i = 0; i < n; i += W) {
    vf y = activated<KIND>(load_first(gate + i, n - i));
    if (up) y *= load_first(up + i, n - i);
    store_first(out + i, y, n - i);
  }
}

static void activate(Activation kind, const float* gate, const float* up, float* out, int n) {
  switch (kind) {
    case Activation::silu: return activate_row<Activation::silu>(gate, up, out, n);
    case Activation::gelu: return activate_row<Activation::gelu>(gate, up, out, n);
    case Activation::gelu_tanh: return activate_row<Activation::gelu_tanh>(gate, up, out, n);
  }
}

INLINE void rotate_halves(float* head, const float* cos, const float* sin, int half, float scale) {
  for (int j = 0; j < half; j += W) {
    int count = half - j;
    vf c = load_first(cos + j, count), s = load_first(sin + j, count);
    vf first = load_first(head + j, count), second = load_first(head + half + j, count);
    store_first(head + j, fma(first, c, -(second * s)) * scale, count);
    store_first(head + half + j, fma(second, c, first * s) * scale, count);
  }
}

INLINE void rotate_pairs(float* head, const float* cos, const float* sin, int half, float scale) {
  for (int j = 0; j < half; j++) {
    float first = head[2 * j], second = head[2 * j + 1];
    head[2 * j] = (first * cos[j] - second * sin[j]) * scale;
    head[2 * j + 1] = (second * cos[j] + first * sin[j]) * scale;
  }
}

static void rotate(float* head, const float* cos, const float* sin, int half, int interleaved, float scale, int dim) {
  if (interleaved)
    rotate_pairs(head, cos, sin, half, scale);
  else
    rotate_halves(head, cos, sin, half, scale);
  for (int i = 2 * half; i < dim; i++) head[i] *= scale;
}

static void scale_cap(float* x, float scale, float cap, int n) {
  for (int i = 0; i < n; i += W) {
    vf y = load_first(x + i, n - i) * scale;
    if (cap != 0.0f) y = tanh(y / cap) * cap;
    store_first(x + i, y, n - i);
  }
}

// The best number so far and its place for each lane of four vectors, so that a comparison need not wait for the last.
struct Best {
  vf number;
  vi place;
  vi nan;
};

INLINE void improve(Best& best, vf x, vi place) {
  vi better = x > best.number;
  best.number = select(better, x, best.number);
  best.place = (better & place) | (~better & best.place);
  best.nan |= x != x;
}

static int argmax(const float* row, int n) {
  Best best[4];
  UNROLL for (int j = 0; j < 4; j++) best[j] = {set1(-__builtin_inff()), set1_words(n), vi{}};
  int i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    UNROLL for (int j = 0; j < 4; j++) improve(best[j], load(row + i + j * W), lanes() + (i + j * W));
  for (; i + W <= n; i += W) improve(best[0], load(row + i), lanes() + i);
  float highest = -__builtin_inff();
  int place = n;
  auto consider = [&](float number, int id) {
    if (number > highest || (number == highest && id < place)) highest = number, place = id;
  };
  for (const Best& b : best) {
    if (reduce_add_words(b.nan) != 0) return -1;
    for (int lane = 0; lane < W; lane++) consider(b.number[lane], b.place[lane]);
  }
  for (; i < n; i++) {
    if (row[i] != row[i]) return -1;
    consider(row[i], i);
  }
  return highest > -__builtin_inff() ? place : 0;
}
