// Packing, for Python. numpy has no bfloat16 of its own, so matrices come with the name of their type.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "pack.h"

namespace nb = nanobind;

namespace tgi {
namespace {

template <typename T, size_t dimensions>
using Array = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using View = nb::ndarray<const T, nb::numpy>;

// The 4-bit floats of bitsandbytes, as it stores them in its files.
constexpr float NF4[16] = {-1.0f,
                           -0.6961928009986877f,
                           -0.5250730514526367f,
                           -0.39491748809814453f,
                           -0.28444138169288635f,
                           -0.18477343022823334f,
                           -0.09105003625154495f,
                           0.0f,
                           0.07958029955625534f,
                           0.16093020141124725f,
                           0.24611230194568634f,
                           0.33791524171829224f,
                           0.44070982933044434f,
                           0.5626170039176941f,
                           0.7229568362236023f,
                           1.0f};
constexpr float FP4[16] = {0.0f,  0.0052083335f,  0.6666667f,  1.0f,  0.3333333f,  0.5f,  0.1666667f,  0.25f,
                           -0.0f, -0.0052083335f, -0.6666667f, -1.0f, -0.3333333f, -0.5f, -0.1666667f, -0.25f};

struct Kind {
  const char* name;
  WeightKind kind;
  const float* table;
};
constexpr Kind KINDS[] = {
    {"f32", WeightKind::f32, nullptr},   {"bf16", WeightKind::bf16, nullptr}, {"f16", WeightKind::f16, nullptr},
    {"int8", WeightKind::int8, nullptr}, {"int4", WeightKind::int4, nullptr}, {"nf4", WeightKind::table4, NF4},
    {"fp4", WeightKind::table4, FP4},    {"fp8", WeightKind::fp8, nullptr},
};

const Kind& find_kind(const std::string& name) {
  for (const Kind& kind : KINDS)
    if (name == kind.name) return kind;
  throw std::invalid_argument("unknown kind of weights '" + name + "'");
}

const char* name_of(const Linear& linear) {
  for (const Kind& kind : KINDS)
    if (kind.kind == linear.kind && (kind.table == nullptr || !memcmp(kind.table, linear.table, sizeof NF4)))
      return kind.name;
  return "table4";
}

Matrix as_matrix(const AnyMatrix& array, const std::string& type) {
  WeightKind kind = find_kind(type).kind;
  if (kind != WeightKind::f32 && kind != WeightKind::bf16 && kind != WeightKind::f16)
    throw std::invalid_argument("matrices of " + type + " cannot be packed");
  if (array.itemsize() != (kind == WeightKind::f32 ? 4 : 2))
    throw std::invalid_argument("a matrix of " + type + " with " + std::to_string(array.itemsize()) +
                                " bytes a number");
  return {array.data(), kind, (int64_t)array.shape(0), (int64_t)array.shape(1)};
}

const float* bias_of(const std::optional<Array<float, 1>>& bias, int64_t outputs) {
  if (!bias) return nullptr;
  if ((int64_t)bias->shape(0) != outputs)
    throw std::invalid_argument("a bias of " + std::to_string(bias->shape(0)) + " numbers for " +
                                std::to_string(outputs) + " outputs");
  return bias->data();
}

std::unique_ptr<PackedLinear> pack_matrices(Pool& pool, const std::string& kind_name,
                                            const std::vector<std::pair<AnyMatrix, std::string>>& arrays,
                                            const std::optional<Array<float, 1>>& bias, int group, int steps) {
  const Kind& kind = find_kind(kind_name);
  std::vector<Matrix> matrices;
  int64_t outputs = 0;
  for (const auto& [array, type] : arrays) {
    matrices.push_back(as_matrix(array, type));
    outputs += matrices.back().rows;
  }
  const float* numbers = bias_of(bias, outputs);
  nb::gil_scoped_release release;
  return pack(pool, kind.kind, matrices, numbers, group, kind.table, steps);
}

std::unique_ptr<PackedLinear> pack_quantized(Pool& pool, const std::string& kind_name, const Array<uint8_t, 2>& codes,
                                             const Array<float, 2>& scales,
                                             const std::optional<Array<uint8_t, 2>>& zeros,
                                             const std::optional<Array<float, 1>>& bias,
                                             const std::optional<Array<float, 1>>& table, int group) {
  const Kind& kind = find_kind(kind_name);
  Codes given{};
  given.kind = kind.kind;
  given.codes = codes.data();
  given.scales = scales.data();
  given.zeros = zeros ? zeros->data() : nullptr;
  given.rows = (int64_t)codes.shape(0);
  given.columns = (int64_t)codes.shape(1);
  given.group = group;
  given.table = table ? table->data() : kind.table;
  if (table && table->shape(0) != 16) throw std::invalid_argument("a table has 16 numbers");
  if (group < 0 || (group == 0 && kind.kind != WeightKind::int8)) throw std::invalid_argument("no size of a group");
  size_t groups = group ? (codes.shape(1) + (size_t)group - 1) / (size_t)group : 1;
  auto fits = [&](size_t rows, size_t columns) { return rows == codes.shape(0) && columns == groups; };
  if (!fits(scales.shape(0), scales.shape(1)) || (zeros && !fits(zeros->shape(0), zeros->shape(1))))
    throw std::invalid_argument("scales and zero points must be " + std::to_string(codes.shape(0)) + " x " +
                                std::to_string(groups));
  const float* numbers = bias_of(bias, given.rows);
  nb::gil_scoped_release release;
  return pack_codes(pool, given, numbers);
}

// A row of numbers for each output, padded to whole panels; None where there is none.
nb::object row_numbers(nb::handle self, const float* numbers) {
  if (numbers == nullptr) return nb::none();
  const Linear& view = nb::cast<PackedLinear&>(self).view;
  return nb::cast(View<float>(numbers, {(size_t)view.panels * PANEL}, self));
}

}  // namespace

void bind_pack(nb::module_& m) {
  nb::class_<PackedLinear>(m, "PackedLinear")
      .def_prop_ro("kind", [](const PackedLinear& self) { return name_of(self.view); })
      .def_prop_ro("outputs", [](const PackedLinear& self) { return self.view.outputs; })
      .def_prop_ro("inputs", [](const PackedLinear& self) { return self.view.inputs; })
      .def_prop_ro("group", [](const PackedLinear& self) { return self.view.group; })
      .def_prop_ro("asymmetric", [](const PackedLinear& self) { return self.view.asymmetric != 0; })
      .def_prop_ro("nbytes", [](const PackedLinear& self) { return self.bytes(); })
      .def_prop_ro("panels",
                   [](nb::handle self) {
                     const Linear& view = nb::cast<PackedLinear&>(self).view;
                     return View<uint8_t>(view.weights, {(size_t)view.panels, view.panel_bytes}, self);
                   })
      .def_prop_ro("scales",
                   [](nb::handle self) { return row_numbers(self, nb::cast<PackedLinear&>(self).view.scales); })
      .def_prop_ro("bias",
                   [](nb::handle self) { return row_numbers(self, nb::cast<PackedLinear&>(self).view.bias); });

  m.def("pack", &pack_matrices, nb::arg("pool"), nb::arg("kind"), nb::arg("matrices"), nb::arg("bias") = nb::none(),
        nb::kw_only(), nb::arg("group") = 0, nb::arg("steps") = 127);
  m.def("pack_codes", &pack_quantized, nb::arg("pool"), nb::arg("kind"), nb::arg("codes"), nb::arg("scales"),
        nb::arg("zeros") = nb::none(), nb::arg("bias") = nb::none(), nb::kw_only(), nb::arg("table") = nb::none(),
        nb::arg("group") = 0);
}

}  // namespace tgi
