#include "numbers.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace tgi {
namespace {

// Two numbers: what every x86-64 and Arm machine computes at once.
typedef double Pair __attribute__((vector_size(16)));
typedef uint64_t PairBits __attribute__((vector_size(16)));

// e^x = 2^whole 2^(j / STEPS) e^r with 0 <= j < STEPS and |r| <= log(2) / (2 STEPS).
constexpr int STEP_BITS = 8, STEPS = 1 << STEP_BITS;
constexpr double STEPS_PER_E = 0x1.71547652b82fep+8;                                  // STEPS / log 2
constexpr double STEP_HIGH = 0x1.62e42fefa0000p-9, STEP_LOW = 0x1.cf79abc9e3b3ap-48;  // log(2) / STEPS
constexpr double ROUND = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
constexpr double LOWEST = -708;     // below, results are no longer normal numbers
// (e^r - 1 - r) / r^2: the interpolation at the Chebyshev nodes, with which e^r is off by a part in 10^17.
constexpr double SERIES[3] = {0x1.0000000000000p-1, 0x1.555556deffca1p-3, 0x1.5555565bc6f85p-5};

struct Powers {
  double of[STEPS];
  Powers() {
    for (int j = 0; j < STEPS; j++) of[j] = std::exp2((double)j / STEPS);
  }
};
const Powers powers;

inline Pair exponential(Pair x) {
  PairBits normal = (PairBits)(x >= LOWEST);
  Pair shifted = x * STEPS_PER_E + ROUND, steps = shifted - ROUND;
  PairBits bits = (PairBits)shifted;
  Pair r = (x - steps * STEP_HIGH) - steps * STEP_LOW;  // the product with the high part is exact
  Pair power = {powers.of[bits[0] & (STEPS - 1)], powers.of[bits[1] & (STEPS - 1)]};
  Pair result = power + power * (r + r * r * (SERIES[0] + r * (SERIES[1] + r * SERIES[2])));
  return (Pair)(((PairBits)result + (bits >> STEP_BITS << 52)) & normal);  // times 2^whole
}

}  // namespace

void exponentials(const double* x, double* out, int n) {
  int i = 0;
  for (; i + 2 <= n; i += 2) {
    Pair pair;
    memcpy(&pair, x + i, sizeof pair);
    pair = exponential(pair);
    memcpy(out + i, &pair, sizeof pair);
  }
  if (i < n) out[i] = exponential(Pair{x[i], 0})[0];
}

double sum_in_order(const double* x, int n) {
  double total = 0;
  int i = 0;
  if (n >= 8) {
    double lane[8];
    memcpy(lane, x, sizeof lane);
    for (i = 8; i + 8 <= n; i += 8)
      for (int j = 0; j < 8; j++) lane[j] += x[i + j];
    total = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  }
  for (; i < n; i++) total += x[i];
  return total;
}

double sum_of_exponentials(const double* x, int n, double highest) {
  return sum(0, n, [=](int begin, int count, double* out) {
    if (highest == 0) return exponentials(x + begin, out, count);
    for (int i = 0; i < count; i++) out[i] = x[begin + i] - highest;
    exponentials(out, out, count);
  });
}

}  // namespace tgi
