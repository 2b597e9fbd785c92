// A program with its cache, its slots and its sampler: what a worker calls.
#pragma once
#include <cstddef>
#include <functional>
#include <vector>

#include "batch.h"
#include "executor.h"
#include "sampler/sampler.h"
#include "slots.h"

namespace tgi {

struct ChunkChoices {
  std::vector<Choice> prompt;  // for each row that scores a token of the prompt
  std::vector<Choice> drawn;   // for each row that draws one
  std::vector<float> hidden;   // of a text to embed: the rows asked for [rows][hidden_size]
};

// The tokens that grammars allow: for each chunk a row of 32-bit words for each token it draws, or null for every token.
struct Allowed {
  const uint32_t* rows = nullptr;
  size_t words = 0;  // of a row
};
using AllowedTokens = std::function<std::vector<Allowed>()>;

class Runner {
 public:
  Runner(Pool& pool, const Kernels& kernels, Program program);

  // Compute the chunks, then score and draw. All errors but those of the system come before anything is computed.
  // `allowed` is asked once, by any thread, when the first logits to draw from are there.
  std::vector<ChunkChoices> step(std::vector<Chunk> chunks, const AllowedTokens& allowed = nullptr);

  // The logits of the rows that `step` looks at: [rows][vocab_size].
  std::vector<float> logits(std::vector<Chunk> chunks);

  Slots& slots() { return slots_; }
  const Kernels& kernels() const { return kernels_; }
  size_t kv_bytes() const { return executor_.kv_bytes(); }
  int vocab_size() const { return program_.vocab_size(); }
  int hidden_size() const { return program_.hidden_size(); }

 private:
  Batch enter_rows(std::vector<Chunk> chunks);
  Choice choose(const Batch& batch, const ScoredRow& scored, const float* logits, int thread, const Allowed& allowed);

  const Kernels& kernels_;
  Program program_;
  Executor executor_;
  Slots slots_;
  Sampler sampler_;
  std::vector<Sampler::Scratch> scratch_;
};

}  // namespace tgi
