// The pages of the KV cache: how a position is written, and where the positions of a request lie.

INLINE vf widen(const float* p) { return load(p); }
INLINE vf widen(const uint16_t* p) { return load_bf16(p); }
INLINE vf widen(const int8_t* p) { return load_i8(p); }
INLINE void narrow(float* p, vf x) { store(p, x); }
INLINE void narrow(uint16_t* p, vf x) { store_bf16(p, x); }
// Within -127..127, a NaN too: its scale is one.
INLINE void narrow(int8_t* p, vf x) { store_i8(p, to_words(minimum(maximum(x, set1(-127.0f)), set1(127.0f)))); }

// ---- Writing -------------------------------------------------------------------------------------------------------

// x[i] * factor to out[i * stride], and zeros from n to the next multiple of LANES
template <typename T>
INLINE void scatter(const float* x, int n, float factor, T* out, int stride) {
  for (int i = 0; i < n; i += LANES) {
    T words[LANES] = {};
    for (int j = 0; j < LANES && i + j < n; j += W) narrow(words + j, load_first(x + i + j, n - i - j) * factor);
    for (int j = 0; j < LANES; j++) out[(i + j) * stride] = words[j];
  }
}

// max|x| / 127, or a NaN where x holds a number that is not finite: so it reaches whoever sees this position.
INLINE float int8_scale(const float* x, int n) {
  vf highest = {}, probe = {};
  for (int i = 0; i < n; i += W) {
    vf part = load_first(x + i, n - i);
    highest = maximum(absolute(part), highest);
    probe += part - part;
  }
  return reduce_max(highest) / 127 + reduce_add(probe);
}

template <typename T>
INLINE void store_row(const float* x, int n, uint8_t* out, size_t at, int stride, float* scale) {
  float factor = 1;
  if (scale) {
    *scale = int8_scale(x, n);
    factor = *scale > 1e-36f ? 1 / *scale : 0;  // smaller ones have no inverse, and round to zero
  }
  scatter(x, n, factor, (T*)out + at, stride);
}

template <typename T>
static void store_as(const KvCache& cache, int block, int slot, int kv_head, const float* key, const float* value) {
  size_t row = ((size_t)block * cache.kv_heads + kv_head) * cache.slots + slot, lane = slot % LANES;
  bool scaled = cache.kind == KvKind::int8;
  store_row<T>(key, cache.head_dim, cache.keys, (row - lane) * cache.dim + lane, LANES,
               scaled ? cache.key_scales + row : nullptr);
  store_row<T>(value, cache.head_dim, cache.values, row * cache.dim, 1, scaled ? cache.value_scales + row : nullptr);
}

static void store_kv(const KvCache& cache, int block, int slot, int kv_head, const float* key, const float* value) {
  if (cache.kind == KvKind::f32) return store_as<float>(cache, block, slot, kv_head, key, value);
  if (cache.kind == KvKind::bf16) return store_as<uint16_t>(cache, block, slot, kv_head, key, value);
  store_as<int8_t>(cache, block, slot, kv_head, key, value);
}

// ---- Reading -------------------------------------------------------------------------------------------------------

// LANES slots that lie side by side in a block are a group; the groups of a request are numbered from its first slot.
constexpr int GROUPS = PARTITION / LANES;
constexpr int KV_AHEAD = 4;  // groups between what is read and what is prefetched

// Where the groups [first, first + count) of one partition and KV head lie.
struct Partition {
  int first;
  int count;
  const void* keys[GROUPS];          // [dim][LANES]
  const void* values[GROUPS];        // [LANES][dim]
  const float* key_scales[GROUPS];   // null where the kind has none
  const float* value_scales[GROUPS];
  int position[GROUPS];              // lane j is position + j
  int filled[GROUPS];                // for j < filled; the rest is padding
  const void* next[2 * GROUPS];      // what to prefetch while keys, then values are read
};

// Groups [begin, end) that hold the positions [low, high), low < high
struct GroupRange {
  int begin, end;
};
INLINE int slot_of(const KvCache& cache, int position) {
  return position / cache.block_size * cache.slots + position % cache.block_size;
}
INLINE GroupRange groups_of(const KvCache& cache, int low, int high) {
  return {slot_of(cache, low) / LANES, slot_of(cache, high - 1) / LANES + 1};
}
// Those of partition `index`; begin >= end where there are none
INLINE GroupRange clip(GroupRange range, int index) {
  int first = index * GROUPS, last = first + GROUPS;
  return {range.begin > first ? range.begin : first, range.end < last ? range.end : last};
}

INLINE int bytes_of(KvKind kind) { return kind == KvKind::f32 ? 4 : kind == KvKind::bf16 ? 2 : 1; }

// Finds the groups of `range`. Where the reader goes on behind them, `more` groups follow in the request.
static void find_groups(const AttentionTask& task, GroupRange range, int more, Partition& out) {
  const KvCache& cache = *task.cache;
  int per_block = cache.slots / LANES, count = range.end - range.begin;
  const void* order[2 * GROUPS + KV_AHEAD];  // in the order of reading
  int block = range.begin / per_block, part = range.begin % per_block;
  more = more < KV_AHEAD ? more : KV_AHEAD;
  for (int i = 0; i < count + more; i++) {
    size_t slot = ((size_t)task.blocks[block] * cache.kv_heads + task.kv_head) * cache.slots + part * LANES;
    size_t offset = slot * cache.dim * bytes_of(cache.kind);
    if (i < count) {
      bool scaled = cache.kind == KvKind::int8;
      out.keys[i] = order[i] = cache.keys + offset;
      out.values[i] = order[count + i] = cache.values + offset;
      out.key_scales[i] = scaled ? cache.key_scales + slot : nullptr;
      out.value_scales[i] = scaled ? cache.value_scales + slot : nullptr;
      out.position[i] = block * cache.block_size + part * LANES;
      int left = cache.block_size - part * LANES;
      out.filled[i] = left < LANES ? left : LANES;
    } else {
      order[count + i] = cache.keys + offset;
    }
    if (++part == per_block) part = 0, block++;
  }
  for (int i = more; i < KV_AHEAD; i++) order[2 * count + i] = order[2 * count - 1];
  for (int i = 0; i < 2 * count; i++) out.next[i] = order[i + KV_AHEAD];
  out.first = range.begin;
  out.count = count;
}

template <typename T>
INLINE void widen_all(const void* from, float* to, int n) {
  for (int i = 0; i < n; i += W) store(to + i, widen((const T*)from + i));
}

// Copies keys and values as floats to `room`, 2 * count * LANES * dim of them, and points to those.
template <typename T>
static void widen_groups(int dim, float* room, Partition& partition) {
  int size = dim * LANES, count = partition.count;
  for (int i = 0; i < count; i++) {
    float *keys = room + i * size, *values = keys + count * size;
    widen_all<T>(partition.keys[i], keys, size);
    widen_all<T>(partition.values[i], values, size);
    partition.keys[i] = keys;
    partition.values[i] = values;
  }
  for (int i = 0; i < 2 * count; i++) partition.next[i] = room + (i + KV_AHEAD < 2 * count ? i + KV_AHEAD : i) * size;
}
