// Log probabilities of candidates.
#pragma once
#include "sampler.h"

namespace tgi {

// Put the log probability of choice.token and the `top_n` most probable candidates into `choice`.
void add_logprobs(Choice& choice, const Candidates& candidates, int top_n, Scratch& scratch);

}  // namespace tgi
