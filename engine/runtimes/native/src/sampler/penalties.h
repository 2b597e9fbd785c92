// Penalties and bias: the steps before the temperature.
#pragma once
#include "sampler.h"

namespace tgi {

// Whether there is a penalty: only then are tokens looked at.
bool counts_tokens(const SamplingParams& params);

// The row [vocab_size] after penalties and bias.
const double* penalise(const float* logits, int vocab_size, const SamplingParams& params, const int64_t* tokens,
                       int64_t count, int64_t prompt_len, Scratch& scratch);

}  // namespace tgi
