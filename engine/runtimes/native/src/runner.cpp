#include "runner.h"

#include <algorithm>
#include <utility>

namespace tgi {

Runner::Runner(Pool& pool, const Kernels& kernels, Program program)
    : kernels_(kernels),
      program_(std::move(program)),
      executor_(pool, kernels, program_),
      slots_(program_.geometry.num_slots, program_.geometry.max_context,
             static_cast<int>(program_.tape.embedding.rows)),
      sampler_(program_.vocab_size(), program_.geometry.num_tokens, kernels),
      scratch_(static_cast<size_t>(pool.threads())) {}

std::vector<ChunkChoices> Runner::step(std::vector<Chunk> chunks) {
  const Batch batch = enter_rows(std::move(chunks));
  std::vector<Choice> choices(batch.scored.size());
  executor_.run(batch, [&](int index, const float* logits, int thread) {
    choices[index] = choose(batch, batch.scored[index], logits, thread);
  });
  std::vector<ChunkChoices> result(batch.chunks.size());
  for (size_t i = 0; i < choices.size(); i++) {
    ChunkChoices& own = result[batch.scored[i].chunk];
    (batch.scored[i].draws ? own.drawn : own.prompt).push_back(std::move(choices[i]));
  }
  return result;
}

std::vector<float> Runner::logits(std::vector<Chunk> chunks) {
  const Batch batch = enter_rows(std::move(chunks));
  const size_t width = static_cast<size_t>(vocab_size());
  std::vector<float> all(batch.scored.size() * width);
  executor_.run(batch, [&](int index, const float* logits, int) {
    std::copy(logits, logits + width, all.data() + static_cast<size_t>(index) * width);
  });
  return all;
}

Batch Runner::enter_rows(std::vector<Chunk> chunks) {
  Batch batch = make_batch(std::move(chunks), program_, slots_);
  for (const Chunk& chunk : batch.chunks)
    std::copy(chunk.tokens.begin(), chunk.tokens.end(), slots_.at(chunk.slot).tokens + chunk.start);
  return batch;
}

Choice Runner::choose(const Batch& batch, const ScoredRow& scored, const float* logits, int thread) {
  const Slot& slot = slots_.at(batch.chunks[scored.chunk].slot);
  const int64_t count = batch.positions[scored.row] + 1;  // the tokens that the row has seen
  if (scored.draws) return sampler_.sample(logits, slot.params, slot.tokens, count, slot.prompt_len, scratch_[thread]);
  return sampler_.score(logits, slot.tokens[count], slot.params.top_n, scratch_[thread]);
}

}  // namespace tgi
