#include "pack.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "quantize.h"

namespace tgi {
namespace {

int round_up(int64_t count, int unit) { return (int)((count + unit - 1) / unit * unit); }

bool in_groups(WeightKind kind) { return kind == WeightKind::int4 || kind == WeightKind::table4; }
bool scaled_by_row(WeightKind kind) { return kind == WeightKind::int8 || kind == WeightKind::fp8; }

// How many inputs share a 32-bit word.
int inputs_of_word(WeightKind kind) {
  switch (kind) {
    case WeightKind::f32: return 1;
    case WeightKind::bf16:
    case WeightKind::f16: return 2;
    case WeightKind::int8:
    case WeightKind::fp8: return 4;
    default: return 8;
  }
}

// Words of one output and 32 outputs' scales and zero points, group by group; without groups all words are one.
struct Layout {
  int groups;
  int words;         // of one output in one group
  size_t group_bytes;

  explicit Layout(const Linear& linear) {
    bool grouped = in_groups(linear.kind);
    int inputs = grouped ? linear.group : linear.padded_inputs;
    groups = grouped ? linear.padded_inputs / linear.group : 1;
    words = inputs / inputs_of_word(linear.kind);
    group_bytes = (size_t)words * PANEL * 4 + (grouped ? 2 * PANEL : 0) + (linear.asymmetric ? 2 * PANEL : 0);
  }
  uint8_t* scales(uint8_t* group) const { return group + (size_t)words * PANEL * 4; }
  uint8_t* zeros(uint8_t* group) const { return scales(group) + 2 * PANEL; }
};

void check(WeightKind kind, int64_t rows, int64_t columns, int group, const float* table) {
  if (rows < 1 || columns < 1 || rows > INT32_MAX - PANEL || columns > INT32_MAX - 128)
    throw std::invalid_argument("a linear of " + std::to_string(rows) + " x " + std::to_string(columns) + " weights");
  if (in_groups(kind) && group != 32 && group != 64 && group != 128)
    throw std::invalid_argument("groups of " + std::to_string(group) + " weights; 32, 64 and 128 can be packed");
  if (kind == WeightKind::table4 && table == nullptr) throw std::invalid_argument("table4 needs its table");
}

// The linear with its memory, weights still zero bytes.
std::unique_ptr<PackedLinear> make_linear(WeightKind kind, int64_t rows, int64_t columns, int group, bool asymmetric,
                                          const float* table, const float* bias) {
  check(kind, rows, columns, group, table);
  auto packed = std::make_unique<PackedLinear>();
  Linear& view = packed->view;
  view.kind = kind;
  view.outputs = (int)rows;
  view.inputs = (int)columns;
  view.group = in_groups(kind) ? group : 0;
  view.padded_inputs = round_up(columns, in_groups(kind) ? group : inputs_of_word(kind));
  view.panels = round_up(rows, PANEL) / PANEL;
  view.asymmetric = asymmetric;
  Layout layout(view);
  view.panel_bytes = layout.group_bytes * (size_t)layout.groups;
  packed->weights = std::make_unique<Memory>(view.panel_bytes * (size_t)view.panels);
  view.weights = packed->weights->data();
  size_t row_bytes = (size_t)view.panels * PANEL * sizeof(float);
  if (scaled_by_row(kind)) {
    packed->scales = std::make_unique<Memory>(row_bytes);
    view.scales = reinterpret_cast<const float*>(packed->scales->data());
  }
  if (bias != nullptr) {
    packed->bias = std::make_unique<Memory>(row_bytes);
    memcpy(packed->bias->data(), bias, (size_t)rows * sizeof(float));
    view.bias = reinterpret_cast<const float*>(packed->bias->data());
  }
  if (kind == WeightKind::table4) std::copy_n(table, 16, view.table);
  return packed;
}

// One panel on its way: numbers or codes of 32 outputs, each row as it will lie in words. What no row fills is zero.
struct Panel {
  int stride;  // numbers of a row, with room for whole vectors
  std::vector<float> values;
  std::vector<uint32_t> words;   // [PANEL][stride], the first layout.groups * layout.words of each row
  std::vector<uint8_t> codes;    // [stride], of one row
  std::vector<uint16_t> scales;  // [PANEL][groups]
  std::vector<uint8_t> zeros;    // [PANEL][groups]

  Panel(const Linear& linear, const Layout& layout)
      : stride(round_up(linear.padded_inputs, 16)),
        values((size_t)stride),
        words((size_t)PANEL * stride),
        codes((size_t)stride),
        scales((size_t)PANEL * layout.groups),
        zeros((size_t)PANEL * layout.groups) {}

  uint32_t* row(int output) { return words.data() + (size_t)output * stride; }

  // Two nibbles a byte: of each 8 inputs the first four low, the others high.
  void join_nibbles(int output, int count) {
    uint32_t* out = row(output);
    for (int j = 0; j < count / 8; j++) {
      uint32_t low, high;
      memcpy(&low, &codes[(size_t)j * 8], 4);
      memcpy(&high, &codes[(size_t)j * 8 + 4], 4);
      out[j] = low | high << 4;
    }
  }

  // The words of 32 outputs side by side, in blocks that stay in the cache.
  void write(const Linear& linear, const Layout& layout, uint8_t* out) {
    for (int g = 0; g < layout.groups; g++, out += layout.group_bytes) {
      uint32_t* target = reinterpret_cast<uint32_t*>(out);
      for (int first = 0; first < layout.words; first += 16) {
        int last = std::min(first + 16, layout.words);
        for (int n = 0; n < PANEL; n++) {
          const uint32_t* source = row(n) + (size_t)g * layout.words;
          for (int word = first; word < last; word++) target[(size_t)word * PANEL + n] = source[word];
        }
      }
      if (!in_groups(linear.kind)) continue;
      for (int n = 0; n < PANEL; n++) {
        memcpy(layout.scales(out) + 2 * n, &scales[(size_t)n * layout.groups + g], 2);
        if (linear.asymmetric) layout.zeros(out)[n] = zeros[(size_t)n * layout.groups + g];
      }
    }
  }
};

// Row `row` of a matrix as floats.
void read_row(const Matrix& matrix, int64_t row, float* out) {
  int64_t n = matrix.columns, whole = n / W * W;
  if (matrix.type == WeightKind::f32) {
    memcpy(out, static_cast<const float*>(matrix.data) + row * n, (size_t)n * sizeof(float));
    return;
  }
  const uint16_t* source = static_cast<const uint16_t*>(matrix.data) + row * n;
  bool brain = matrix.type == WeightKind::bf16;
  for (int64_t i = 0; i < whole; i += W) store(out + i, brain ? load_bf16(source + i) : widen_f16(source + i));
  for (int64_t i = whole; i < n; i++) {
    uint16_t last[W] = {source[i]};
    out[i] = (brain ? load_bf16(last) : widen_f16(last))[0];
  }
}

// Round the row in panel.values to the kind of the linear, as output `n` of the panel. `scale`: of the whole row.
void round_row(const Linear& linear, const Layout& layout, Panel& panel, int n, int steps, const Steps& table,
               float* scale) {
  const float* values = panel.values.data();
  uint8_t* bytes = reinterpret_cast<uint8_t*>(panel.row(n));
  uint16_t* scales = &panel.scales[(size_t)n * layout.groups];
  int group = linear.group;
  switch (linear.kind) {
    case WeightKind::f32: memcpy(bytes, values, (size_t)linear.padded_inputs * sizeof(float)); break;
    case WeightKind::bf16:
      for (int i = 0; i < panel.stride; i += W) store_halves(bytes + 2 * i, round_bf16(load(values + i)));
      break;
    case WeightKind::f16:
      for (int i = 0; i < panel.stride; i += W) store_halves(bytes + 2 * i, round_f16(load(values + i)));
      break;
    case WeightKind::int8: *scale = quantize_int8(values, linear.padded_inputs, steps, bytes); break;
    case WeightKind::fp8: *scale = quantize_fp8(values, linear.padded_inputs, bytes); break;
    case WeightKind::int4:
      for (int g = 0; g < layout.groups; g++)
        scales[g] = quantize_int4(values + g * group, group, &panel.codes[(size_t)g * group]);
      break;
    case WeightKind::table4:
      for (int g = 0; g < layout.groups; g++)
        scales[g] = quantize_table4(values + g * group, group, table, &panel.codes[(size_t)g * group]);
      break;
  }
  if (in_groups(linear.kind)) panel.join_nibbles(n, linear.padded_inputs);
}

// Fill every panel: `fill(panel, first, count)` makes the rows of the outputs from `first` on.
template <typename Fill>
void fill_panels(Pool& pool, PackedLinear& packed, Fill&& fill) {
  const Linear& view = packed.view;
  Layout layout(view);
  std::vector<Panel> scratch((size_t)pool.threads(), Panel(view, layout));
  pool.run([&](int thread) {
    pool.share(view.panels, 1, [&](int begin, int end) {
      for (int i = begin; i < end; i++) {
        Panel& panel = scratch[(size_t)thread];
        fill(layout, panel, i * PANEL, std::min(PANEL, view.outputs - i * PANEL));
        panel.write(view, layout, packed.weights->data() + (size_t)i * view.panel_bytes);
      }
    });
  });
}

float* scale_of(const PackedLinear& packed, int output) {
  return packed.scales ? reinterpret_cast<float*>(packed.scales->data()) + output : nullptr;
}

// The code of a weight of zero, for what pads a matrix; in a table without a zero, what is nearest.
uint8_t code_of_zero(const Linear& linear) {
  if (linear.kind == WeightKind::int8) return 128;
  if (linear.kind == WeightKind::int4) return 8;
  Steps steps = steps_of(linear.table);
  return steps.code[std::count_if(steps.middle, steps.middle + 15, [](float middle) { return 0 > middle; })];
}

// Scales and zero points of output `row` as output `n` of the panel, and its codes.
void copy_groups(const Codes& codes, const Linear& linear, const Layout& layout, Panel& panel, int n, int64_t row) {
  uint16_t* scales = &panel.scales[(size_t)n * layout.groups];
  uint8_t* zeros = &panel.zeros[(size_t)n * layout.groups];
  for (int g = 0; g < layout.groups; g++) {
    scales[g] = round_f16(codes.scales[row * layout.groups + g]);
    zeros[g] = linear.asymmetric ? codes.zeros[row * layout.groups + g] : 8;
  }
  const uint8_t* source = codes.codes + row * codes.columns;
  std::transform(source, source + codes.columns, panel.codes.begin(), [](uint8_t code) { return code & 15; });
  if (linear.asymmetric)  // what pads the last group is zero where it equals the group's zero point
    std::fill_n(&panel.codes[(size_t)codes.columns], linear.padded_inputs - linear.inputs, zeros[layout.groups - 1]);
}

// What pads the outputs.
void clear_groups(const Layout& layout, Panel& panel, int n) {
  std::fill_n(&panel.scales[(size_t)n * layout.groups], layout.groups, uint16_t{0});
  std::fill_n(&panel.zeros[(size_t)n * layout.groups], layout.groups, uint8_t{8});
}

}  // namespace

size_t PackedLinear::bytes() const {
  size_t total = 0;
  for (const auto* memory : {&weights, &scales, &bias}) total += *memory ? (*memory)->size() : 0;
  return total;
}

std::unique_ptr<PackedLinear> pack(Pool& pool, WeightKind kind, const std::vector<Matrix>& matrices, const float* bias,
                                   int group, const float* table, int steps) {
  int64_t rows = 0;
  for (const Matrix& matrix : matrices) {
    if (matrix.columns != matrices[0].columns)
      throw std::invalid_argument("matrices of " + std::to_string(matrices[0].columns) + " and " +
                                  std::to_string(matrix.columns) + " columns cannot be stacked");
    rows += matrix.rows;
  }
  auto packed = make_linear(kind, rows, matrices.empty() ? 0 : matrices[0].columns, group, false, table, bias);
  Steps middle = table != nullptr ? steps_of(table) : Steps{};
  fill_panels(pool, *packed, [&](const Layout& layout, Panel& panel, int first, int count) {
    const Matrix* matrix = matrices.data();
    int64_t row = first;
    for (int n = 0; n < PANEL; n++, row++) {
      float ignored;
      if (n < count) {
        for (; row >= matrix->rows; matrix++) row -= matrix->rows;
        read_row(*matrix, row, panel.values.data());
      } else {
        std::fill(panel.values.begin(), panel.values.end(), 0.0f);
      }
      float* scale = n < count ? scale_of(*packed, first + n) : &ignored;
      round_row(packed->view, layout, panel, n, steps, middle, scale);
    }
  });
  return packed;
}

std::unique_ptr<PackedLinear> pack_codes(Pool& pool, const Codes& codes, const float* bias) {
  if (codes.kind != WeightKind::int8 && !in_groups(codes.kind))
    throw std::invalid_argument("only int8, int4 and table4 weights are packed from codes");
  bool asymmetric = codes.zeros != nullptr && codes.kind == WeightKind::int4;
  auto packed = make_linear(codes.kind, codes.rows, codes.columns, codes.group, asymmetric, codes.table, bias);
  const Linear& view = packed->view;
  uint8_t nothing = code_of_zero(view);
  fill_panels(pool, *packed, [&](const Layout& layout, Panel& panel, int first, int count) {
    for (int n = 0; n < PANEL; n++) {
      std::fill(panel.codes.begin(), panel.codes.end(), nothing);
      if (view.kind == WeightKind::int8) {
        if (n < count) {
          const uint8_t* source = codes.codes + (int64_t)(first + n) * codes.columns;
          *scale_of(*packed, first + n) = codes.scales[first + n];
          std::transform(source, source + codes.columns, panel.codes.begin(), [](uint8_t code) { return code ^ 128; });
        }
        memcpy(panel.row(n), panel.codes.data(), (size_t)view.padded_inputs);
        continue;
      }
      if (n < count)
        copy_groups(codes, view, layout, panel, n, first + n);
      else
        clear_groups(layout, panel, n);
      panel.join_nibbles(n, view.padded_inputs);
    }
  });
  return packed;
}

}  // namespace tgi
