// Rows of activations as signed bytes, in tiles, for the integer kernels (linear_int8.h, linear_int4.h).
//
// The rows of a step are cut into tiles of nearly equal size. A tile holds [k / 4][rows of the
// tile][4] bytes: the kernel walks k and reads one pointer. A number x becomes round(x * 127 / max), where max is the
// highest |x| of the row (int8) or of its group (int4).
#pragma once

constexpr int VECTORS = PANEL / W;       // vectors of one k step of a panel
constexpr int COLUMNS = W == 4 ? 4 : 2;  // vectors of a panel that are summed at once
constexpr int AHEAD = 6144;              // bytes between reading and prefetching weights
constexpr float SMALLEST = 1e-30f;       // rows below this count as zero: 127 / max must be finite

// The tiles of `rows` rows, none above `most` rows.
struct Tiles {
  int rows, count;
};
INLINE Tiles tiles_of(int rows, int most) { return {rows, (rows + most - 1) / most}; }
INLINE int tile_begin(Tiles tiles, int tile) { return (int)((int64_t)tiles.rows * tile / tiles.count); }

// Where one row lies: the first row of its tile, its place in the tile, the rows of the tile, and its first word.
// The words of a row are `rows` words apart.
struct RowPlace {
  int begin, place, rows;
  int32_t* word;
};
INLINE RowPlace row_place(void* data, int padded_inputs, int row, Tiles tiles) {
  int tile = (int)((((int64_t)row + 1) * tiles.count - 1) / tiles.rows), begin = tile_begin(tiles, tile);
  int32_t* word = (int32_t*)data + (int64_t)begin * (padded_inputs / 4) + (row - begin);
  return {begin, row - begin, tile_begin(tiles, tile + 1) - begin, word};
}

// What to prefetch while a tile is computed: `step` bytes more at each k step of 128 bytes of weights. A single pass
// over the panel runs ahead of itself; the passes of several tiles share the next panel, so that the memory is read at
// an even pace while the units compute.
struct Ahead {
  const uint8_t* at;
  size_t step;
};
INLINE Ahead ahead_of(const Linear& linear, const uint8_t* panel, int pass, int passes, size_t step) {
  if (passes == 1) return {panel + AHEAD, step};
  return {panel + linear.panel_bytes + linear.panel_bytes * pass / passes, (step + passes - 1) / passes};
}
INLINE void prefetch(Ahead& ahead) {
  prefetch(ahead.at);
  prefetch(ahead.at + 64);
  ahead.at += ahead.step;
}

INLINE vf magnitude(vf x) { return as_floats(as_words(x) & 0x7fffffff); }

// The highest |x| of n floats, n a multiple of 16.
INLINE float max_magnitude(const float* x, int n) {
  vf highest = {};
  for (int i = 0; i < n; i += W) highest = maximum(magnitude(load(x + i)), highest);
  return reduce_max(highest);
}

// 0 if all n floats (n a multiple of 16) are finite, otherwise NaN.
INLINE float finite_or_nan(const float* x, int n) {
  vf sum = {};
  for (int i = 0; i < n; i += W) sum += load(x + i) * set1(0.0f);
  return reduce_add(sum);
}

// The last n floats of a row, followed by zeros: the padding of a row may hold anything.
INLINE void copy_tail(const float* x, int n, float* out, int size) {
  for (int i = 0; i < size; i++) out[i] = i < n ? x[i] : 0.0f;
}

INLINE float scale_of(float highest) { return highest > SMALLEST ? highest / 127.0f : 0.0f; }

// Quantize n floats (n a multiple of 16), none above `highest`, into at most `count` words of the row from word `from`
// on. Returns their sum. Numbers that are not finite must come with a `highest` of 0: everything becomes 0.
INLINE int32_t quantize(const float* x, int n, float highest, const RowPlace& out, int from, int count) {
  int32_t* word = out.word + (int64_t)from * out.rows;
  vf inverse = set1(highest > SMALLEST ? 127.0f / highest : 0.0f);
  vi sum = {};
  for (int i = 0; i < n; i += W) {
    vi q = highest > SMALLEST ? to_words(load(x + i) * inverse) : (vi){};
    sum += q;
    alignas(16) int8_t bytes[W];
    store_i8(bytes, q);
    for (int j = 0; j < W / 4 && i / 4 + j < count; j++, word += out.rows) __builtin_memcpy(word, bytes + 4 * j, 4);
  }
  return reduce_add_words(sum);
}
