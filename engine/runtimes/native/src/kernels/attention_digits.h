// Attention over keys and values of 8 bits where the processor multiplies bytes: queries and weights are rounded to 16
// bits, in two digits of a byte each, and sums of products are exact. One instruction does the work of four
// multiply-adds, and nothing is widened.

// Turns x[0 .. n), |x| <= highest, to digits, and zeros up to `size`, a multiple of 16; each Digits comes `stride`
// behind the last. Where `highest` is a NaN, the scale is one and the digits are zero. `out` may be x itself.
INLINE Fixed fix(const float* x, int n, int size, float highest, Digits* out, int stride) {
  float factor = highest > 1e-30f ? DIGIT_HIGHEST / highest : 0;  // smaller ones have no inverse, and round to zero
  vi sum_high = {}, sum_low = {};
  for (int i = 0; i < size; i += LANES, out += stride)
    UNROLL for (int lane = 0; lane < LANES; lane += W) {
      vf part = load_first(x + i + lane, n - i - lane) * factor;
      vi number = factor > 0 ? to_words(part) : (vi){};
      vi high = to_words(to_floats(number) * (1.0f / DIGIT_BASE)), low = number - (high << 8) + high;
      sum_high += high;
      sum_low += low;
      store_i8(out->high + lane, high);
      store_i8(out->low + lane, low);
    }
  return {highest / DIGIT_HIGHEST, -WEIGHT_ZERO * reduce_add_words(sum_high), -WEIGHT_ZERO * reduce_add_words(sum_low)};
}

INLINE vi four_bytes(const int8_t* p) {  // in each lane
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return set1_words(word);
}

// Sums of products of R rows of digits with C vectors of stored bytes
template <int R, int C>
struct DigitSums {
  vi high[R][C], low[R][C];
};
template <int R, int C>
INLINE void start(DigitSums<R, C>& sums, const Fixed* fixed) {
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int c = 0; c < C; c++) sums.high[r][c] = set1_words(fixed[r].high);
    UNROLL for (int c = 0; c < C; c++) sums.low[r][c] = set1_words(fixed[r].low);
  }
}
// Adds those of four numbers, from `first` of the Digits on; those of row r are at digits + r * stride.
template <int R, int C>
INLINE void add_products(DigitSums<R, C>& sums, const Digits* digits, int stride, int first, const vi (&bytes)[C]) {
  UNROLL for (int r = 0; r < R; r++) {
    vi high = four_bytes(digits[r * stride].high + first), low = four_bytes(digits[r * stride].low + first);
    UNROLL for (int c = 0; c < C; c++) dot_weights(sums.high[r][c], bytes[c], high);
    UNROLL for (int c = 0; c < C; c++) dot_weights(sums.low[r][c], bytes[c], low);
  }
}
// Row r goes to out + r * stride.
template <int R, int C>
INLINE void finish(const DigitSums<R, C>& sums, const Fixed* fixed, float* out, int stride) {
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int c = 0; c < C; c++) {
      vf sum = fma(to_floats(sums.high[r][c]), set1((float)DIGIT_BASE), to_floats(sums.low[r][c]));
      store(out + r * stride + c * W, sum * fixed[r].scale);
    }
}

// As multiply_keys.
template <int R>
static void multiply_key_bytes(const Partition& partition, GroupRange range, const Tile& tile, int dim, float* scores) {
  constexpr int C = columns_at_once(2 * R), PER_GROUP = LANES / W;
  int last = range.end * PER_GROUP - 1;
  for (int column = range.begin * PER_GROUP; column <= last; column += C, scores += C * W) {
    const int32_t *keys[C], *next[C];
    UNROLL for (int c = 0; c < C; c++) {
      int at = column + c < last ? column + c : last;  // the last may be computed again: nobody reads that
      keys[c] = (const int32_t*)partition.keys[at / PER_GROUP] + at % PER_GROUP * W;
      next[c] = (const int32_t*)partition.next[at / PER_GROUP] + at % PER_GROUP * W;
    }
    DigitSums<R, C> sums;
    start(sums, tile.fixed);
    const Digits* digits = (const Digits*)tile.queries;
    for (int at = 0; at < dim / 4 * LANES; digits += R)
      for (int first = 0; first < LANES; first += 4, at += LANES) {
        vi key[C];
        UNROLL for (int c = 0; c < C; c++) {
          key[c] = weight_bytes(load_words(keys[c] + at));
          prefetch(next[c] + at);
        }
        add_products(sums, digits, 1, first, key);
      }
    finish(sums, tile.fixed, scores, SCORE_STRIDE);
  }
}

constexpr int DIGIT_STRIDE = SCORE_STRIDE * sizeof(float) / sizeof(Digits);  // from row to row of weights

// Turns the weights of R rows to digits, in their place. Those of slots that a row does not see are zero: what is
// stored there does not matter.
template <int R>
INLINE void fix_weights(GroupRange range, float* weights, Fixed* fixed) {
  int n = (range.end - range.begin) * LANES;
  for (int r = 0; r < R; r++, weights += SCORE_STRIDE)
    fixed[r] = fix(weights, n, n, highest_finite(weights, n), (Digits*)weights, 1);
}

// As multiply_values.
template <int R, int C>
INLINE void multiply_value_bytes(const Partition& partition, GroupRange range, const Fixed* fixed,
                                 const Digits* weights, int dim, int d, float* out) {
  DigitSums<R, C> sums;
  start(sums, fixed);
  for (int group = range.begin; group < range.end; group++, weights++) {
    const int32_t* values = (const int32_t*)partition.values[group] + d;
    const int32_t* next = (const int32_t*)partition.next[partition.count + group] + d;
    for (int lane = 0; lane < LANES; lane += 4, values += dim, next += dim) {
      vi value[C];
      UNROLL for (int c = 0; c < C; c++) {
        value[c] = weight_bytes(load_words(values + c * W));
        prefetch(next + c * W);
      }
      add_products(sums, weights, DIGIT_STRIDE, lane, value);
    }
  }
  finish(sums, fixed, out + d, dim + 16);
}

// As sum_values. So many rows at a time that four vectors of dims can be: whole cache lines, one after the other.
template <int R>
static void sum_value_bytes(const Partition& partition, GroupRange range, const Fixed* fixed, const float* weights,
                            int dim, float* out) {
  constexpr int MOST = ACCUMULATORS / 8;
  if constexpr (R > MOST) {
    sum_value_bytes<R / 2>(partition, range, fixed, weights, dim, out);
    sum_value_bytes<R - R / 2>(partition, range, fixed + R / 2, weights + R / 2 * SCORE_STRIDE, dim,
                               out + R / 2 * (dim + 16));
  } else {
    constexpr int C = 4;
    const Digits* digits = (const Digits*)weights;
    int d = 0;
    if (dim < C * W) {
      for (; d < dim; d += W) multiply_value_bytes<R, 1>(partition, range, fixed, digits, dim, d, out);
      return;
    }
    for (; d + C * W <= dim; d += C * W) multiply_value_bytes<R, C>(partition, range, fixed, digits, dim, d, out);
    // The last ones may overlap those before: the same sums again.
    if (d < dim) multiply_value_bytes<R, C>(partition, range, fixed, digits, dim, dim - C * W, out);
  }
}
