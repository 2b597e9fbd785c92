// The pages of the KV cache: how a position is written, and where the positions of a request lie.

constexpr int32_t BYTE_FLIP = (int32_t)0x80808080;  // numbers of 8 bits are stored plus 128

INLINE void narrow(float* p, vf x) { store(p, x); }
INLINE void narrow(uint16_t* p, vf x) { store_bf16(p, x); }
// Within -127..127, a NaN too: its scale is one.
INLINE void narrow(int8_t* p, vf x) { store_i8(p, to_words(minimum(maximum(x, set1(-127.0f)), set1(127.0f)))); }

// Slots whose values share a word of 32 bits
template <typename T>
constexpr int slots_of_word() {
  return sizeof(T) == 1 ? 4 : 1;
}

// ---- Writing -------------------------------------------------------------------------------------------------------

// x * factor as n numbers of the kind, and zeros up to the next multiple of LANES: `run` of them side by side, then the
// next at a distance of `stride`
template <typename T>
INLINE void scatter(const float* x, int n, float factor, T* out, int run, int stride) {
  for (int i = 0; i < n; i += LANES) {
    T numbers[LANES] = {};
    for (int j = 0; j < LANES && i + j < n; j += W) narrow(numbers + j, load_first(x + i + j, n - i - j) * factor);
    if constexpr (sizeof(T) == 1)
      for (int j = 0; j < LANES; j++) numbers[j] ^= (T)BYTE_FLIP;
    for (int j = 0; j < LANES; j += run, out += stride)
      for (int k = 0; k < run; k++) out[k] = numbers[j + k];
  }
}

// max|x|, or a NaN where x holds a number that is not finite: so it reaches whoever sees it.
INLINE float highest_finite(const float* x, int n) {
  vf highest = {}, probe = {};
  for (int i = 0; i < n; i += W) {
    vf part = load_first(x + i, n - i);
    highest = maximum(absolute(part), highest);
    probe += part - part;
  }
  return reduce_max(highest) + reduce_add(probe);
}

INLINE size_t slot_at(const KvCache& cache, int block, int kv_head, int slot) {
  return ((size_t)block * cache.kv_heads + kv_head) * cache.slots + slot;
}

template <typename T>
INLINE void store_row(const float* x, int n, T* out, int run, int stride, float* scale) {
  float factor = 1;
  if (scale) {
    *scale = highest_finite(x, n) / 127;
    factor = *scale > 1e-36f ? 1 / *scale : 0;  // smaller ones have no inverse, and round to zero
  }
  scatter(x, n, factor, out, run, stride);
}

template <typename T>
static void store_as(const KvCache& cache, int block, int slot, int kv_head, const float* key, const float* value) {
  constexpr int PER_WORD = 4 / (int)sizeof(T), SLOTS = slots_of_word<T>();
  size_t row = slot_at(cache, block, kv_head, slot), lane = slot % LANES, place = slot % SLOTS;
  bool scaled = cache.kind == KvKind::int8;
  store_row(key, cache.head_dim, (T*)cache.keys + (row - lane) * cache.dim + lane * PER_WORD, PER_WORD,
            LANES * PER_WORD, scaled ? cache.key_scales + row : nullptr);
  store_row(value, cache.head_dim, (T*)cache.values + (row - place) * cache.dim + place, 1, SLOTS,
            scaled ? cache.value_scales + row : nullptr);
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
  const void* keys[GROUPS];          // [dim / P][LANES][P]
  const void* values[GROUPS];        // [LANES][dim], of 8 bits [LANES / 4][dim][4]
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
    size_t slot = slot_at(cache, task.blocks[block], task.kv_head, part * LANES);
    size_t offset = slot * cache.dim * bytes_of(cache.kind);
    if (i < count) {
      bool scaled = cache.kind == KvKind::int8;
      out.keys[i] = order[i] = cache.keys + offset;
      out.values[i] = order[count + i] = cache.values + offset;
      out.key_scales[i] = scaled ? cache.key_scales + slot : nullptr;
      out.value_scales[i] = scaled ? cache.value_scales + slot : nullptr;
      if (scaled) prefetch(out.key_scales[i]), prefetch(out.value_scales[i]);  // read once all keys are
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

// Number j of each word
INLINE vf number(const float*, vi word, int) { return as_floats(word); }
INLINE vf number(const uint16_t*, vi word, int j) { return j ? bf16_high(word) : bf16_low(word); }
INLINE vf number(const int8_t*, vi word, int j) { return to_floats((word >> (8 * j) & 255) - 128); }

// A vector of dims of the values of lane `lane`
INLINE vf value_at(const float* group, int lane, int dim, int d) { return load(group + lane * dim + d); }
INLINE vf value_at(const uint16_t* group, int lane, int dim, int d) { return load_bf16(group + lane * dim + d); }
INLINE vf value_at(const int8_t* group, int lane, int dim, int d) {
  return number(group, load_words(group + (lane / 4 * dim + d) * 4), lane % 4);
}

template <typename T>
INLINE void widen_keys(const void* from, float* to, int n) {
  constexpr int PER_WORD = 4 / (int)sizeof(T);
  const int32_t* word = (const int32_t*)from;
  for (int i = 0; i < n; i += LANES * PER_WORD, to += LANES * (PER_WORD - 1))
    for (int lane = 0; lane < LANES; lane += W, word += W, to += W)
      for (int j = 0; j < PER_WORD; j++) store(to + j * LANES, number((const T*)nullptr, load_words(word), j));
}
template <typename T>
INLINE void widen_values(const void* from, float* to, int dim) {
  for (int lane = 0; lane < LANES; lane++)
    for (int d = 0; d < dim; d += W) store(to + lane * dim + d, value_at((const T*)from, lane, dim, d));
}

// Copies keys and values as floats to `room`, 2 * count * LANES * dim of them, and points to those.
template <typename T>
static void widen_groups(int dim, float* room, Partition& partition) {
  int size = dim * LANES, count = partition.count;
  for (int i = 0; i < count; i++) {
    float *keys = room + i * size, *values = keys + count * size;
    widen_keys<T>(partition.keys[i], keys, size);
    widen_values<T>(partition.values[i], values, dim);
    partition.keys[i] = keys;
    partition.values[i] = values;
  }
  for (int i = 0; i < 2 * count; i++) partition.next[i] = room + (i + KV_AHEAD < 2 * count ? i + KV_AHEAD : i) * size;
}
