// int4: groups of 32, 64 or 128 weights with a scale each (and a zero point where asymmetric), times rows of
// activations quantized in the same groups.
//
// y[n] = sum over groups g, ascending: scale(n, g) * scale(row, g) * sum_k (nibble - zero) * x[k]. The inner sum is
// exact; the outer one is a chain of multiply-adds in floats.
#include "quantize.h"

// Six rows keep their sums in the registers; eight do not quite, but unpack the nibbles of a small batch only once.
INLINE Tiles int4_tiles(int rows) { return tiles_of(rows, NARROW_NIBBLES || W < 16 ? 4 : rows <= 8 ? 8 : 6); }

static void prepare_int4(const Linear& linear, const float* x, int row, int rows, const Activations& out) {
  int group = linear.group, groups = linear.padded_inputs / group, whole = linear.inputs & ~15;
  alignas(64) float tail[16], last[128];
  copy_tail(x + whole, linear.inputs - whole, tail, 16);
  float finite = finite_or_nan(x, whole) + finite_or_nan(tail, 16);
  RowPlace to = row_place(out.data, linear.padded_inputs, row, int4_tiles(rows));
  // Scales and sums lie as the words do: [tile][group][rows of the tile].
  int64_t at = (int64_t)to.begin * groups + to.place;
  for (int g = 0; g < groups; g++, at += to.rows) {
    const float* from = x + g * group;
    if ((g + 1) * group > linear.inputs) {
      copy_tail(from, linear.inputs - g * group, last, group);
      from = last;
    }
    float highest = finite == 0.0f ? max_magnitude(from, group) : 0.0f;
    out.sums[at] = quantize(from, group, highest, to, g * (group / 4), group / 4);
    out.scales[at] = finite == 0.0f ? scale_of(highest) : finite;
  }
}

// sums += the products of 8 k: the low nibbles at `line` times the first words at x, then the high ones times the next.
template <int ROWS>
INLINE void add_nibbles(vi (&sums)[ROWS][COLUMNS], const uint8_t* line, const int32_t* x) {
  UNROLL for (int half = 0; half < 2; half++) {
    vi w[COLUMNS];
    UNROLL for (int c = 0; c < COLUMNS; c++) w[c] = load_words(line + c * (W * 4)) >> (4 * half) & 0x0f0f0f0f;
    UNROLL for (int r = 0; r < ROWS; r++) {
      vi four = set1_words(x[half * ROWS + r]);
      UNROLL for (int c = 0; c < COLUMNS; c++) dot_nibbles(sums[r][c], w[c], four);
    }
  }
}

// sums += the products of `steps` times 8 k; moves `line` and `x` behind them.
template <int ROWS>
INLINE void add_group(vi (&sums)[ROWS][COLUMNS], const uint8_t*& line, const int32_t*& x, int steps, Ahead& ahead) {
  constexpr int RUN = NARROW_NIBBLES ? 4 : 1;  // steps between two widenings
  for (int k = 0; k < steps; k += RUN) {
    vi narrow[ROWS][COLUMNS];
    if (NARROW_NIBBLES)
      UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int c = 0; c < COLUMNS; c++) narrow[r][c] = (vi){};
    _Pragma("GCC unroll 1")  // unrolled, GCC 12 keeps the narrow sums in memory
    for (int i = 0; i < RUN; i++, line += PANEL * 4, x += 2 * ROWS) {
      prefetch(ahead);
      add_nibbles<ROWS>(NARROW_NIBBLES ? narrow : sums, line, x);
    }
    if (NARROW_NIBBLES)
      UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int c = 0; c < COLUMNS; c++)
          sums[r][c] += nibble_sums(narrow[r][c]);
  }
}

// One tile of ROWS rows from `row` on times one panel.
template <int ROWS, bool ASYMMETRIC>
static void int4_tile(const Linear& linear, const Activations& in, int row, int panel, int pass, int passes, float* out,
                      int64_t out_stride) {
  int groups = linear.padded_inputs / linear.group, steps = linear.group / 8;
  constexpr int REST = PANEL * 2 + (ASYMMETRIC ? 64 : 0);  // bytes of a group behind its nibbles
  const uint8_t* weights = linear.weights + (size_t)panel * linear.panel_bytes;
  for (int column = 0; column < VECTORS; column += COLUMNS, pass++) {
    const int32_t* x = (const int32_t*)in.data + (int64_t)row * (linear.padded_inputs / 4);
    const float* x_scales = in.scales + (int64_t)row * groups;
    const int32_t* x_sums = in.sums + (int64_t)row * groups;
    const uint8_t* line = weights + column * (W * 4);
    Ahead ahead = ahead_of(linear, weights, pass, passes, PANEL * 4 + (REST + steps - 1) / steps);
    vf totals[ROWS][COLUMNS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int c = 0; c < COLUMNS; c++) totals[r][c] = (vf){};
    for (int g = 0; g < groups; g++, x_scales += ROWS, x_sums += ROWS) {
      vi sums[ROWS][COLUMNS];
      UNROLL for (int r = 0; r < ROWS; r++) {
        vi start = set1_words(ASYMMETRIC ? 0 : -8 * x_sums[r]);
        UNROLL for (int c = 0; c < COLUMNS; c++) sums[r][c] = start;
      }
      add_group<ROWS>(sums, line, x, steps, ahead);
      const uint8_t* at = line - column * (W * 4);
      UNROLL for (int c = 0; c < COLUMNS; c++) {
        vf scale = load_f16((const uint16_t*)at + (column + c) * W);
        vf zero = ASYMMETRIC ? to_floats(load_u8_words(at + PANEL * 2 + (column + c) * W)) : (vf){};
        UNROLL for (int r = 0; r < ROWS; r++) {
          vf sum = to_floats(sums[r][c]);
          if (ASYMMETRIC) sum = fma(zero, set1(-(float)x_sums[r]), sum);  // whole numbers below 2^24: exact
          fma_into(totals[r][c], x_scales + r, sum * scale);
        }
      }
      line += REST;
    }
    UNROLL for (int c = 0; c < COLUMNS; c++) {
      int n = panel * PANEL + (column + c) * W;
      vf bias = linear.bias ? load(linear.bias + n) : (vf){};
      UNROLL for (int r = 0; r < ROWS; r++)
        store(out + (row + r) * out_stride + n, linear.bias ? totals[r][c] + bias : totals[r][c]);
    }
  }
}

template <int ROWS>
INLINE void int4_any_tile(int count, const Linear& linear, const Activations& in, int row, int panel, int pass,
                          int passes, float* out, int64_t out_stride) {
  if (count == ROWS && linear.asymmetric) int4_tile<ROWS, true>(linear, in, row, panel, pass, passes, out, out_stride);
  else if (count == ROWS) int4_tile<ROWS, false>(linear, in, row, panel, pass, passes, out, out_stride);
  else if constexpr (ROWS > 1)
    int4_any_tile<ROWS - 1>(count, linear, in, row, panel, pass, passes, out, out_stride);
}

static void multiply_int4(const Linear& linear, const Activations& in, int rows, int begin, int end, float* out,
                          int64_t out_stride) {
  constexpr int passes = VECTORS / COLUMNS;  // over one panel, for each tile
  Tiles tiles = int4_tiles(rows);
  for (int panel = begin; panel < end; panel++)
    for (int tile = 0; tile < tiles.count; tile++) {
      int row = tile_begin(tiles, tile), count = tile_begin(tiles, tile + 1) - row;
      int4_any_tile<W == 16 ? 8 : 4>(count, linear, in, row, panel, tile * passes, tiles.count * passes, out,
                                     out_stride);
    }
}
