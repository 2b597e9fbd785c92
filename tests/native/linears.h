// Random linear layers of every kind, in memory that ends where the contract says it may.
#pragma once
#include <cstdint>
#include <vector>

#include "checks.h"
#include "pack.h"

namespace tgi::tests {

struct LinearKind {
  WeightKind kind;
  int group;  // int4, table4
  bool asymmetric;
};

// Every kind of weights, with every size of group.
const std::vector<LinearKind>& linear_kinds();

// A linear and its weights once more as plain numbers: a weight is code * scale.
class RandomLinear {
 public:
  RandomLinear(const LinearKind& kind, int outputs, int inputs, bool biased, Random& random);

  const Linear& view() const { return view_; }
  double code(int output, int input) const { return codes_[at(output, input)]; }
  double scale(int output, int input) const { return scales_[at(output, input)]; }
  double bias(int output) const { return view_.bias ? view_.bias[output] : 0; }

 private:
  explicit RandomLinear(const PackedLinear& packed);
  size_t at(int output, int input) const { return size_t(output) * size_t(view_.inputs) + size_t(input); }
  void read(int output, int input);

  Linear view_;
  Array<uint8_t> weights_;
  Array<float> row_scales_, bias_;
  std::vector<double> codes_, scales_;
};

// The prepared inputs of some rows of a linear.
class Prepared {
 public:
  Prepared(const Linear& linear, int rows);
  const Activations& view() const { return view_; }

 private:
  Array<uint8_t> data_;
  Array<float> scales_;
  Array<int32_t> sums_;
  Activations view_;
};

// The result of one row, from plain loops. `room` is how far a kernel that adds in another order may be off: 0 for int8
// weights, whose sums are exact.
struct PlainOutput {
  double value, room;
};
std::vector<PlainOutput> plain_outputs(const RandomLinear& linear, const float* x);

}  // namespace tgi::tests
