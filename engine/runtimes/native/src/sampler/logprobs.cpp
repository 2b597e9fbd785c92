#include "logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "numbers.h"
#include "ranking.h"

namespace tgi {

void add_logprobs(Choice& choice, const Candidates& candidates, int top_n, Scratch& scratch) {
  int size = candidates.size;
  double offset = std::log(sum_of_exponentials(candidates.scores, size, candidates.highest));
  auto logprob = [&](int i) { return candidates.scores[i] - candidates.highest - offset; };
  const int32_t *begin = candidates.ids, *end = begin + size;
  const int32_t* at = std::lower_bound(begin, end, choice.token);
  bool possible = at < end && *at == choice.token;
  choice.logprob = possible ? logprob((int)(at - begin)) : -std::numeric_limits<double>::infinity();
  if (top_n <= 0) return;
  double* logprobs = scratch.values.room(size);  // scores that differ may have equal ones
  for (int i = 0; i < size; i++) logprobs[i] = logprob(i);
  Ranking ranking = rank(logprobs, size, top_n, scratch);
  for (int i = 0; i < std::min(top_n, ranking.size); i++) {
    auto [value, index] = ranking.entries[i];
    if (value > -std::numeric_limits<double>::infinity()) choice.top.emplace_back(candidates.ids[index], value);
  }
}

}  // namespace tgi
