// Attention over the pages of one KV head: for each query and head ("row") the sums of p * value, p = exp(score -
// maximum), over one partition of the slots after the other, combined in ascending order (Dao, "FlashAttention", 2022).
//
// Rows are worked on in tiles that share what is read of the cache. Each row's numbers are what they are alone: lanes
// hold slots or dims, never rows, and each sum runs over slots or dims in ascending order. What a row does not see may
// be anything, a NaN too: its scores are replaced and its values are not added.
#include "kv.h"
#include "attention_tile.h"

constexpr int PANEL_TILES = 16;  // tiles that read one copy of a partition as floats
constexpr int PANEL_ROWS = PANEL_TILES * TILE_ROWS;

struct Panel {
  int rows;
  int tiles;
  int low, high;  // the positions that any row sees
  Tile tile[PANEL_TILES];
};

struct Scratch {
  float* queries;   // [PANEL_ROWS][dim]
  float* scores;    // [TILE_ROWS][SCORE_STRIDE]
  float* partials;  // [PANEL_ROWS][dim + 16]
  float* states;    // [PANEL_ROWS][dim + 16]
  float* floats;    // [2][PARTITION][dim]
};

INLINE Scratch scratch_in(float* memory, const KvCache& cache) {
  float* scores = memory + PANEL_ROWS * cache.dim;
  float* partials = scores + TILE_ROWS * SCORE_STRIDE;
  float* states = partials + PANEL_ROWS * (cache.dim + 16);
  return {memory, scores, partials, states, states + PANEL_ROWS * (cache.dim + 16)};
}

static int attention_scratch(const KvCache& cache, int) {
  return PANEL_ROWS * cache.dim + TILE_ROWS * SCORE_STRIDE + 2 * PANEL_ROWS * (cache.dim + 16) +
         2 * PARTITION * cache.dim;
}

// ---- A panel of tiles ----------------------------------------------------------------------------------------------

INLINE void write_query(const float* x, int n, int dim, int rows, float* out) {
  for (int d = 0; d < dim; d += W)
    store(out + d / LANES * rows * LANES + d % LANES, load_first(x + d, n - d) * LOG2_E);
}

// The rows [first, first + rows) of the task: what they see, and their queries as the kernels read them
static void make_panel(const AttentionTask& task, int first, int rows, float* queries, Panel& panel) {
  int head_dim = task.cache->head_dim, dim = task.cache->dim;
  bool digits = by_digits(*task.cache);
  int query = first / task.group, head = first % task.group;
  panel.rows = rows;
  panel.tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
  for (int i = 0, row = 0; i < panel.tiles; i++) {
    Tile& tile = panel.tile[i];
    tile.rows = rows * (i + 1) / panel.tiles - row;
    tile.queries = queries + row * dim;
    for (int r = 0; r < tile.rows; r++, row++) {
      int after = task.start + query + 1;
      tile.low[r] = task.causal && task.window && after > task.window ? after - task.window : 0;
      tile.high[r] = task.causal ? after : task.length;
      const float* from = task.queries + query * task.query_stride + head * head_dim;
      float* to = queries + (row - r) * dim;
      if (digits) {
        tile.fixed[r] = fix(from, head_dim, dim, highest_finite(from, head_dim), (Digits*)to + r, tile.rows);
        tile.fixed[r].scale *= LOG2_E;
      } else {
        write_query(from, head_dim, dim, tile.rows, to + r * LANES);
      }
      if (++head == task.group) head = 0, query++;
    }
  }
  const Tile& last = panel.tile[panel.tiles - 1];
  panel.low = panel.tile[0].low[0];
  panel.high = last.high[last.rows - 1];
}

INLINE int panel_rows(const AttentionTask& task, int first) {
  int rows = task.num_queries * task.group - first;
  return rows < PANEL_ROWS ? rows : PANEL_ROWS;
}

// Partition `index` of the panel's rows: out [rows][dim + 16]. `more`: the caller goes on with the next partition.
template <typename T>
static void attend_panel(const AttentionTask& task, const Panel& panel, int index, bool more, const Scratch& scratch,
                         float* out) {
  const KvCache& cache = *task.cache;
  GroupRange whole = groups_of(cache, panel.low, panel.high), range = clip(whole, index);
  Partition partition;
  bool several = panel.tiles > 1 && !by_digits(cache);
  if (range.begin < range.end) {
    find_groups(task, range, more ? whole.end - range.end : 0, partition);
    if (several) widen_groups<T>(cache.dim, scratch.floats, partition);
  }
  for (int i = 0; i < panel.tiles; i++) {
    const Tile& tile = panel.tile[i];
    GroupRange part = clip(groups_of(cache, tile.low[0], tile.high[tile.rows - 1]), index);
    if (part.begin < part.end) {
      part = {part.begin - partition.first, part.end - partition.first};
      if (several) attend_tile<float>(task, partition, part, tile, scratch.scores, out);
      else attend_tile<T>(task, partition, part, tile, scratch.scores, out);
    } else {
      for (int r = 0; r < tile.rows; r++) out[r * (cache.dim + 16) + cache.dim + 1] = 0;
    }
    out += tile.rows * (cache.dim + 16);
  }
}

static void attend_panel(const AttentionTask& task, const Panel& panel, int index, bool more, const Scratch& scratch,
                         float* out) {
  KvKind kind = task.cache->kind;
  if (kind == KvKind::f32) return attend_panel<float>(task, panel, index, more, scratch, out);
  if (kind == KvKind::bf16) return attend_panel<uint16_t>(task, panel, index, more, scratch, out);
  attend_panel<int8_t>(task, panel, index, more, scratch, out);
}

// ---- From partition to partition -----------------------------------------------------------------------------------

// Adds the next partition to the sums so far. A sum of p of zero: nothing was seen (yet).
static void merge_row(float* state, const float* partial, int dim) {
  const float* next = partial + dim;
  float* now = state + dim;
  if (next[1] == 0) return;
  if (now[1] == 0) {
    __builtin_memcpy(state, partial, (dim + 2) * sizeof(float));
    return;
  }
  float highest = now[0] > next[0] ? now[0] : next[0];
  vf keep = power_of_2(set1(now[0] - highest)), take = power_of_2(set1(next[0] - highest));
  for (int d = 0; d < dim; d += W) store(state + d, fma(load(partial + d), take, load(state + d) * keep));
  now[0] = highest;
  now[1] = fma(set1(next[1]), take, set1(now[1]) * keep)[0];
}

// The results of the rows [first, first + rows) of the task
static void finish_rows(const AttentionTask& task, int first, int rows, const float* states) {
  int dim = task.cache->dim, head_dim = task.cache->head_dim;
  for (int r = 0; r < rows; r++, states += dim + 16) {
    int row = first + r;
    float* out = task.out + row / task.group * task.out_stride + row % task.group * head_dim;
    float inverse = 1 / states[dim + 1];
    for (int d = 0; d < head_dim; d += W) store_first(out + d, load(states + d) * inverse, head_dim - d);
  }
}

static void attend(const AttentionTask& task, float* memory) {
  const KvCache& cache = *task.cache;
  Scratch scratch = scratch_in(memory, cache);
  int stride = cache.dim + 16;
  Panel panel;
  for (int first = 0; first < task.num_queries * task.group; first += panel.rows) {
    make_panel(task, first, panel_rows(task, first), scratch.queries, panel);
    for (int r = 0; r < panel.rows; r++) scratch.states[r * stride + cache.dim + 1] = 0;
    GroupRange groups = groups_of(cache, panel.low, panel.high);
    for (int index = groups.begin / GROUPS; index * GROUPS < groups.end; index++) {
      attend_panel(task, panel, index, true, scratch, scratch.partials);
      for (int r = 0; r < panel.rows; r++)
        merge_row(scratch.states + r * stride, scratch.partials + r * stride, cache.dim);
    }
    finish_rows(task, first, panel.rows, scratch.states);
  }
}

static void attend_partial(const AttentionTask& task, int begin, int end, const AttentionPartial* out, float* memory) {
  Scratch scratch = scratch_in(memory, *task.cache);
  int stride = task.cache->dim + 16;
  Panel panel;
  for (int first = 0; first < task.num_queries * task.group; first += panel.rows) {
    make_panel(task, first, panel_rows(task, first), scratch.queries, panel);
    for (int index = begin; index < end; index++)
      attend_panel(task, panel, index, index + 1 < end, scratch, out[index - begin].data + (int64_t)first * stride);
  }
}

// Leaves the sums over all partitions in the first partial.
static void combine(const AttentionTask& task, const AttentionPartial* partials, int count) {
  int rows = task.num_queries * task.group, stride = task.cache->dim + 16;
  for (int64_t r = 0; r < rows; r++)
    for (int i = 1; i < count; i++) merge_row(partials[0].data + r * stride, partials[i].data + r * stride, stride - 16);
  finish_rows(task, 0, rows, partials[0].data);
}
