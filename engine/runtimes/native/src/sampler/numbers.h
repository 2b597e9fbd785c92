// Exponentials and sums in float64, the sums in numpy's order: where a filter stops depends on their last bits.
#pragma once
#include <limits>

namespace tgi {

template <typename Score>
Score highest_of(const Score* x, int n) {
  constexpr int LANES = 8;
  Score lane[LANES], best = -std::numeric_limits<Score>::infinity();
  for (Score& score : lane) score = best;
  int i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
  for (; i < n; i++) best = x[i] > best ? x[i] : best;
  for (Score score : lane) best = score > best ? score : best;
  return best;
}

// e^x to about one unit in the last place, of x <= 0; 0 where x < -708.
void exponentials(const double* x, double* out, int n);

// numpy's pairwise sum of fill(i, count, out) for all i < n: the numbers from i on, at most SUMMED_AT_ONCE of them.
constexpr int SUMMED_AT_ONCE = 128;
double sum_in_order(const double* x, int n);  // n <= SUMMED_AT_ONCE

template <typename Fill>
double sum(int begin, int n, const Fill& fill) {
  if (n <= SUMMED_AT_ONCE) {
    double x[SUMMED_AT_ONCE];
    fill(begin, n, x);
    return sum_in_order(x, n);
  }
  int half = n / 2;
  half -= half % 8;
  return sum(begin, half, fill) + sum(begin + half, n - half, fill);
}

// The sum of e^(x - highest).
double sum_of_exponentials(const double* x, int n, double highest);

}  // namespace tgi
