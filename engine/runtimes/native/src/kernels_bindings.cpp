// Single kernels on numpy arrays, for tests and micro benchmarks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "isa.h"
#include "kinds.h"
#include "kv_pages.h"
#include "pack.h"

namespace nb = nanobind;

namespace tgi {
namespace {

template <size_t dimensions>
using Floats = nb::ndarray<const float, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// Rows as the kernels want them: aligned, with room up to whole panels; what is behind their end is NaN.
class Rows {
 public:
  Rows(size_t count, size_t width)
      : count_(count),
        width_(width),
        stride_((width + PANEL - 1) / PANEL * PANEL),
        memory_(std::max<size_t>(count * stride_, 1) * sizeof(float)) {
    std::fill(data(), data() + count * stride_, std::numeric_limits<float>::quiet_NaN());
  }
  explicit Rows(const Floats<2>& from) : Rows(from.shape(0), from.shape(1)) {
    for (size_t i = 0; i < count_; i++) std::copy_n(from.data() + i * width_, width_, row(i));
  }
  explicit Rows(const Floats<1>& from) : Rows(1, from.shape(0)) { std::copy_n(from.data(), width_, data()); }

  float* data() { return reinterpret_cast<float*>(memory_.data()); }
  float* row(size_t i) { return data() + i * stride_; }
  size_t count() const { return count_; }
  int width() const { return static_cast<int>(width_); }
  int64_t stride() const { return static_cast<int64_t>(stride_); }

  Result result(bool flat = false) {
    auto numbers = std::make_unique<float[]>(std::max<size_t>(count_ * width_, 1));
    for (size_t i = 0; i < count_; i++) std::copy_n(row(i), width_, numbers.get() + i * width_);
    float* data = numbers.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return flat ? Result(data, {width_}, owner) : Result(data, {count_, width_}, owner);
  }

 private:
  size_t count_, width_, stride_;
  Memory memory_;
};

struct PythonKernels {
  const Kernels* table;
};

template <typename Change>
Result each_row(const Floats<2>& x, Change&& change) {
  Rows rows(x);
  for (size_t i = 0; i < rows.count(); i++) change(rows.row(i), i, rows.width());
  return rows.result();
}

void same_shape(const Floats<2>& a, const Floats<2>& b) {
  require(a.shape(0) == b.shape(0) && a.shape(1) == b.shape(1), "the arrays have different shapes");
}

// ---- Linears -------------------------------------------------------------------------------------------------------

// The inputs of linears, prepared, with room for any of them.
class Prepared {
 public:
  Prepared(size_t rows, const std::vector<const Linear*>& linears) {
    size_t inputs = 0, groups = 1;
    for (const Linear* linear : linears) {
      inputs = std::max(inputs, static_cast<size_t>(linear->padded_inputs) + 64);
      if (linear->group) groups = std::max(groups, static_cast<size_t>(linear->padded_inputs / linear->group));
    }
    data_ = std::make_unique<Memory>(rows * inputs * sizeof(float));
    scales_ = std::make_unique<Memory>(rows * groups * sizeof(float));
    sums_ = std::make_unique<Memory>(rows * groups * sizeof(int32_t));
  }
  Activations view() const {
    return {data_->data(), reinterpret_cast<float*>(scales_->data()), reinterpret_cast<int32_t*>(sums_->data())};
  }

 private:
  std::unique_ptr<Memory> data_, scales_, sums_;
};

// On all threads of a pool.
void multiply(const Kernels& kernels, Pool& pool, const Linear& linear, const Activations& prepared, Rows& x,
              Rows& out) {
  const int rows = static_cast<int>(x.count());
  pool.share(rows, 1, [&](int begin, int end) {
    for (int row = begin; row < end; row++) kernels.prepare(linear, x.row(row), row, rows, prepared);
  });
  const int grain = std::max(1, linear.panels / (pool.threads() * 4));
  pool.share(linear.panels, grain, [&](int begin, int end) {
    kernels.multiply(linear, prepared, rows, begin, end, out.data(), out.stride());
  });
}

Result linear(const PythonKernels& self, Pool& pool, const PackedLinear& packed, const Floats<2>& x) {
  const Linear& view = packed.view;
  require(static_cast<int64_t>(x.shape(1)) == view.inputs, "x is not as wide as the linear has inputs");
  Rows rows(x), out(x.shape(0), static_cast<size_t>(view.outputs));
  if (rows.count() == 0) return out.result();
  const Prepared prepared(rows.count(), {&view});
  pool.run([&](int) { multiply(*self.table, pool, view, prepared.view(), rows, out); });
  return out.result();
}

double time_linear(const PythonKernels& self, Pool& pool, nb::handle linears, int rows, int rounds) {
  std::vector<const Linear*> views;
  size_t inputs = 1, outputs = 1;
  for (nb::handle packed : linears) {
    views.push_back(&nb::cast<const PackedLinear&>(packed).view);
    inputs = std::max(inputs, static_cast<size_t>(views.back()->inputs));
    outputs = std::max(outputs, static_cast<size_t>(views.back()->outputs));
  }
  require(rows >= 1 && rounds >= 1 && !views.empty(), "there is nothing to time");
  Rows x(static_cast<size_t>(rows), inputs), out(static_cast<size_t>(rows), outputs);
  for (int64_t i = 0; i < rows * x.stride(); i++) x.data()[i] = static_cast<float>(i * 37 % 101) * 0.01f - 0.5f;
  const Prepared prepared(static_cast<size_t>(rows), views);
  double best = std::numeric_limits<double>::infinity();
  nb::gil_scoped_release release;
  for (int round = 0; round < rounds; round++) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int) {
      for (const Linear* view : views) multiply(*self.table, pool, *view, prepared.view(), x, out);
    });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// ---- Rows ----------------------------------------------------------------------------------------------------------

Result embed(const PythonKernels& self, const Bytes& row, const std::string& kind_name, float scale) {
  const WeightKind kind = find_float_kind(kind_name);
  Rows out(1, row.shape(0) / (kind == WeightKind::f32 ? 4 : 2));
  self.table->embed(row.data(), kind, scale, out.data(), out.width());
  return out.result(true);
}

Result norm(const PythonKernels& self, const std::string& kind, const Floats<2>& x, const Floats<1>& weight,
            const std::optional<Floats<1>>& bias, float eps) {
  require(weight.shape(0) == x.shape(1) && (!bias || bias->shape(0) == x.shape(1)), "a vector of another width");
  const Norm norm = find_norm(kind);
  return each_row(x, [&](float* row, size_t, int n) {
    self.table->norm(norm, row, weight.data(), bias ? bias->data() : nullptr, eps, row, n);
  });
}

Result add(const PythonKernels& self, const Floats<2>& x, const Floats<2>& y, float scale) {
  same_shape(x, y);
  Rows other(y);
  return each_row(x, [&](float* row, size_t i, int n) { self.table->add(row, other.row(i), scale, n); });
}

Result activate(const PythonKernels& self, const std::string& kind, const Floats<2>& gate,
                const std::optional<Floats<2>>& up) {
  const Activation activation = find_activation(kind);
  if (!up)
    return each_row(gate, [&](float* row, size_t, int n) { self.table->activate(activation, row, nullptr, row, n); });
  same_shape(gate, *up);
  Rows other(*up);
  return each_row(gate, [&](float* row, size_t i, int n) {
    self.table->activate(activation, row, other.row(i), row, n);
  });
}

Result rotate(const PythonKernels& self, const Floats<2>& heads, const Floats<2>& cos, const Floats<2>& sin,
              bool interleaved, float scale) {
  same_shape(cos, sin);
  require(cos.shape(0) == heads.shape(0) && 2 * cos.shape(1) <= heads.shape(1), "cosines do not fit the heads");
  Rows cosines(cos), sines(sin);
  return each_row(heads, [&](float* row, size_t i, int n) {
    self.table->rotate(row, cosines.row(i), sines.row(i), cosines.width(), interleaved, scale, n);
  });
}

Result scale_cap(const PythonKernels& self, const Floats<2>& x, float scale, float cap) {
  return each_row(x, [&](float* row, size_t, int n) { self.table->scale_cap(row, scale, cap, n); });
}

int argmax(const PythonKernels& self, const Floats<1>& row) {
  Rows rows(row);
  return self.table->argmax(rows.data(), rows.width());
}

// ---- Attention -----------------------------------------------------------------------------------------------------

struct Cache {
  KvPages pages;
  std::vector<int32_t> blocks;
};

// One layer with the positions of one request, whose blocks lie in reverse order.
Cache fill_cache(const Kernels& kernels, KvKind kind, int block_size, const Floats<3>& keys, const Floats<3>& values,
                 float stale) {
  const int positions = static_cast<int>(keys.shape(0)), heads = static_cast<int>(keys.shape(1));
  const int dim = static_cast<int>(keys.shape(2)), count = (positions + block_size - 1) / block_size;
  Cache cache{KvPages(kind, 1, count + 1, block_size, heads, dim), {}};
  for (int i = 0; i < count; i++) cache.blocks.push_back(count - i);
  const KvCache& layer = cache.pages.layer(0);
  const std::vector<float> old(static_cast<size_t>(dim), stale);
  for (int position = 0; position < count * block_size; position++)
    for (int head = 0; head < heads; head++) {
      const size_t at = (static_cast<size_t>(position) * static_cast<size_t>(heads) + static_cast<size_t>(head)) *
                        static_cast<size_t>(dim);
      const bool known = position < positions;
      kernels.store_kv(layer, cache.blocks[static_cast<size_t>(position / block_size)], position % block_size, head,
                       known ? keys.data() + at : old.data(), known ? values.data() + at : old.data());
    }
  return cache;
}

void attend_split(const Kernels& kernels, const AttentionTask& task, int run, float* scratch) {
  const KvCache& cache = *task.cache;
  const int last = task.length - 1, slots = last / cache.block_size * cache.slots + last % cache.block_size + 1;
  const int count = (slots + PARTITION - 1) / PARTITION;
  const size_t size = static_cast<size_t>(task.num_queries * task.group * (cache.dim + 16));
  std::vector<float> floats(size * static_cast<size_t>(count));
  std::vector<AttentionPartial> partials;
  for (int i = 0; i < count; i++) partials.push_back({floats.data() + static_cast<size_t>(i) * size});
  for (int first = 0; first < count; first += run)
    kernels.attend_partial(task, first, std::min(first + run, count), partials.data() + first, scratch);
  kernels.combine(task, partials.data(), count);
}

Result attention(const PythonKernels& self, const std::string& kind, const Floats<3>& queries, const Floats<3>& keys,
                 const Floats<3>& values, int block_size, int window, float softcap, bool causal, int split,
                 float stale) {
  const Kernels& kernels = *self.table;
  const int count = static_cast<int>(queries.shape(0)), heads = static_cast<int>(queries.shape(1));
  const int dim = static_cast<int>(queries.shape(2)), kv_heads = static_cast<int>(keys.shape(1));
  const int length = static_cast<int>(keys.shape(0));
  require(count >= 1 && count <= length && block_size >= 1 && kv_heads >= 1 && heads % kv_heads == 0 &&
              keys.shape(2) == queries.shape(2) && values.shape(0) == keys.shape(0) &&
              values.shape(1) == keys.shape(1) && values.shape(2) == keys.shape(2),
          "queries, keys and values do not fit together");
  const Cache cache = fill_cache(kernels, find_kv_kind(kind), block_size, keys, values, stale);
  const int group = heads / kv_heads, width = heads * dim;
  Rows in(static_cast<size_t>(count), static_cast<size_t>(width)), out(in.count(), static_cast<size_t>(width));
  for (size_t i = 0; i < in.count(); i++)
    std::copy_n(queries.data() + i * static_cast<size_t>(width), width, in.row(i));
  Memory scratch(static_cast<size_t>(kernels.attention_scratch(cache.pages.layer(0), group)) * sizeof(float));
  for (int head = 0; head < kv_heads; head++) {
    const AttentionTask task{&cache.pages.layer(0), cache.blocks.data(), head, group, length - count, count, length,
                             causal, window, softcap, in.data() + head * group * dim, in.stride(),
                             out.data() + head * group * dim, out.stride()};
    float* memory = reinterpret_cast<float*>(scratch.data());
    if (split > 0)
      attend_split(kernels, task, split, memory);
    else
      kernels.attend(task, memory);
  }
  return out.result();
}

// ---- Ceilings ------------------------------------------------------------------------------------------------------

// Seconds that all threads take together for the work of one, the best of several rounds.
double time_threads(int threads, const std::function<void(int)>& work) {
  constexpr int ROUNDS = 5;
  Pool pool(threads);
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < ROUNDS; round++) {
    std::chrono::steady_clock::time_point start;
    pool.run([&](int thread) {
      pool.barrier();
      if (thread == 0) start = std::chrono::steady_clock::now();
      work(thread);
    });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

constexpr int64_t ROUNDS_OF_ARITHMETIC = 4'000'000;

double fma_peak(const std::string& isa, int threads) {
  const Kernels& kernels = find_kernels(isa);
  nb::gil_scoped_release release;
  const double seconds = time_threads(threads, [&](int) { kernels.fma_rounds(ROUNDS_OF_ARITHMETIC); });
  return 2.0 * 12 * 16 * ROUNDS_OF_ARITHMETIC * threads / seconds;
}

double dot_peak(const std::string& isa, int threads) {
  const Kernels& kernels = find_kernels(isa);
  nb::gil_scoped_release release;
  const double seconds = time_threads(threads, [&](int) { kernels.dot_rounds(ROUNDS_OF_ARITHMETIC); });
  return 2.0 * 12 * 64 * ROUNDS_OF_ARITHMETIC * threads / seconds;
}

double read_bandwidth(const std::string& isa, size_t bytes, int threads) {
  const Kernels& kernels = find_kernels(isa);
  nb::gil_scoped_release release;
  const Memory memory(bytes);
  std::memset(memory.data(), 1, bytes);
  const size_t part = bytes / static_cast<size_t>(threads) / 64 * 64;
  const double seconds = time_threads(threads, [&](int thread) {
    kernels.read(memory.data() + part * static_cast<size_t>(thread), part);
  });
  return static_cast<double>(part) * threads / seconds;
}

}  // namespace

void bind_kernels(nb::module_& m) {
  nb::class_<PythonKernels>(m, "Kernels")
      .def(
          "__init__",
          [](PythonKernels* self, const std::string& isa) { new (self) PythonKernels{&find_kernels(isa)}; },
          nb::arg("isa") = "")
      .def_prop_ro("name", [](const PythonKernels& self) { return self.table->name; })
      .def("linear", &linear, nb::arg("pool"), nb::arg("linear"), nb::arg("x"))
      .def("time_linear", &time_linear, nb::arg("pool"), nb::arg("linears"), nb::arg("rows"), nb::arg("rounds"))
      .def("embed", &embed, nb::arg("row"), nb::arg("kind"), nb::arg("scale"))
      .def("norm", &norm, nb::arg("kind"), nb::arg("x"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("eps"))
      .def("add", &add, nb::arg("x"), nb::arg("y"), nb::arg("scale"))
      .def("activate", &activate, nb::arg("kind"), nb::arg("gate"), nb::arg("up").none())
      .def("rotate", &rotate, nb::arg("heads"), nb::arg("cos"), nb::arg("sin"), nb::arg("interleaved"),
           nb::arg("scale"))
      .def("scale_cap", &scale_cap, nb::arg("x"), nb::arg("scale"), nb::arg("cap"))
      .def("argmax", &argmax, nb::arg("row"))
      .def("attention", &attention, nb::arg("kind"), nb::arg("queries"), nb::arg("keys"), nb::arg("values"),
           nb::kw_only(), nb::arg("block_size") = 16, nb::arg("window") = 0, nb::arg("softcap") = 0.0f,
           nb::arg("causal") = true, nb::arg("split") = 0, nb::arg("stale") = 0.0f);
  m.def("read_bandwidth", &read_bandwidth, nb::arg("isa"), nb::arg("bytes"), nb::arg("threads"));
  m.def("fma_peak", &fma_peak, nb::arg("isa"), nb::arg("threads"));
  m.def("dot_peak", &dot_peak, nb::arg("isa"), nb::arg("threads"));
}

}  // namespace tgi
