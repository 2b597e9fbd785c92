#include "filters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "numbers.h"
#include "ranking.h"

namespace tgi {
namespace {

void keep(Candidates& candidates, int& kept, int index) {
  candidates.ids[kept] = candidates.ids[index];
  candidates.scores[kept++] = candidates.scores[index];
}

void keep_from(double least, Candidates& candidates) {
  int kept = 0;
  for (int i = 0; i < candidates.size; i++)
    if (candidates.scores[i] >= least) keep(candidates, kept, i);
  candidates.size = kept;
}

struct Reached {
  int count;     // how many it takes, 0 where all do not reach the mass
  double total;  // their probability
};

// How many of the ranked candidates it takes to reach `mass`. Each has probability e^logarithm / divisor; they are
// added up one by one, in order of rank.
Reached reach(double mass, const Ranking& ranking, const double* logarithms, double divisor) {
  double p[SUMMED_AT_ONCE], total = 0;
  for (int begin = 0; begin < ranking.size; begin += SUMMED_AT_ONCE) {
    int count = std::min(SUMMED_AT_ONCE, ranking.size - begin);
    for (int i = 0; i < count; i++) p[i] = logarithms[ranking.entries[begin + i].index];
    exponentials(p, p, count);
    for (int i = 0; i < count; i++)
      if ((total += p[i] / divisor) >= mass) return {begin + i + 1, total};
  }
  return {0, total};
}

// Keep the first `count` of the ranking, in their old order.
void keep_first(int count, const Ranking& ranking, Candidates& candidates, Scratch& scratch) {
  int words = candidates.size / 64 + 1, kept = 0;
  uint64_t* marks = scratch.marks.room(words);
  for (int i = 0; i < count; i++) {
    int index = ranking.entries[i].index;
    marks[index / 64] |= uint64_t{1} << index % 64;
  }
  for (int word = 0; word < words; word++)
    for (; marks[word]; marks[word] &= marks[word] - 1)
      keep(candidates, kept, word * 64 + __builtin_ctzll(marks[word]));
  candidates.size = kept;
}

// Keep the candidates of highest value, the lowest id first among equals, until their probability reaches `mass`.
void keep_to(double mass, Candidates& candidates, const double* values, const double* logarithms, double divisor,
             Scratch& scratch) {
  int size = candidates.size;
  for (int count = 256;; count *= 16) {
    Ranking ranking = rank(values, size, count, scratch);
    Reached reached = reach(mass, ranking, logarithms, divisor);
    if (reached.count > 0) return keep_first(reached.count, ranking, candidates, scratch);
    if (ranking.size == size) return;
    if (reached.total * 16 < mass) count = size;  // far from it: rank them all
  }
}

}  // namespace

void drop_impossible(Candidates& candidates) {
  keep_from(std::numeric_limits<double>::lowest(), candidates);
}

void min_p(Candidates& candidates, double ratio) {
  keep_from(candidates.highest + std::log(ratio), candidates);
}

void top_k(Candidates& candidates, int64_t k, Scratch& scratch) {
  if (k >= candidates.size) return;
  Blocks blocks(candidates.scores, candidates.size, (int)k, scratch);
  int kept = 0;
  blocks.reaching(nth_highest(blocks, candidates.size, (int)k, scratch), [&](int i) { keep(candidates, kept, i); });
  candidates.size = kept;
}

void top_p(Candidates& candidates, double mass, Scratch& scratch) {
  double total = sum_of_exponentials(candidates.scores, candidates.size, candidates.highest);
  keep_to(mass, candidates, candidates.scores, candidates.scores, total, scratch);
}

void typical_p(Candidates& candidates, double mass, Scratch& scratch) {
  int size = candidates.size;
  const double* scores = candidates.scores;
  double offset = std::log(sum_of_exponentials(scores, size, candidates.highest));
  double *logprobs = scratch.logprobs.room(size), *values = scratch.values.room(size);
  for (int i = 0; i < size; i++) logprobs[i] = scores[i] - candidates.highest - offset;
  double entropy = -sum(0, size, [=](int begin, int count, double* out) {
    exponentials(logprobs + begin, out, count);
    for (int i = 0; i < count; i++) out[i] *= logprobs[begin + i];
  });
  for (int i = 0; i < size; i++) values[i] = -std::abs(-logprobs[i] - entropy);
  keep_to(mass, candidates, values, logprobs, 1.0, scratch);
  candidates.highest = highest_of(scores, candidates.size);
}

}  // namespace tgi
