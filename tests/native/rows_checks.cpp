// The functions of one row against plain loops in double: any length, and nothing written behind the end.
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "checks.h"
#include "numbers.h"

namespace tgi::tests {
namespace {

bool near(double number, double expected, double relative, double absolute) {
  return std::fabs(number - expected) <= relative * std::fabs(expected) + absolute;
}

void embed_rows(const Kernels& kernels, Random& random, int n) {
  for (WeightKind kind : {WeightKind::f32, WeightKind::bf16, WeightKind::f16}) {
    const size_t size = kind == WeightKind::f32 ? 4 : 2;
    Array<uint8_t> row(size_t(n) * size);  // a table has nothing behind its last row
    for (size_t i = 0; i < row.size(); i++) row[i] = static_cast<uint8_t>(random.next());
    Rows out(1, n);
    kernels.embed(row.data(), kind, 1.5f, out[0], n);
    for (int i = 0; i < n; i++) {
      const float expected = static_cast<float>(stored_number(row.data(), kind, size_t(i))) * 1.5f;
      check(out[0][i] == expected || (out[0][i] != out[0][i] && expected != expected),
            "embed kind %d n %d: [%d] = %g, not %g", static_cast<int>(kind), n, i, out[0][i], expected);
    }
    check(out.padding_is_untouched(), "embed n %d writes behind the end", n);
  }
}

void norm_rows(const Kernels& kernels, Random& random, int n) {
  for (Norm kind : {Norm::rms, Norm::layer})
    for (bool biased : {false, true}) {
      Rows x(1, n, random), weight(1, n, random), bias(1, n, random), out(1, n);
      kernels.norm(kind, x[0], weight[0], biased ? bias[0] : nullptr, 1e-2f, out[0], n);
      double mean = 0, square = 0;
      for (int i = 0; i < n && kind == Norm::layer; i++) mean += x[0][i] / double(n);
      for (int i = 0; i < n; i++) square += (x[0][i] - mean) * (x[0][i] - mean) / n;
      for (int i = 0; i < n; i++) {
        const double expected =
            (x[0][i] - mean) / std::sqrt(square + double(1e-2f)) * weight[0][i] + (biased ? bias[0][i] : 0);
        check(near(out[0][i], expected, 1e-5, 1e-5), "norm n %d: [%d] = %g, not %g", n, i, out[0][i], expected);
      }
      check(out.padding_is_untouched(), "norm n %d writes behind the end", n);
      const std::vector<float> apart(out[0], out[0] + n);
      kernels.norm(kind, x[0], weight[0], biased ? bias[0] : nullptr, 1e-2f, x[0], n);
      check(same_bytes(apart.data(), x[0], size_t(n)), "norm n %d in place differs", n);
    }
}

void add_rows(const Kernels& kernels, Random& random, int n) {
  Rows x(1, n, random), y(1, n, random);
  const std::vector<float> before(x[0], x[0] + n);
  kernels.add(x[0], y[0], 0.7f, n);
  for (int i = 0; i < n; i++) {
    const double expected = before[size_t(i)] + double(0.7f) * y[0][i];
    check(near(x[0][i], expected, 1e-6, 1e-6), "add n %d: [%d] = %g, not %g", n, i, x[0][i], expected);
  }
  check(x.padding_is_untouched(), "add n %d writes behind the end", n);
}

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return x / 2 * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh: return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

void activate_rows(const Kernels& kernels, Random& random, int n) {
  for (Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh})
    for (bool gated : {false, true}) {
      Rows gate(1, n, random), up(1, n, random), out(1, n);
      for (int i = 0; i < n; i++) gate[0][i] *= 4;
      kernels.activate(kind, gate[0], gated ? up[0] : nullptr, out[0], n);
      for (int i = 0; i < n; i++) {
        const double expected = activated(kind, gate[0][i]) * (gated ? up[0][i] : 1);
        check(near(out[0][i], expected, 2e-6, 1e-6), "activation %d n %d: of %g is %g, not %g", static_cast<int>(kind),
              n, gate[0][i], out[0][i], expected);
      }
      check(out.padding_is_untouched(), "activation n %d writes behind the end", n);
    }
}

// Far from zero, where an exponential overflows or vanishes.
void activate_extremes(const Kernels& kernels) {
  const std::vector<std::pair<float, double>> cases = {{-1e30f, 0}, {-200, 0},  {-100, 0},     {-0.0f, 0},
                                                       {0, 0},      {200, 200}, {1e30f, 1e30}, {INFINITE, INFINITE}};
  for (Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
    Rows x(1, static_cast<int>(cases.size()) + 1), out(1, x.width());
    for (size_t i = 0; i < cases.size(); i++) x[0][i] = cases[i].first;
    x[0][cases.size()] = NOT_A_NUMBER;
    kernels.activate(kind, x[0], nullptr, out[0], x.width());
    for (size_t i = 0; i < cases.size(); i++) {
      const double expected = cases[i].second;
      check(out[0][i] == expected || near(out[0][i], expected, 1e-6, 1e-35), "activation %d of %g is %g",
            static_cast<int>(kind), x[0][i], out[0][i]);
    }
    check(out[0][cases.size()] != out[0][cases.size()], "activation %d of a NaN is a number", static_cast<int>(kind));
  }
}

void rotate_heads(const Kernels& kernels, Random& random, int n) {
  for (bool interleaved : {false, true}) {
    const int half = random.between(0, n / 2);
    Rows head(1, n, random), cosines(1, half), sines(1, half);
    for (int j = 0; j < half; j++) {
      cosines[0][j] = static_cast<float>(std::cos(0.3 * j + 1));
      sines[0][j] = static_cast<float>(std::sin(0.3 * j + 1));
    }
    const std::vector<float> before(head[0], head[0] + n);
    kernels.rotate(head[0], cosines[0], sines[0], half, interleaved, 0.25f, n);
    std::vector<double> expected(before.begin(), before.end());
    for (int j = 0; j < half; j++) {
      const size_t first = size_t(interleaved ? 2 * j : j), second = size_t(interleaved ? 2 * j + 1 : j + half);
      expected[first] = before[first] * double(cosines[0][j]) - before[second] * double(sines[0][j]);
      expected[second] = before[second] * double(cosines[0][j]) + before[first] * double(sines[0][j]);
    }
    for (int i = 0; i < n; i++)
      check(near(head[0][i], 0.25 * expected[size_t(i)], 1e-6, 1e-6), "rotate n %d half %d: [%d]", n, half, i);
    check(head.padding_is_untouched(), "rotate n %d writes behind the end", n);
  }
}

void scale_and_cap(const Kernels& kernels, Random& random, int n) {
  for (float cap : {0.0f, 2.5f, 30.0f}) {
    Rows x(1, n, random);
    const std::vector<float> before(x[0], x[0] + n);
    kernels.scale_cap(x[0], 3, cap, n);
    for (int i = 0; i < n; i++) {
      const double scaled = 3.0 * before[size_t(i)], expected = cap == 0 ? scaled : cap * std::tanh(scaled / cap);
      check(near(x[0][i], expected, 1e-6, 1e-7), "scale_cap %g n %d: of %g is %g, not %g", cap, n, scaled, x[0][i],
            expected);
    }
    check(x.padding_is_untouched(), "scale_cap n %d writes behind the end", n);
  }
}

int first_highest(const float* row, int n) {
  int best = 0;
  for (int i = 1; i < n; i++)
    if (row[i] > row[best]) best = i;
  return best;
}

void find_argmax(const Kernels& kernels, Random& random, int n) {
  for (int mood = 0; mood < 6; mood++) {
    Rows row(1, n, random);
    for (int i = 0; i < n; i++) {
      if (mood == 1) row[0][i] = static_cast<float>(random.below(3));  // many equal ones
      if (mood == 2 && random.chance(2)) row[0][i] = -INFINITE;
      if (mood == 3) row[0][i] = -INFINITE;
      if (mood == 4 && random.chance(5)) row[0][i] = INFINITE;
    }
    const int found = kernels.argmax(row[0], n), expected = first_highest(row[0], n);
    check(found == expected, "argmax n %d: %d, not %d", n, found, expected);
    row[0][random.below(n)] = NOT_A_NUMBER;
    check(kernels.argmax(row[0], n) == -1, "argmax n %d does not see a NaN", n);
  }
}

}  // namespace

void check_rows(const Kernels& kernels, int effort) {
  Random random(1);
  activate_extremes(kernels);
  for (int n = 1; n <= 64 * effort; n += n < 70 ? 1 : 13)
    for (auto* proof : {embed_rows, norm_rows, add_rows, activate_rows, rotate_heads, scale_and_cap, find_argmax})
      proof(kernels, random, n);
}

}  // namespace tgi::tests
