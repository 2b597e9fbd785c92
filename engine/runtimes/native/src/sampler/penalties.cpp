#include "penalties.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tgi {

bool counts_tokens(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.frequency_penalty != 0 || params.presence_penalty != 0;
}

double* penalise(const float* logits, int vocab_size, const SamplingParams& params, const int64_t* tokens,
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
  const bool relative = params.relative_frequency && params.frequency_penalty != 0;
  const double frequency_penalty = params.relative_frequency ? 0 : params.frequency_penalty;
  if (relative)
    each(0, [&](double& score, int32_t times) {
      score -= params.frequency_penalty * times / static_cast<double>(count);
    });
  if (frequency_penalty != 0 || params.presence_penalty != 0)
    each(prompt_len, [&](double& score, int32_t times) {
      score -= frequency_penalty * times;
      score -= params.presence_penalty;
    });
  for (auto [token, value] : params.bias) row[token] += value;
  return row;
}

void forbid(double* row, int num_tokens, const uint32_t* allowed) {
  constexpr double NEVER = -std::numeric_limits<double>::infinity();
  for (int first = 0; first < num_tokens; first += 32) {
    const uint32_t word = allowed[first / 32];
    if (word == 0xFFFFFFFF) continue;
    const int end = std::min(first + 32, num_tokens);
    for (int i = first; i < end; i++) row[i] = word >> (i - first) & 1 ? row[i] : NEVER;
  }
}

}  // namespace tgi
