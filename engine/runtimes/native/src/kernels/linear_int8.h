// int8: weights with one scale for each output, times rows of activations with one scale for each row.
//
// y[n] = scale(row) * scale(n) * sum_k (w[n][k] - 128) * x[k], the sum exact in 32 bits. Where the dot product takes
// the stored unsigned bytes, 128 * sum(x) is subtracted at the end.
#include "quantize.h"

INLINE Tiles int8_tiles(int rows) { return tiles_of(rows, W == 16 ? 12 : 4); }

static void prepare_int8(const Linear& linear, const float* x, int row, int rows, const Activations& out) {
  int whole = linear.inputs & ~15, words = linear.padded_inputs / 4;
  alignas(64) float tail[16];
  copy_tail(x + whole, linear.inputs - whole, tail, 16);
  float finite = finite_or_nan(x, whole) + finite_or_nan(tail, 16);
  float highest = max_magnitude(x, whole), last = max_magnitude(tail, 16);
  highest = finite != 0.0f ? 0.0f : last > highest ? last : highest;

  RowPlace to = row_place(out.data, linear.padded_inputs, row, int8_tiles(rows));
  int32_t sum = quantize(x, whole, highest, to, 0, whole / 4);
  out.sums[row] = sum + quantize(tail, 16, highest, to, whole / 4, words - whole / 4);
  out.scales[row] = finite == 0.0f ? scale_of(highest) : finite;
}

// One tile of ROWS rows from `row` on times one panel.
template <int ROWS>
static void int8_tile(const Linear& linear, const Activations& in, int row, int panel, int pass, int passes, float* out,
                      int64_t out_stride) {
  int steps = linear.padded_inputs / 4;
  const uint8_t* weights = linear.weights + (size_t)panel * linear.panel_bytes;
  for (int column = 0; column < VECTORS; column += COLUMNS, pass++) {
    const int32_t* x = (const int32_t*)in.data + (int64_t)row * steps;
    const uint8_t* line = weights + column * (W * 4);
    Ahead ahead = ahead_of(linear, weights, pass, passes, PANEL * 4);
    vi sums[ROWS][COLUMNS], w[COLUMNS];
    UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int c = 0; c < COLUMNS; c++) sums[r][c] = (vi){};
    for (int k = 0; k < steps; k++, x += ROWS, line += PANEL * 4) {
      UNROLL for (int c = 0; c < COLUMNS; c++) w[c] = weight_bytes(load_words(line + c * (W * 4)));
      prefetch(ahead);
      UNROLL for (int r = 0; r < ROWS; r++) {
        vi four = set1_words(x[r]);  // a register: broadcasting inside the dot product would load once for each column
        UNROLL for (int c = 0; c < COLUMNS; c++) dot_weights(sums[r][c], w[c], four);
      }
    }
    UNROLL for (int c = 0; c < COLUMNS; c++) {
      int n = panel * PANEL + (column + c) * W;
      vf scale = load(linear.scales + n), bias = linear.bias ? load(linear.bias + n) : (vf){};
      UNROLL for (int r = 0; r < ROWS; r++) {
        vi sum = sums[r][c] - set1_words(WEIGHT_ZERO * in.sums[row + r]);
        vf y = to_floats(sum) * (scale * set1(in.scales[row + r]));
        store(out + (row + r) * out_stride + n, linear.bias ? y + bias : y);
      }
    }
  }
}

template <int ROWS>
INLINE void int8_any_tile(int count, const Linear& linear, const Activations& in, int row, int panel, int pass,
                          int passes, float* out, int64_t out_stride) {
  if (count == ROWS) int8_tile<ROWS>(linear, in, row, panel, pass, passes, out, out_stride);
  else if constexpr (ROWS > 1)
    int8_any_tile<ROWS - 1>(count, linear, in, row, panel, pass, passes, out, out_stride);
}

static void multiply_int8(const Linear& linear, const Activations& in, int rows, int begin, int end, float* out,
                          int64_t out_stride) {
  constexpr int passes = VECTORS / COLUMNS;  // over one panel, for each tile
  Tiles tiles = int8_tiles(rows);
  for (int panel = begin; panel < end; panel++)
    for (int tile = 0; tile < tiles.count; tile++) {
      int row = tile_begin(tiles, tile), count = tile_begin(tiles, tile + 1) - row;
      int8_any_tile<W == 16 ? 12 : 4>(count, linear, in, row, panel, tile * passes, tiles.count * passes, out,
                                      out_stride);
    }
}
