// The numbers of the formats that kernels.h names, read one by one from their definitions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace tgi::tests {

template <typename T>
T read_as(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// Sign, `exponent_bits` of exponent and the rest mantissa; the highest exponent is infinity and NaN.
inline double small_float(uint32_t bits, int total_bits, int exponent_bits) {
  const int mantissa_bits = total_bits - 1 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const double sign = bits >> (total_bits - 1) & 1 ? -1 : 1, fraction = std::ldexp(double(mantissa), -mantissa_bits);
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? std::nan("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1 + fraction, exponent - bias) : std::ldexp(fraction, 1 - bias));
}

inline double from_f16(uint16_t bits) { return small_float(bits, 16, 5); }
inline double from_bf16(uint16_t bits) { return small_float(bits, 16, 8); }
// As above, but that its highest exponent is one of numbers, and only 0x7f and 0xff are NaN.
inline double from_e4m3(uint8_t bits) {
  if ((bits & 0x78) != 0x78) return small_float(bits, 8, 4);
  if ((bits & 7) == 7) return std::nan("");
  return (bits & 0x80 ? -1 : 1) * std::ldexp(1 + (bits & 7) / 8.0, 8);
}

// Number i of a row that is stored as f32, bf16 or f16.
inline double stored_number(const uint8_t* row, WeightKind kind, size_t i) {
  if (kind == WeightKind::f32) return read_as<float>(row + 4 * i);
  const uint16_t bits = read_as<uint16_t>(row + 2 * i);
  return kind == WeightKind::bf16 ? from_bf16(bits) : from_f16(bits);
}

}  // namespace tgi::tests
