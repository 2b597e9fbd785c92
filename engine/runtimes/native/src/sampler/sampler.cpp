#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "filters.h"
#include "logprobs.h"
#include "numbers.h"
#include "penalties.h"
#include "race.h"

namespace tgi {
namespace {

// The lowest id of the highest score; -1 where a NaN is in the row.
int argmax(const double* row, int n) {
  bool nan = false;
  for (int i = 0; i < n; i++) nan |= row[i] != row[i];
  return nan ? -1 : (int)(std::find(row, row + n, highest_of(row, n)) - row);
}

template <typename Score>
Fault fault_of(const Score* row, int highest) {
  if (highest < 0) return Fault::nan;
  if (std::isfinite(row[highest])) return Fault::none;
  return row[highest] > 0 ? Fault::plus_infinity : Fault::all_minus_infinity;
}

// All ids of finite score (x - highest) / temperature.
template <typename Score>
Candidates scale(const Score* row, int n, double highest, double temperature, Scratch& scratch) {
  Candidates candidates{n, scratch.ids.room(n), scratch.scores.room(n), 0};
  double* scores = candidates.scores;
  if (temperature == 1) {  // saves the divisions
    for (int i = 0; i < n; i++) scores[i] = row[i] - highest;
  } else {
    for (int i = 0; i < n; i++) scores[i] = (row[i] - highest) / temperature;
  }
  bool impossible = false;
  for (int i = 0; i < n; i++) {
    candidates.ids[i] = i;
    impossible |= scores[i] == -std::numeric_limits<double>::infinity();
  }
  if (impossible) drop_impossible(candidates);
  return candidates;
}

bool filters(const SamplingParams& params) {
  return params.top_k > 0 || params.top_p < 1 || params.typical_p < 1 || params.min_p > 0;
}

void filter(Candidates& candidates, const SamplingParams& params, Scratch& scratch) {
  if (params.top_k > 0) top_k(candidates, params.top_k, scratch);
  if (params.top_p < 1) top_p(candidates, params.top_p, scratch);
  if (params.typical_p < 1) typical_p(candidates, params.typical_p, scratch);
  if (params.min_p > 0) min_p(candidates, params.min_p);
}

}  // namespace

const char* message(Fault fault) {
  switch (fault) {
    case Fault::nan:
      return "the scores of the next token hold NaN: check the model's weights, or serve it in float32";
    case Fault::plus_infinity:
      return "the scores of the next token hold plus infinity: check the model's weights, or serve it in float32";
    case Fault::all_minus_infinity:
      return "the scores of the next token hold nothing but minus infinity: check the model's weights, or serve it in "
             "float32";
    case Fault::none:
      return "";
  }
  return "";
}

Sampler::Sampler(int vocab_size, int num_tokens, const Kernels& kernels)
    : vocab_size_(vocab_size), num_tokens_(std::min(vocab_size, num_tokens)), kernels_(kernels) {}

Choice Sampler::sample(const float* logits, const SamplingParams& params, const int64_t* tokens, int64_t count,
                       int64_t prompt_len, Scratch& scratch, const uint32_t* allowed) const {
  Choice choice;
  if (counts_tokens(params) || !params.bias.empty() || allowed) {
    double* row = penalise(logits, vocab_size_, params, tokens, count, prompt_len, scratch);
    if (allowed) forbid(row, num_tokens_, allowed);
    choice = draw(row, argmax(row, num_tokens_), params, count, scratch);
  } else {
    choice = draw(logits, kernels_.argmax(logits, num_tokens_), params, count, scratch);
  }
  bool scored = params.logprobs || params.top_n > 0;
  if (choice.fault != Fault::none || !scored || !params.raw_logprobs) return choice;
  return score(logits, choice.token, params.top_n, scratch);
}

Choice Sampler::score(const float* logits, int64_t token, int top_n, Scratch& scratch) const {
  Choice choice;
  choice.token = token;
  int highest = kernels_.argmax(logits, num_tokens_);
  choice.fault = fault_of(logits, highest);
  if (choice.fault != Fault::none) return choice;
  add_logprobs(choice, scale(logits, num_tokens_, logits[highest], 1, scratch), top_n, scratch);
  return choice;
}

template <typename Score>
Choice Sampler::draw(const Score* row, int highest, const SamplingParams& params, int64_t position,
                     Scratch& scratch) const {
  Choice choice;
  choice.token = highest;
  choice.fault = fault_of(row, highest);
  if (choice.fault != Fault::none) return choice;
  const bool greedy = params.temperature <= 0, filtered = !greedy && filters(params);
  const bool scored = (params.logprobs || params.top_n > 0) && !params.raw_logprobs;
  Candidates candidates;
  if (filtered || scored)
    candidates = scale(row, num_tokens_, row[highest], greedy ? 1 : params.temperature, scratch);
  if (filtered) filter(candidates, params, scratch);
  if (!greedy) {
    Race race(Noise(params.seed, (uint32_t)position));
    if (filtered) {
      race.enter_all(candidates, scratch);
    } else {
      race.enter(highest, 0);  // a good first mark
      race.enter_row(row, num_tokens_, row[highest], params.temperature);
    }
    choice.token = race.winner();
  }
  if (scored) add_logprobs(choice, candidates, params.top_n, scratch);
  return choice;
}

}  // namespace tgi
