// Linear layers: each row against plain loops, and every row in any batch bit for bit as it is alone.
#include <numeric>

#include "isa.h"
#include "linears.h"

namespace tgi::tests {
namespace {

constexpr int MOST_ROWS = 70;

struct Shape {
  int outputs, inputs;
};
constexpr Shape SHAPES[] = {{1, 1}, {33, 37}, {40, 24}, {70, 800}, {64, 576}, {97, 131}};

// A linear, rows for it, and what the kernels make of each row alone.
class Layer {
 public:
  Layer(const Kernels& kernels, const LinearKind& kind, Shape shape, Random& random)
      : kernels_(kernels),
        random_(random),
        linear_(kind, shape.outputs, shape.inputs, random.chance(2), random),
        x_(MOST_ROWS, shape.inputs, random),
        stride_(linear_.view().panels * PANEL),
        alone_(size_t(MOST_ROWS) * size_t(stride_), UNTOUCHED) {
    for (int k = 0; k < shape.inputs; k++) {
      x_[4][k] = 0;
      x_[5][k] *= 1e-36f;
      x_[6][k] *= 1e4f;
    }
    const Prepared prepared(linear_.view(), 1);
    for (int row = 0; row < MOST_ROWS; row++) {
      kernels_.prepare(linear_.view(), x_[row], 0, 1, prepared.view());
      kernels_.multiply(linear_.view(), prepared.view(), 1, 0, linear_.view().panels, alone(row), stride_);
    }
  }

  void check_values(int rows) {
    for (int row = 0; row < rows; row++) {
      const std::vector<PlainOutput> expected = plain_outputs(linear_, x_[row]);
      for (size_t n = 0; n < expected.size(); n++) {
        const double difference = alone(row)[n] - expected[n].value;
        check(difference <= expected[n].room && -difference <= expected[n].room, "row %d output %zu: %.9g, not %.9g",
              row, n, double(alone(row)[n]), expected[n].value);
      }
    }
  }

  // Some of the rows in some order, prepared in another, with the panels in pieces; in their midst one that is no
  // number.
  void check_batch(int count) {
    const Linear& view = linear_.view();
    std::vector<int> rows(static_cast<size_t>(count)), order(rows.size());
    for (int& row : rows) row = random_.below(MOST_ROWS);
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size() - 1; i > 0; i--) std::swap(order[i], order[size_t(random_.below(int(i) + 1))]);
    const int spoiled = count > 1 ? random_.below(count) : -1;
    Rows bad(1, view.inputs, random_);
    bad[0][random_.below(view.inputs)] = random_.pick({NOT_A_NUMBER, INFINITE, -INFINITE});
    const Prepared prepared(view, count);
    for (int i : order) kernels_.prepare(view, i == spoiled ? bad[0] : x_[rows[size_t(i)]], i, count, prepared.view());
    const int stride = stride_ + 16 * random_.below(3);
    Array<float> out(size_t(count - 1) * size_t(stride) + size_t(stride_), UNTOUCHED);
    for (int begin = 0; begin < view.panels;) {
      const int end = random_.between(begin + 1, view.panels);
      kernels_.multiply(view, prepared.view(), count, begin, end, out.data(), stride);
      begin = end;
    }
    for (int i = 0; i < count; i++) {
      const float* row = out.data() + size_t(i) * size_t(stride);
      if (i != spoiled)
        check(same_bytes(row, alone(rows[size_t(i)]), size_t(view.outputs)), "row %d of %d is not what it is alone", i,
              count);
      for (int n = stride_; i + 1 < count && n < stride; n++)
        check(row[n] == UNTOUCHED, "row %d of %d is written behind its panels", i, count);
    }
  }

  // A row with a number that is not finite has no finite output, whatever its place.
  void check_poison() {
    for (float number : {NOT_A_NUMBER, INFINITE, -INFINITE}) {
      const Linear& view = linear_.view();
      Rows bad(1, view.inputs, random_);
      bad[0][random_.below(view.inputs)] = number;
      const Prepared prepared(view, 1);
      Array<float> out(static_cast<size_t>(stride_));
      kernels_.prepare(view, bad[0], 0, 1, prepared.view());
      kernels_.multiply(view, prepared.view(), 1, 0, view.panels, out.data(), stride_);
      for (int n = 0; n < view.outputs; n++)
        check(!(out[size_t(n)] - out[size_t(n)] == 0), "an input of %g gives %g", number, out[size_t(n)]);
    }
  }

 private:
  float* alone(int row) { return alone_.data() + size_t(row) * size_t(stride_); }

  const Kernels& kernels_;
  Random& random_;
  RandomLinear linear_;
  Rows x_;
  int stride_;
  Array<float> alone_;
};

// One row of one group of inputs: then nothing is rounded before the last product.
void check_agreement(const LinearKind& kind, int inputs, Random& random) {
  const RandomLinear linear(kind, 45, inputs, true, random);
  const Linear& view = linear.view();
  Rows x(1, inputs, random);
  std::vector<float> first;
  for (const Kernels* kernels : supported_kernels()) {
    const Prepared prepared(view, 1);
    std::vector<float> out(size_t(view.panels) * PANEL);
    kernels->prepare(view, x[0], 0, 1, prepared.view());
    kernels->multiply(view, prepared.view(), 1, 0, view.panels, out.data(), static_cast<int64_t>(out.size()));
    if (first.empty()) first = out;
    check(same_bytes(first.data(), out.data(), 45), "%s and %s differ, kind %d, %d inputs", kernels->name,
          supported_kernels()[0]->name, static_cast<int>(kind.kind), inputs);
  }
}

}  // namespace

void check_linears(const Kernels& kernels, int effort) {
  Random random(2);
  for (const LinearKind& kind : linear_kinds())
    for (const Shape& shape : SHAPES) {
      Where where("kind %d group %d asymmetric %d, %d x %d", static_cast<int>(kind.kind), kind.group, kind.asymmetric,
                  shape.outputs, shape.inputs);
      Layer layer(kernels, kind, shape, random);
      layer.check_values(2 * effort + 5);
      layer.check_poison();
      if (shape.inputs > 1)
        for (int count = 1; count <= MOST_ROWS; count += effort > 2 ? 1 : random.between(1, 24))
          layer.check_batch(count);
    }
}

void check_linears_agree(int effort) {
  Random random(3);
  for (int i = 0; i < 8 * effort; i++) {
    check_agreement({WeightKind::int8, 0, false}, random.between(1, 900), random);
    for (int group : {32, 64, 128})
      for (bool asymmetric : {false, true})
        check_agreement({WeightKind::int4, group, asymmetric}, random.between(1, group), random);
  }
}

}  // namespace tgi::tests
