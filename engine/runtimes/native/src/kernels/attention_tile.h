// Attention of a tile of rows over one partition of the slots; attention.h says what a row is and what it may rely on.
constexpr int ACCUMULATORS = W == 16 ? 24 : 12;  // vectors that stay in registers, beside those that are read
constexpr int TILE_ROWS = ACCUMULATORS / 2;
constexpr int SCORE_STRIDE = PARTITION + 4 * LANES;  // a row of scores; the end is written, not read
constexpr float LOWEST = -__builtin_inff();
constexpr float LOG2_E = 1.44269504f;  // scores are base 2 logarithms: queries are multiplied by this

// Vectors of keys or of dims that are worked on at once, for so many sums of each.
constexpr int columns_at_once(int sums) { return sums * 4 <= ACCUMULATORS ? 4 : sums * 2 <= ACCUMULATORS ? 2 : 1; }

// Keys and values of 8 bits are multiplied as such where one instruction does so (attention_digits.h).
INLINE bool by_digits(const KvCache& cache) { return DOTS_OF_BYTES && cache.kind == KvKind::int8; }

// Numbers as integers within DIGIT_HIGHEST, written as high * DIGIT_BASE + low: two bytes within -127..127.
constexpr int DIGIT_BASE = 255;
constexpr int DIGIT_HIGHEST = 127 * DIGIT_BASE + 127;
struct Digits {
  int8_t high[LANES], low[LANES];
};
struct Fixed {
  float scale;        // a number is scale * its integer
  int32_t high, low;  // what sums of products with stored bytes start from: it takes away the WEIGHT_ZERO in those
};

// Adjacent rows, ordered by query, then head. Row r sees the positions [low[r], high[r]); both ascend with r.
struct Tile {
  int rows;
  const float* queries;    // [dim / 16][rows][16], or [dim / 16][rows] Digits
  Fixed fixed[TILE_ROWS];  // of the digits
  int low[TILE_ROWS];
  int high[TILE_ROWS];
};

// 2^x for x <= 0, with a relative error of 2e-7; 2^-126 at least. A NaN stays one. 2^f is a polynomial fitted to have
// the least relative error for f in -0.5..0.5, and exact at 0.
INLINE vf power_of_2(vf x) {
  x = maximum(set1(-126.0f), x);
  vf n = round_even(x), f = x - n;
  vf p = fma(set1(1.32647238e-3f), f, set1(9.67151299e-3f));
  p = fma(p, f, set1(5.55073358e-2f));
  p = fma(p, f, set1(2.40222424e-1f));
  p = fma(p, f, set1(6.93147004e-1f));
  p = fma(p, f, set1(1.0f));
  return scale_by_power_of_2(p, n);
}

// Lanes [begin, end) of a group
struct LaneRange {
  int begin, end;
};
INLINE LaneRange seen(const Partition& partition, int group, int low, int high) {
  int begin = low - partition.position[group], end = high - partition.position[group], filled = partition.filled[group];
  return {begin < 0 ? 0 : begin < filled ? begin : filled, end < 0 ? 0 : end < filled ? end : filled};
}

// The groups of `range` that all rows of the tile see to the last lane
INLINE GroupRange seen_whole(const Partition& partition, GroupRange range, const Tile& tile) {
  auto whole = [&](int group) {
    LaneRange lanes = seen(partition, group, tile.low[tile.rows - 1], tile.high[0]);
    return lanes.end - lanes.begin == LANES;
  };
  while (range.begin < range.end && !whole(range.begin)) range.begin++;
  int end = range.begin;
  while (end < range.end && whole(end)) end++;
  return {range.begin, end};
}

// scores[r][16 g + j] = query r . key of lane j of group range.begin + g
template <typename T, int R>
static void multiply_keys(const Partition& partition, GroupRange range, const float* queries, int dim, float* scores) {
  constexpr int C = columns_at_once(R), PER_GROUP = LANES / W, PER_WORD = 4 / (int)sizeof(T);
  int last = range.end * PER_GROUP - 1;
  for (int column = range.begin * PER_GROUP; column <= last; column += C, scores += C * W) {
    const int32_t *keys[C], *next[C];
    UNROLL for (int c = 0; c < C; c++) {
      int at = column + c < last ? column + c : last;  // the last may be computed again: nobody reads that
      keys[c] = (const int32_t*)partition.keys[at / PER_GROUP] + at % PER_GROUP * W;
      next[c] = (const int32_t*)partition.next[at / PER_GROUP] + at % PER_GROUP * W;
    }
    vf sums[R][C] = {};
    const float* query = queries;
    for (int chunk = 0; chunk < dim; chunk += LANES, query += (R - 1) * LANES) {
      for (int d = chunk; d < chunk + LANES; d += PER_WORD, query += PER_WORD) {
        vi words[C];
        UNROLL for (int c = 0; c < C; c++) {
          words[c] = load_words(keys[c] + d / PER_WORD * LANES);
          prefetch(next[c] + d / PER_WORD * LANES);
        }
        UNROLL for (int j = 0; j < PER_WORD; j++) {
          vf key[C];
          UNROLL for (int c = 0; c < C; c++) key[c] = number((const T*)nullptr, words[c], j);
          UNROLL for (int r = 0; r < R; r++) {
            vf x = set1(query[r * LANES + j]);
            UNROLL for (int c = 0; c < C; c++) fma_into(sums[r][c], x, key[c]);
          }
        }
      }
    }
    UNROLL for (int r = 0; r < R; r++)
      UNROLL for (int c = 0; c < C; c++) store(scores + r * SCORE_STRIDE + c * W, sums[r][c]);
  }
}

INLINE vi lanes_within(LaneRange range, int first) {
  vi at = lanes() + first;
  return (at >= range.begin) & (at < range.end);
}

// Scales and caps the scores of one row; returns the highest of those that it sees.
INLINE float finish_scores(const Partition& partition, GroupRange range, GroupRange whole, int low, int high, float cap,
                           float* scores) {
  vf highest = set1(LOWEST);
  for (int group = range.begin; group < range.end; group++, scores += LANES) {
    const float* scales = partition.key_scales[group];
    bool all = group >= whole.begin && group < whole.end;
    UNROLL for (int lane = 0; lane < LANES; lane += W) {
      vf x = load(scores + lane);
      if (scales) x *= load(scales + lane);
      if (cap != 0) x = cap * tanh(x / cap);
      if (scales || cap != 0) store(scores + lane, x);
      if (!all) x = select(lanes_within(seen(partition, group, low, high), lane), x, set1(LOWEST));
      highest = maximum(x, highest);
    }
  }
  return reduce_max(highest);
}

// Turns the scores of one row to p, times the scale of the value; returns the sum of p.
INLINE float exponentiate(const Partition& partition, GroupRange range, GroupRange whole, int low, int high,
                          float highest, float* scores) {
  vf sum = {};
  for (int group = range.begin; group < range.end; group++, scores += LANES) {
    const float* scales = partition.value_scales[group];
    bool all = group >= whole.begin && group < whole.end;
    UNROLL for (int lane = 0; lane < LANES; lane += W) {
      vf p = power_of_2(load(scores + lane) - highest);
      vf weight = scales ? p * load(scales + lane) : p;
      if (!all) {
        vi sees = lanes_within(seen(partition, group, low, high), lane);
        p = select(sees, p, set1(0.0f));
        weight = select(sees, weight, set1(0.0f));
      }
      sum += p;
      store(scores + lane, weight);
    }
  }
  return reduce_add(sum);
}

// From products to p for all rows of the tile; the maximum and the sum of p go to numbers[r][0] and [1]. Where a row
// sees nothing, they are minus infinity and zero.
static void soften(const AttentionTask& task, const Partition& partition, GroupRange range, GroupRange whole,
                   const Tile& tile, float* scores, float* numbers) {
  float cap = task.softcap * LOG2_E;
  for (int r = 0; r < tile.rows; r++, scores += SCORE_STRIDE, numbers += task.cache->dim + 16) {
    int low = tile.low[r], high = tile.high[r];
    numbers[0] = finish_scores(partition, range, whole, low, high, cap, scores);
    numbers[1] = exponentiate(partition, range, whole, low, high, numbers[0], scores);
  }
}

// sums[r][c] += p[r] * value[c] for one slot
template <typename T, int R, int C>
INLINE void add_value(const T* values, int lane, int dim, const float* p, vf (&sums)[R][C]) {
  vf x[C];
  UNROLL for (int c = 0; c < C; c++) x[c] = value_at(values, lane, dim, c * W);
  UNROLL for (int r = 0; r < R; r++) {
    vf weight = set1(p[r * SCORE_STRIDE + lane]);
    UNROLL for (int c = 0; c < C; c++) fma_into(sums[r][c], weight, x[c]);
  }
}

// The same for the rows that see `position`.
template <typename T, int R, int C>
INLINE void add_value_where_seen(const Tile& tile, int position, const T* values, int lane, int dim, const float* p,
                                 vf (&sums)[R][C]) {
  vf x[C];
  UNROLL for (int c = 0; c < C; c++) x[c] = value_at(values, lane, dim, c * W);
  UNROLL for (int r = 0; r < R; r++) {
    vi sees = set1_words(-(int)(position >= tile.low[r] && position < tile.high[r]));
    vf weight = set1(p[r * SCORE_STRIDE + lane]);
    UNROLL for (int c = 0; c < C; c++) {
      vf sum = sums[r][c];
      fma_into(sum, weight, x[c]);
      sums[r][c] = select(sees, sum, sums[r][c]);
    }
  }
}

// out[r][d] = the sum of p[r] * value for C vectors of dims from d on
template <typename T, int R, int C>
INLINE void multiply_values(const Partition& partition, GroupRange range, GroupRange whole, const Tile& tile,
                            const float* p, int dim, int d, float* out) {
  constexpr int PER_LINE = 64 / (int)sizeof(T) / W;  // vectors of a cache line
  vf sums[R][C] = {};
  for (int group = range.begin; group < range.end; group++, p += LANES) {
    constexpr int SLOTS = slots_of_word<T>();
    const T *values = (const T*)partition.values[group] + d * SLOTS;
    const T *next = (const T*)partition.next[partition.count + group] + d;
    // Some row sees the lanes `any`, all rows see `all`.
    LaneRange any = {0, LANES}, all = any;
    if (group < whole.begin || group >= whole.end) {
      any = seen(partition, group, tile.low[0], tile.high[R - 1]);
      all = seen(partition, group, tile.low[R - 1], tile.high[0]);
    }
    int position = partition.position[group];
    for (int lane = any.begin; lane < any.end;) {
      if (lane < all.begin || lane >= all.end) {
        add_value_where_seen<T, R, C>(tile, position + lane, values, lane, dim, p, sums);
        lane++;
        continue;
      }
      for (; lane < all.end; lane++) {
        UNROLL for (int c = 0; c < C; c += PER_LINE) prefetch(next + lane * dim + c * W);
        add_value<T, R, C>(values, lane, dim, p, sums);
      }
    }
  }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int c = 0; c < C; c++) store(out + r * (dim + 16) + d + c * W, sums[r][c]);
}

template <typename T, int R>
static void sum_values(const Partition& partition, GroupRange range, GroupRange whole, const Tile& tile, const float* p,
                       int dim, float* out) {
  constexpr int C = columns_at_once(R);
  int d = 0;
  if (dim < C * W) {
    for (; d < dim; d += W) multiply_values<T, R, 1>(partition, range, whole, tile, p, dim, d, out);
    return;
  }
  for (; d + C * W <= dim; d += C * W) multiply_values<T, R, C>(partition, range, whole, tile, p, dim, d, out);
  // The last ones may overlap those before: the same sums again.
  if (d < dim) multiply_values<T, R, C>(partition, range, whole, tile, p, dim, dim - C * W, out);
}

#include "attention_digits.h"

// The partial results of the tile's rows, [rows][dim + 16]. `range` counts from the partition's first group.
template <typename T, int R>
static void attend_rows(const AttentionTask& task, const Partition& partition, GroupRange range, const Tile& tile,
                        float* scores, float* out) {
  int dim = task.cache->dim;
  GroupRange whole = seen_whole(partition, range, tile);
  if constexpr (DOTS_OF_BYTES && sizeof(T) == 1) {
    multiply_key_bytes<R>(partition, range, tile, dim, scores);
    soften(task, partition, range, whole, tile, scores, out + dim);
    Fixed fixed[R];
    fix_weights<R>(range, scores, fixed);
    sum_value_bytes<R>(partition, range, fixed, scores, dim, out);
  } else {
    multiply_keys<T, R>(partition, range, tile.queries, dim, scores);
    soften(task, partition, range, whole, tile, scores, out + dim);
    sum_values<T, R>(partition, range, whole, tile, scores, dim, out);
  }
}

template <typename T, int R = TILE_ROWS>
static void attend_tile(const AttentionTask& task, const Partition& partition, GroupRange range, const Tile& tile,
                        float* scores, float* out) {
  if constexpr (R > 1)
    if (tile.rows < R) return attend_tile<T, R - 1>(task, partition, range, tile, scores, out);
  attend_rows<T, R>(task, partition, range, tile, scores, out);
}
