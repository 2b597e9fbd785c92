// From a row of logits to a token: the law of engine/sample, in the same order, with the same noise.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "../kernels.h"
#include "scratch.h"

namespace tgi {

struct SamplingParams {
  double temperature = 0, top_p = 1, typical_p = 1, min_p = 0;
  double repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  bool relative_frequency = false;
  int64_t top_k = 0;
  int32_t top_n = 0;  // how many alternatives to report
  bool logprobs = false, raw_logprobs = false;
  uint64_t seed = 0;
  std::vector<std::pair<int64_t, double>> bias;
};

// What makes a row unfit to draw from. Where several hold, the first.
enum class Fault : int32_t { none, nan, plus_infinity, all_minus_infinity };

const char* message(Fault fault);  // for the caller of a request

struct Choice {
  int64_t token = 0;
  double logprob = 0;                           // 0 and empty where the parameters ask for neither
  std::vector<std::pair<int64_t, double>> top;  // most probable first, the lowest id among equals
  Fault fault = Fault::none;                    // the rest then means nothing
};

// Stateless: the same arguments give the same choice. Any number of threads may call it, each with its own scratch.
class Sampler {
 public:
  using Scratch = tgi::Scratch;

  // Logits have `vocab_size` entries; ids from `num_tokens` on have no token and are never drawn. A row must be
  // readable up to a multiple of 16 entries, as the kernels have it.
  Sampler(int vocab_size, int num_tokens, const Kernels& kernels);

  // The token that follows tokens[0, count), of which the first `prompt_len` are the prompt. `allowed` has a bit for
  // each token that a grammar lets follow, the lowest id in the lowest bit; null is every token.
  Choice sample(const float* logits, const SamplingParams& params, const int64_t* tokens, int64_t count,
                int64_t prompt_len, Scratch& scratch, const uint32_t* allowed = nullptr) const;
  // The log probability of `token` under the model's own distribution, and the `top_n` most probable tokens.
  Choice score(const float* logits, int64_t token, int top_n, Scratch& scratch) const;

 private:
  template <typename Score>
  Choice draw(const Score* row, int highest, const SamplingParams& params, int64_t position, Scratch& scratch) const;

  int vocab_size_;
  int num_tokens_;
  const Kernels& kernels_;
};

}  // namespace tgi
