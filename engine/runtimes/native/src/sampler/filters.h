// The filters of engine/sample/warp.py. Each removes candidates; at least one stays.
#pragma once
#include "scratch.h"

namespace tgi {

// Scores of minus infinity: for the first step, which is handed some.
void drop_impossible(Candidates& candidates);
// x >= highest + log(ratio)
void min_p(Candidates& candidates, double ratio);
// The k highest scores, and all that equal the lowest of them.
void top_k(Candidates& candidates, int64_t k, Scratch& scratch);
// The most probable until their probability reaches `mass`, the lowest id first among equals.
void top_p(Candidates& candidates, double mass, Scratch& scratch);
// Those whose surprise is closest to the entropy, until their probability reaches `mass`.
void typical_p(Candidates& candidates, double mass, Scratch& scratch);

}  // namespace tgi
