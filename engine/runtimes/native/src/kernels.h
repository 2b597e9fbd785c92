// The line between the executor and the kernels: plain structs and one table of functions for each instruction set.
//
// The executor (program.cpp, pool.cpp, module.cpp, pack.cpp, sampler/) is compiled for the oldest CPU. Each
// kernels_<isa>.cpp is compiled for its own instruction set, includes simd/<isa>.h and kernels/*.h inside its own
// namespace, and exports nothing but its table. A kernel file may include C headers and intrinsics only: an inline
// function or template of the C++ library compiled there with AVX-512 could be the copy that the linker keeps for
// every CPU.
//
// Law of every kernel: a result row is a function of its own inputs alone, bit for bit, whatever the number of rows,
// their place, and how the work is split over threads. So each output is summed in one fixed order.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tgi {

// ---- Linear layers -------------------------------------------------------------------------------------------------

enum class WeightKind : int32_t { f32, bf16, f16, int8, int4, table4, fp8 };

constexpr int PANEL = 32;  // outputs of a panel; weights are stored panel by panel, inputs (k) ascending inside

// The weights of y = W x + bias, W [outputs, inputs]. What a panel holds, for its 32 outputs n and all k, in order:
//
//   f32      [k][32] float
//   bf16,f16 [k / 2][32][2] 16-bit: a 32-bit word holds k even (low half) and k odd (high half) of one output
//   fp8      [k / 4][32][4] e4m3 bytes
//   int8     [k / 4][32][4] uint8: the weight plus 128
//   int4     for each group of `group` k:
//              [group / 8][32][4] uint8: the low nibbles are k = 8 j + 0..3, the high nibbles k = 8 j + 4..7,
//              then 32 scales f16; then, if `asymmetric`, 32 zero points uint8 and 32 bytes of padding.
//            A weight is scale * (nibble - zero), with a zero of 8 where not asymmetric.
//   table4   as int4 without zero points: a weight is scale * table[nibble]  (nf4, fp4)
//
// `panel_bytes` is the distance between panels, a multiple of 64. `padded_inputs` is inputs rounded up to a multiple of
// `group` (int4, table4), 4 (int8, fp8), 2 (bf16, f16), 1 (f32); the padding holds weights of zero.
struct Linear {
  WeightKind kind;
  int32_t outputs;  // N
  int32_t inputs;   // K
  int32_t padded_inputs;
  int32_t panels;       // ceil(outputs / PANEL)
  int32_t group;        // int4, table4: 32, 64 or 128; otherwise 0
  int32_t asymmetric;   // int4
  int32_t reserved;
  size_t panel_bytes;
  const uint8_t* weights;  // 64-byte aligned, readable for 4096 bytes past the end (prefetch)
  const float* scales;     // int8, fp8: [panels * PANEL], one for each output
  const float* bias;       // [panels * PANEL] or null
  float table[16];         // table4
};

// The inputs of one linear, prepared for its kernel. Rows lie in tiles, k outermost inside a tile, in the form the
// kernel reads; the layout is the business of `prepare` and `multiply` of one instruction set.
struct Activations {
  void* data;      // rows * (padded_inputs + 64) * 4 bytes are enough for every kind
  float* scales;   // int8: [rows]; int4: [rows * padded_inputs / group]
  int32_t* sums;   // as scales: the sum of the quantized inputs
};

// ---- KV cache and attention ----------------------------------------------------------------------------------------

enum class KvKind : int32_t { f32, bf16, int8 };

constexpr int LANES = 16;         // positions that lie side by side in the keys of a block
constexpr int PARTITION = 256;    // slots of attention that are reduced on their own, then combined in order

// One layer's pages. Position p of a request lies in block blocks[p / block_size], at slot p % block_size.
// A block holds, for each KV head: keys [slots / 16][dim / P][16][P], where P numbers fill 32 bits, and values
// [slots][dim], for int8 [slots / 4][dim][4]. slots is block_size rounded up to 16, dim is head_dim rounded up to 16
// (the padding of values stays zero). int8 is stored plus 128, as dot products take it, and has one float scale for each
// slot and head, in `key_scales` and `value_scales` [blocks][kv_heads][slots].
struct KvCache {
  KvKind kind;
  int32_t block_size;
  int32_t slots;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t dim;
  uint8_t* keys;
  uint8_t* values;
  float* key_scales;
  float* value_scales;
};

// Queries of one request that share one KV head: `num_queries` positions from `start` on, `group` heads each.
// Query i, head h lies at queries + i * query_stride + h * head_dim, its result goes to out + i * out_stride +
// h * head_dim. Queries are scaled already. A query at p sees max(0, p + 1 - window) .. p (window 0: all), or, if not
// causal, every position below `length`.
struct AttentionTask {
  const KvCache* cache;
  const int32_t* blocks;
  int32_t kv_head;
  int32_t group;
  int32_t start;
  int32_t num_queries;
  int32_t length;   // positions in the cache; start + num_queries for a causal decoder
  int32_t causal;
  int32_t window;   // 0: none
  float softcap;    // 0: none
  const float* queries;
  int64_t query_stride;
  float* out;
  int64_t out_stride;
};

// What one partition of the positions gives for one (query, head): `dim` sums of p * value, then the maximum score and
// the sum of p. Partition j is the slots [j * PARTITION, (j + 1) * PARTITION) of the request's padded sequence of slots
// (block i of the request holds slots i * slots .. (i + 1) * slots), so its place does not depend on the batch.
struct AttentionPartial {
  float* data;      // [num_queries * group][dim + 16]: sums, maximum at [dim], sum of p at [dim + 1]
};

// ---- The table -----------------------------------------------------------------------------------------------------

enum class Norm : int32_t { rms, layer };
enum class Activation : int32_t { silu, gelu, gelu_tanh };

// Rows of floats are 64-byte aligned and padded to a multiple of 16 floats; the padding may be read and written.
struct Kernels {
  const char* name;  // portable, avx2, avx512, avx512vnni, neon

  // A row of the embedding as floats, times scale. kind: f32, bf16 or f16.
  void (*embed)(const void* row, WeightKind kind, float scale, float* out, int n);
  void (*norm)(Norm kind, const float* x, const float* weight, const float* bias, float eps, float* out, int n);
  void (*add)(float* x, const float* y, float scale, int n);  // x += scale * y
  // out = act(gate) * up, or act(gate) where up is null
  void (*activate)(Activation kind, const float* gate, const float* up, float* out, int n);
  // Turn one head in place: pairs (j, j + half), or (2j, 2j + 1) where interleaved; then multiply all dim by scale.
  void (*rotate)(float* head, const float* cos, const float* sin, int half, int interleaved, float scale, int dim);
  void (*scale_cap)(float* x, float scale, float cap, int n);  // x = cap * tanh(scale * x / cap); cap 0: scale * x

  // Prepare row `row` of `rows` (n = linear.inputs floats at x) as input of `linear`.
  void (*prepare)(const Linear& linear, const float* x, int row, int rows, const Activations& out);
  // out[row * out_stride + n] for all rows and the outputs n of the panels [begin, end), bias added. Writes whole
  // panels: rows of `out` have room for panels * PANEL floats.
  void (*multiply)(const Linear& linear, const Activations& in, int rows, int begin, int end, float* out,
                   int64_t out_stride);

  // Write key and value [head_dim] of one position and KV head.
  void (*store_kv)(const KvCache& cache, int block, int slot, int kv_head, const float* key, const float* value);
  // All partitions, combined: the finished result of the task. scratch: attention_scratch floats.
  void (*attend)(const AttentionTask& task, float* scratch);
  // Only the partitions [begin, end), one partial after the other into out. Same numbers as inside `attend`.
  void (*attend_partial)(const AttentionTask& task, int begin, int end, const AttentionPartial* out, float* scratch);
  // The finished result from all partials of the task, in order; the same arithmetic as inside `attend`.
  void (*combine)(const AttentionTask& task, const AttentionPartial* partials, int count);
  int (*attention_scratch)(const KvCache& cache, int group);  // floats a thread needs

  // The first id of the highest number; -1 where a NaN is in the row.
  int (*argmax)(const float* row, int n);

  // Ceilings, for benchmarks: bytes read from memory, and rounds of 12 x 16 independent operations.
  uint64_t (*read)(const uint8_t* bytes, size_t n);
  float (*fma_rounds)(int64_t rounds);   // one round: 12 vectors of 16 floats, one multiply-add each
  int64_t (*dot_rounds)(int64_t rounds); // one round: 12 vectors of 64 products, added in fours
};

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512vnni_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

}  // namespace tgi
