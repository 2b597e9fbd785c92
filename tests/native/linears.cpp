#include "linears.h"

#include <cmath>
#include <memory>

#include "numbers.h"

namespace tgi::tests {
namespace {

constexpr float NF4[16] = {-1.0f,        -0.6961928f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f,
                           -0.09105004f, 0.0f,        0.0795803f,   0.1609302f,   0.2461123f,   0.33791524f,
                           0.44070983f,  0.562617f,   0.72295684f,  1.0f};

std::unique_ptr<PackedLinear> pack_asymmetric(int outputs, int inputs, int group, const float* bias, Random& random) {
  const size_t groups = size_t((inputs + group - 1) / group) * size_t(outputs);
  std::vector<uint8_t> codes(size_t(outputs) * size_t(inputs)), zeros(groups);
  std::vector<float> scales(groups);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(16));
  for (uint8_t& zero : zeros) zero = static_cast<uint8_t>(random.below(16));
  for (float& scale : scales) scale = 0.01f + 0.02f * random.uniform();
  Pool pool(1);
  return pack_codes(
      pool, {WeightKind::int4, codes.data(), scales.data(), zeros.data(), outputs, inputs, group, nullptr}, bias);
}

std::unique_ptr<PackedLinear> pack_random(const LinearKind& kind, int outputs, int inputs, bool biased,
                                          Random& random) {
  std::vector<float> bias(static_cast<size_t>(outputs)), values(size_t(outputs) * size_t(inputs));
  for (float& number : bias) number = random.normal();
  const float* added = biased ? bias.data() : nullptr;
  if (kind.asymmetric) return pack_asymmetric(outputs, inputs, kind.group, added, random);
  for (float& number : values) number = random.normal() * 0.1f;
  Pool pool(1);
  return pack(pool, kind.kind, {{values.data(), WeightKind::f32, outputs, inputs}}, added, kind.group, NF4);
}

size_t row_scale_count(const Linear& linear) { return linear.scales ? size_t(linear.panels) * PANEL : 0; }
size_t bias_count(const Linear& linear) { return linear.bias ? size_t(linear.panels) * PANEL : 0; }

// The law of kernels/quantize.h: a whole number in -127..127, and what to multiply it with.
struct Quantized {
  std::vector<int> numbers;
  float scale;
};
Quantized quantize(const float* x, int n) {
  float highest = 0;
  for (int i = 0; i < n; i++) highest = std::fmax(highest, std::fabs(x[i]));
  Quantized out{std::vector<int>(size_t(n)), 0};
  if (!(highest > 1e-30f)) return out;
  out.scale = highest / 127.0f;
  for (int i = 0; i < n; i++) out.numbers[size_t(i)] = static_cast<int>(std::nearbyint(x[i] * (127.0f / highest)));
  return out;
}

PlainOutput int8_output(const RandomLinear& linear, int output, const Quantized& x) {
  int64_t sum = 0;
  for (int k = 0; k < linear.view().inputs; k++)
    sum += static_cast<int64_t>(linear.code(output, k)) * x.numbers[size_t(k)];
  const float scale = static_cast<float>(linear.scale(output, 0)) * x.scale;
  const float product = static_cast<float>(sum) * scale;
  return {linear.view().bias ? product + linear.view().bias[output] : product, 0};
}

PlainOutput int4_output(const RandomLinear& linear, int output, const std::vector<Quantized>& groups) {
  double total = linear.bias(output), magnitude = std::fabs(total);
  for (size_t g = 0; g < groups.size(); g++) {
    const int first = static_cast<int>(g) * linear.view().group;
    int64_t sum = 0;
    for (size_t i = 0; i < groups[g].numbers.size(); i++)
      sum += static_cast<int64_t>(linear.code(output, first + static_cast<int>(i))) * groups[g].numbers[i];
    const double product = static_cast<double>(sum) * linear.scale(output, first) * groups[g].scale;
    total += product;
    magnitude += std::fabs(product);
  }
  return {total, 1e-6 * magnitude};
}

PlainOutput float_output(const RandomLinear& linear, int output, const float* x) {
  double total = linear.bias(output), magnitude = std::fabs(total);
  for (int k = 0; k < linear.view().inputs; k++) {
    const double product = linear.code(output, k) * linear.scale(output, k) * x[k];
    total += product;
    magnitude += std::fabs(product);
  }
  return {total, 1e-6 * magnitude};
}

}  // namespace

const std::vector<LinearKind>& linear_kinds() {
  static const std::vector<LinearKind> kinds = [] {
    std::vector<LinearKind> all;
    for (WeightKind kind : {WeightKind::f32, WeightKind::bf16, WeightKind::f16, WeightKind::fp8, WeightKind::int8})
      all.push_back({kind, 0, false});
    for (int group : {32, 64, 128}) {
      all.push_back({WeightKind::int4, group, false});
      all.push_back({WeightKind::int4, group, true});
      all.push_back({WeightKind::table4, group, false});
    }
    return all;
  }();
  return kinds;
}

RandomLinear::RandomLinear(const LinearKind& kind, int outputs, int inputs, bool biased, Random& random)
    : RandomLinear(*pack_random(kind, outputs, inputs, biased, random)) {}

RandomLinear::RandomLinear(const PackedLinear& packed)
    : view_(packed.view),
      weights_(packed.view.weights, packed.view.panel_bytes * size_t(packed.view.panels)),
      row_scales_(packed.view.scales, row_scale_count(packed.view)),
      bias_(packed.view.bias, bias_count(packed.view)),
      codes_(size_t(view_.outputs) * size_t(view_.inputs)),
      scales_(codes_.size()) {
  view_.weights = weights_.data();
  if (view_.scales) view_.scales = row_scales_.data();
  if (view_.bias) view_.bias = bias_.data();
  for (int n = 0; n < view_.outputs; n++)
    for (int k = 0; k < view_.inputs; k++) read(n, k);
}

// By the description of Linear in kernels.h.
void RandomLinear::read(int output, int input) {
  const size_t n = size_t(output) % PANEL, k = size_t(input);
  const uint8_t* panel = view_.weights + size_t(output) / PANEL * view_.panel_bytes;
  double &code = codes_[at(output, input)], &scale = scales_[at(output, input)];
  scale = view_.scales ? view_.scales[output] : 1;
  switch (view_.kind) {
    case WeightKind::f32: code = read_as<float>(panel + (k * PANEL + n) * 4); return;
    case WeightKind::bf16: code = from_bf16(read_as<uint16_t>(panel + ((k / 2 * PANEL + n) * 2 + k % 2) * 2)); return;
    case WeightKind::f16: code = from_f16(read_as<uint16_t>(panel + ((k / 2 * PANEL + n) * 2 + k % 2) * 2)); return;
    case WeightKind::fp8: code = from_e4m3(panel[(k / 4 * PANEL + n) * 4 + k % 4]); return;
    case WeightKind::int8: code = panel[(k / 4 * PANEL + n) * 4 + k % 4] - 128.0; return;
    case WeightKind::int4:
    case WeightKind::table4: break;
  }
  const size_t group = size_t(view_.group), j = k % group, nibbles = group / 8 * PANEL * 4;
  const uint8_t* at = panel + k / group * (nibbles + PANEL * 2 + (view_.asymmetric ? 64 : 0));
  const uint8_t byte = at[(j / 8 * PANEL + n) * 4 + j % 4], nibble = j % 8 < 4 ? byte & 15 : byte >> 4;
  scale = from_f16(read_as<uint16_t>(at + nibbles + n * 2));
  const int zero = view_.asymmetric ? at[nibbles + PANEL * 2 + n] : 8;
  code = view_.kind == WeightKind::table4 ? view_.table[nibble] : nibble - zero;
}

Prepared::Prepared(const Linear& linear, int rows)
    : data_(size_t(rows) * size_t(linear.padded_inputs + 64) * 4, 0xff),
      scales_(size_t(rows) * size_t(linear.group ? linear.padded_inputs / linear.group : 1), NOT_A_NUMBER),
      sums_(scales_.size(), 1 << 30),
      view_{data_.data(), scales_.data(), sums_.data()} {}

std::vector<PlainOutput> plain_outputs(const RandomLinear& linear, const float* x) {
  const Linear& view = linear.view();
  const bool int8 = view.kind == WeightKind::int8, int4 = view.kind == WeightKind::int4;
  const int group = int4 ? view.group : view.inputs;
  std::vector<Quantized> groups;
  for (int first = 0; (int8 || int4) && first < view.inputs; first += group)
    groups.push_back(quantize(x + first, std::min(group, view.inputs - first)));
  std::vector<PlainOutput> outputs;
  for (int n = 0; n < view.outputs; n++)
    outputs.push_back(int8   ? int8_output(linear, n, groups[0])
                      : int4 ? int4_output(linear, n, groups)
                             : float_output(linear, n, x));
  return outputs;
}

}  // namespace tgi::tests
