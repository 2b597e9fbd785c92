// From the matrices of a checkpoint to the panels that the kernels read (see Linear in kernels.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace tgi {

// A matrix [rows, columns] of a checkpoint, rows adjacent in memory; `type` is f32, bf16 or f16.
struct Matrix {
  const void* data;
  WeightKind type;
  int64_t rows;
  int64_t columns;
};

struct PackedLinear {
  Linear view{};
  std::unique_ptr<Memory> weights, scales, bias;
  size_t bytes() const;
};

// Stack the matrices (same columns) and pack them as `kind`, quantizing where it says so. `bias` [outputs] or null.
// group: int4 and table4. table: table4. steps: int8, whose scale is max|w| / steps (127, or EETQ's 128).
// Runs on the threads of the pool, which need one panel of floats each. Throws std::invalid_argument.
std::unique_ptr<PackedLinear> pack(Pool& pool, WeightKind kind, const std::vector<Matrix>& matrices, const float* bias,
                                   int group, const float* table, int steps = 127);

// Weights [rows, columns] that are quantized already. A number that is not finite among the scales makes the output of
// its row NaN, as it does in `pack`.
struct Codes {
  WeightKind kind;       // int8, int4 or table4
  const uint8_t* codes;  // one a byte: int8 as a signed byte, otherwise 0..15
  const float* scales;   // int8: [rows]; otherwise [rows, columns / group], rounded to f16 by packing
  const uint8_t* zeros;  // int4: [rows, columns / group] zero points 0..15, or null where all are 8
  int64_t rows;
  int64_t columns;
  int group;
  const float* table;
};

std::unique_ptr<PackedLinear> pack_codes(Pool& pool, const Codes& codes, const float* bias);

}  // namespace tgi
