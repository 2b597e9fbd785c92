#include "penalties.h"

#include <algorithm>
#include <utility>

namespace tgi {

bool counts_tokens(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.frequency_penalty != 0 || params.presence_penalty != 0;
}

const double* penalise(const float* logits, int vocab_size, const SamplingParams& params, const int64_t* tokens,
                       int64_t count, int64_t prompt_len, Scratch& scratch) {
  double* row = scratch.penalised.room(vocab_size);
  std::copy_n(logits, vocab_size, row);
  // Call change(score, count) once for each distinct token from `begin` on.
  int32_t* counts = scratch.counts.room(vocab_size);
  auto each = [&](int64_t begin, auto change) {
    for (int64_t i = begin; i < count; i++) counts[tokens[i]]++;
    for (int64_t i = begin; i < count; i++)
      if (int32_t times = std::exchange(counts[tokens[i]], 0)) change(row[tokens[i]], times);
  };
  if (params.repetition_penalty != 1)
    each(0, [&](double& score, int32_t) {
      score = score > 0 ? score / params.repetition_penalty : score * params.repetition_penalty;
    });
  if (params.frequency_penalty != 0 || params.presence_penalty != 0)
    each(prompt_len, [&](double& score, int32_t times) {
      score -= params.frequency_penalty * times;
      score -= params.presence_penalty;
    });
  for (auto [token, value] : params.bias) row[token] += value;
  return row;
}

}  // namespace tgi
