#include "race.h"

#include <algorithm>

#include "numbers.h"

namespace tgi {

constexpr double LN2 = 0x1.62e42fefa39efp-1;

uint64_t Race::least_word(double score) const {
  if (score == -std::numeric_limits<double>::infinity()) return NONE;
  // The slack is far above all rounding errors: those of the logarithms, of the sum and of this bound.
  double zeros = (best_ - score - (1e-9 + 1e-12 * std::abs(score))) / LN2 - 1;
  if (!(zeros > 0)) return 0;
  if (zeros > 32) return NONE;
  int whole = (int)zeros + (zeros > (int)zeros);
  return ~(uint32_t)(0xFFFFFFFFull >> whole);
}

void Race::enter(int32_t id, double score, uint32_t word) {
  double total = score + gumbel(word);
  if (total < best_ || (total == best_ && id > winner_)) return;
  best_ = total;
  winner_ = id;
}

template <typename Score>
void Race::enter_row(const Score* row, int n, double highest, double temperature) {
  auto score = [=](Score x) { return (x - highest) / temperature; };
  uint32_t words[Noise::BATCH];
  for (int first = 0; first < n; first += Noise::BATCH) {
    int count = std::min(Noise::BATCH, n - first);
    uint64_t least = least_word(score(highest_of(row + first, count)));
    if (least == NONE) continue;
    noise_.words(first, words);
    uint32_t hits = 0;
    for (int i = 0; i < Noise::BATCH; i++) hits |= words[i] >= (uint32_t)least;
    for (int i = 0; hits && i < count; i++)
      if (words[i] >= least && words[i] >= least_word(score(row[first + i])))
        enter(first + i, score(row[first + i]), words[i]);
  }
}

template void Race::enter_row(const float*, int, double, double);
template void Race::enter_row(const double*, int, double, double);

void Race::enter_all(const Candidates& candidates, Scratch& scratch) {
  int span = candidates.ids[candidates.size - 1] + 1;
  if (candidates.size < span / 8) return enter_each(candidates);
  double* row = scratch.values.room(span);  // words made in batches are cheaper, even if not all are needed
  std::fill_n(row, span, -std::numeric_limits<double>::infinity());
  for (int i = 0; i < candidates.size; i++) row[candidates.ids[i]] = candidates.scores[i];
  enter_row(row, span, 0, 1);
}

void Race::enter_each(const Candidates& candidates) {
  for (int i = 0; i < candidates.size; i++) {
    uint64_t least = least_word(candidates.scores[i]);
    if (least == NONE) continue;
    uint32_t word = noise_.word(candidates.ids[i]);
    if (word >= least) enter(candidates.ids[i], candidates.scores[i], word);
  }
}

}  // namespace tgi
