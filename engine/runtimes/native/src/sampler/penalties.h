// Penalties, bias and grammar: the steps before the temperature.
#pragma once
#include "sampler.h"

namespace tgi {

// Whether there is a penalty: only then are tokens looked at.
bool counts_tokens(const SamplingParams& params);

// The row [vocab_size] after penalties and bias.
double* penalise(const float* logits, int vocab_size, const SamplingParams& params, const int64_t* tokens,
                 int64_t count, int64_t prompt_len, Scratch& scratch);

// Minus infinity where the bit of a token is not set.
void forbid(double* row, int num_tokens, const uint32_t* allowed);

}  // namespace tgi
