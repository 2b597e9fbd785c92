// y = W x + bias with floats as inputs: weights of f32, bf16, f16, fp8 and table4.
//
// All kinds have the same shape: a row of a panel is PANEL words of 32 bits, one for each output, and a word holds
// `word_inputs` k. So one kernel serves them all, and only `weight` knows how a number lies in its word. An output is
// one sum over k in ascending order, one multiply-add each, whatever the tile, the block and the kernel: sums that are
// laid aside between blocks lie in `out` as they are.

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int FLOAT_SUMS = 24;  // vectors of sums held in registers, of 32
#else
constexpr int FLOAT_SUMS = 12;  // of 16
#endif
constexpr int FLOAT_ROWS = FLOAT_SUMS / 2;  // the most rows of a tile: two vectors of outputs share a broadcast input
// The most k of a block. Its weights are read by every tile: a panel, 80 KiB as floats, stays in the cache of a core.
// Fewer k would load and store the sums more often than the multiply-adds hide. A multiple of every group.
constexpr int FLOAT_BLOCK = 640;
// The most tiles whose inputs, 480 KiB in a block, wait in the cache for the next panel.
constexpr int FLOAT_STRIP = 16;

constexpr int word_inputs(WeightKind kind) {
  return kind == WeightKind::f32 ? 1 : kind == WeightKind::fp8 ? 4 : kind == WeightKind::table4 ? 8 : 2;
}

// Where the weights of k begin in a panel; k is a multiple of a group.
INLINE size_t weight_offset(const Linear& linear, int k) {
  size_t scales = linear.group ? k / linear.group * (PANEL * 2) : 0;
  return (size_t)k / word_inputs(linear.kind) * (PANEL * 4) + scales;
}

// e4m3: sign, 4 bits of exponent, 3 of mantissa. Moved into their places in a float they are off by 2^120, which also
// turns what is subnormal in e4m3 into the right number. (NaN is not looked for: a packer must not store it.)
INLINE vf from_e4m3(vi top_byte) { return as_floats((top_byte >> 4) & (int32_t)0x87f00000) * 0x1p120f; }

// Number i of each word; table4: by the table and the scales of the group.
template <WeightKind KIND>
INLINE vf weight(vi words, int i, const float* table, vf scales) {
  if constexpr (KIND == WeightKind::f32) return as_floats(words);
  if constexpr (KIND == WeightKind::bf16) return i == 0 ? bf16_low(words) : bf16_high(words);
  if constexpr (KIND == WeightKind::f16) return i == 0 ? f16_low(words) : f16_high(words);
  if constexpr (KIND == WeightKind::fp8) return from_e4m3(words << (24 - 8 * i));
  if constexpr (KIND == WeightKind::table4) return lookup(table, words >> (i < 4 ? 8 * i : 8 * i - 28)) * scales;
}

// ---- Prepared inputs -----------------------------------------------------------------------------------------------

constexpr int LINE = 16;  // floats of a cache line

// Rows lie in tiles of nearly equal size. A block of k holds its tiles one after the other, so that multiplying reads
// straight on; a tile is [k / LINE][rows][LINE], so that threads that prepare neighbouring rows share no cache line.
struct RowTile {
  int begin, rows;
};
INLINE int row_tiles(int rows) { return (rows + FLOAT_ROWS - 1) / FLOAT_ROWS; }
INLINE RowTile row_tile(int rows, int tile) {
  int tiles = row_tiles(rows), begin = (int)((int64_t)rows * tile / tiles);
  return {begin, (int)((int64_t)rows * (tile + 1) / tiles) - begin};
}
// The k of a block: nearly the same in all blocks of a linear, and whole groups.
INLINE int block_inputs(const Linear& linear) {
  int blocks = (linear.padded_inputs + FLOAT_BLOCK - 1) / FLOAT_BLOCK, unit = linear.group ? linear.group : LINE;
  return ((linear.padded_inputs + blocks - 1) / blocks + unit - 1) / unit * unit;
}
// Where the inputs of a tile lie in the block that begins at k.
INLINE size_t input_offset(const Linear& linear, int rows, int k, const RowTile& tile) {
  int left = (linear.padded_inputs - k + LINE - 1) / LINE * LINE, inputs = block_inputs(linear);
  return (size_t)k * rows + (size_t)tile.begin * (left < inputs ? left : inputs);
}

static void prepare_float(const Linear& linear, const float* x, int row, int rows, const Activations& out) {
  RowTile tile = row_tile(rows, (int)(((int64_t)(row + 1) * row_tiles(rows) - 1) / rows));
  int inputs = block_inputs(linear);
  for (int block = 0; block < linear.padded_inputs; block += inputs) {
    float* to = (float*)out.data + input_offset(linear, rows, block, tile) + (row - tile.begin) * LINE;
    for (int k = block; k < linear.padded_inputs && k < block + inputs; k += LINE, to += tile.rows * LINE)
      UNROLL for (int i = 0; i < LINE; i += W) store(to + i, load_first(x + k + i, linear.inputs - k - i));
  }
}

// ---- One tile ------------------------------------------------------------------------------------------------------

// The part of a sum that one call of the kernel adds: `inputs` k from x and weights on.
struct FloatTask {
  const uint8_t* weights;
  const uint8_t* ahead;  // weights to fetch into the cache meanwhile,
  int ahead_step;        // so many bytes for each row of words
  const float* x;
  int inputs;
  int group;           // table4; otherwise as inputs
  const float* table;  // table4
  bool first, last;    // part of the sum
  const float* scales;
  const float* bias;
  float* out;
  int64_t out_stride;
};

template <WeightKind KIND, int ROWS, int VECTORS>
INLINE void add_products(vf (&sum)[ROWS][VECTORS], const FloatTask& task, int column) {
  constexpr int STEP = word_inputs(KIND);
  const uint8_t* words = task.weights + column * 4;
  const uint8_t* ahead = task.ahead;
  const float* x = task.x;
  for (int k = 0; k < task.inputs; k += LINE, x += ROWS * LINE) {
    vf scales[VECTORS] = {};
    if constexpr (KIND == WeightKind::table4) {
      if (k % task.group == 0 && k > 0) words += PANEL * 2;
      const uint8_t* f16 = words - column * 2 + (task.group - k % task.group) / STEP * (PANEL * 4);
      UNROLL for (int v = 0; v < VECTORS; v++) scales[v] = load_f16((const uint16_t*)f16 + v * W);
    }
    int count = task.inputs - k < LINE ? task.inputs - k : LINE;
    for (int i = 0; i < count; i += STEP) {
      prefetch(ahead);
      prefetch(ahead + 64);
      ahead += task.ahead_step;
      vi w[VECTORS];
      UNROLL for (int v = 0; v < VECTORS; v++) w[v] = load_words(words + v * W * 4);
      UNROLL for (int j = 0; j < STEP; j++) {
        vf y[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) y[v] = weight<KIND>(w[v], j, task.table, scales[v]);
        UNROLL for (int r = 0; r < ROWS; r++) {
          vf input = set1(x[r * LINE + i + j]);
          UNROLL for (int v = 0; v < VECTORS; v++) fma_into(sum[r][v], input, y[v]);
        }
      }
      words += PANEL * 4;
    }
  }
}

template <WeightKind KIND, int ROWS, int VECTORS>
INLINE void tile_columns(const FloatTask& task, int column) {
  float* out = task.out + column;
  vf sum[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++)
      sum[r][v] = task.first ? vf{} : load(out + r * task.out_stride + v * W);
  add_products<KIND>(sum, task, column);
  UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < VECTORS; v++) {
    vf y = sum[r][v];
    if (task.last && task.scales) y *= load(task.scales + column + v * W);
    if (task.last && task.bias) y += load(task.bias + column + v * W);
    store(out + r * task.out_stride + v * W, y);
  }
}

// As many vectors of outputs at once as there are registers for.
template <WeightKind KIND, int ROWS>
static void tile(const FloatTask& task) {
  constexpr int ALL = PANEL / W;
  constexpr int VECTORS = ROWS * ALL <= FLOAT_SUMS ? ALL : ROWS * 4 <= FLOAT_SUMS && ALL > 4 ? 4 : 2;
  for (int column = 0; column < PANEL; column += VECTORS * W) tile_columns<KIND, ROWS, VECTORS>(task, column);
}

template <WeightKind KIND, int MOST>
INLINE void tile_of(int rows, const FloatTask& task) {
  if (rows == MOST) return tile<KIND, MOST>(task);
  if constexpr (MOST > 1) tile_of<KIND, MOST - 1>(rows, task);
}

// ---- The whole -----------------------------------------------------------------------------------------------------

INLINE FloatTask float_task(const Linear& linear, int panel, float* out, int64_t out_stride) {
  FloatTask task = {};
  task.weights = linear.weights + panel * linear.panel_bytes;
  task.table = linear.table;
  task.scales = linear.kind == WeightKind::fp8 ? linear.scales + panel * PANEL : nullptr;
  task.bias = linear.bias ? linear.bias + panel * PANEL : nullptr;
  task.out = out + panel * PANEL;
  task.out_stride = out_stride;
  return task;
}

// One tile of rows: the weights are read once, and decoded as they are used.
template <WeightKind KIND, int MOST>
static void multiply_once(const Linear& linear, const float* x, int rows, int begin, int end, float* out,
                          int64_t out_stride) {
  for (int panel = begin; panel < end; panel++) {
    FloatTask task = float_task(linear, panel, out, out_stride);
    task.x = x;
    task.ahead = task.weights + 4096;
    task.ahead_step = PANEL * 4;
    task.inputs = linear.padded_inputs;
    task.group = KIND == WeightKind::table4 ? linear.group : linear.padded_inputs;
    task.first = task.last = true;
    tile_of<KIND, MOST>(rows, task);
  }
}

template <WeightKind KIND>
INLINE void decode_block(const Linear& linear, const uint8_t* words, int inputs, float* out) {
  constexpr int STEP = word_inputs(KIND);
  int group = KIND == WeightKind::table4 ? linear.group : inputs;
  for (int k = 0; k < inputs; k += group) {
    const uint16_t* f16 = (const uint16_t*)(words + group / STEP * (PANEL * 4));
    for (int i = 0; i < group; i += STEP, words += PANEL * 4, out += STEP * PANEL)
      UNROLL for (int v = 0; v < PANEL; v += W) {
        vi w = load_words(words + v * 4);
        vf scales = {};
        if constexpr (KIND == WeightKind::table4) scales = load_f16(f16 + v);
        UNROLL for (int j = 0; j < STEP; j++) store(out + j * PANEL + v, weight<KIND>(w, j, linear.table, scales));
      }
    if constexpr (KIND == WeightKind::table4) words += PANEL * 2;
  }
}

// Whether weights are decoded as they are used: it takes one operation for 16-bit floats' halves of a word.
constexpr bool decodes_easily(WeightKind kind) { return kind == WeightKind::f32 || kind == WeightKind::bf16; }

// One panel, the block that begins at k, and the tiles [first, end). The block of weights serves all tiles from the
// cache, decoded to floats before where that takes long.
template <WeightKind KIND>
static void multiply_block(const Linear& linear, const float* x, int rows, int k, int first, int end, FloatTask task) {
  constexpr WeightKind USED = decodes_easily(KIND) ? KIND : WeightKind::f32;
  alignas(64) float decoded[USED == KIND ? 1 : FLOAT_BLOCK * PANEL];
  int left = linear.padded_inputs - k, inputs = block_inputs(linear);
  task.inputs = task.group = left < inputs ? left : inputs;
  task.first = k == 0;
  task.last = left <= inputs;
  task.weights += weight_offset(linear, k);
  int fetches = task.inputs / word_inputs(USED);
  task.ahead = task.weights + linear.panel_bytes;  // the next panel's block, in equal parts by all tiles
  task.ahead_step = (int)(weight_offset(linear, task.inputs) / ((end - first) * fetches));
  if constexpr (USED != KIND) {
    decode_block<KIND>(linear, task.weights, task.inputs, decoded);
    task.weights = (const uint8_t*)decoded;
  }
  float* out = task.out;
  for (int t = first; t < end; t++, task.ahead += (size_t)fetches * task.ahead_step) {
    RowTile tile = row_tile(rows, t);
    task.x = x + input_offset(linear, rows, k, tile);
    task.out = out + tile.begin * task.out_stride;
    for (int r = tile.rows; r < 2 * tile.rows; r++) {  // the sums of the next tile lie far apart
      prefetch(task.out + r * task.out_stride);
      prefetch(task.out + r * task.out_stride + LINE);
    }
    tile_of<USED, FLOAT_ROWS>(tile.rows, task);
  }
}

// Many rows: inputs of FLOAT_STRIP tiles and a block of k stay in the cache for all panels.
template <WeightKind KIND>
static void multiply_blocks(const Linear& linear, const float* x, int rows, int begin, int end, float* out,
                            int64_t out_stride) {
  const int tiles = row_tiles(rows), strips = (tiles + FLOAT_STRIP - 1) / FLOAT_STRIP, inputs = block_inputs(linear);
  for (int strip = 0; strip < strips; strip++)
    for (int k = 0; k < linear.padded_inputs; k += inputs)
      for (int panel = begin; panel < end; panel++)
        multiply_block<KIND>(linear, x, rows, k, tiles * strip / strips, tiles * (strip + 1) / strips,
                             float_task(linear, panel, out, out_stride));
}

template <WeightKind KIND>
INLINE void multiply_kind(const Linear& linear, const Activations& in, int rows, int begin, int end, float* out,
                          int64_t out_stride) {
  // The rows up to which weights are decoded as they are used and read once: one tile, or fewer where decoding is slow.
  constexpr int ONCE = decodes_easily(KIND) ? FLOAT_ROWS : 4;
  const float* x = (const float*)in.data;
  if (rows <= ONCE)
    multiply_once<KIND, ONCE>(linear, x, rows, begin, end, out, out_stride);
  else
    multiply_blocks<KIND>(linear, x, rows, begin, end, out, out_stride);
}

static void multiply_float(const Linear& linear, const Activations& in, int rows, int begin, int end, float* out,
                           int64_t out_stride) {
  switch (linear.kind) {
    case WeightKind::f32: return multiply_kind<WeightKind::f32>(linear, in, rows, begin, end, out, out_stride);
    case WeightKind::bf16: return multiply_kind<WeightKind::bf16>(linear, in, rows, begin, end, out, out_stride);
    case WeightKind::f16: return multiply_kind<WeightKind::f16>(linear, in, rows, begin, end, out, out_stride);
    case WeightKind::fp8: return multiply_kind<WeightKind::fp8>(linear, in, rows, begin, end, out, out_stride);
    case WeightKind::table4: return multiply_kind<WeightKind::table4>(linear, in, rows, begin, end, out, out_stride);
    case WeightKind::int8:
    case WeightKind::int4: return;  // ../linear_int8.h, linear_int4.h
  }
}
