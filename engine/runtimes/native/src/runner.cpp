#include "runner.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
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

std::vector<ChunkChoices> Runner::step(std::vector<Chunk> chunks, const AllowedTokens& allowed) {
  const Batch batch = enter_rows(std::move(chunks));
  std::vector<Choice> choices(batch.scored.size());
  std::vector<Allowed> masks(batch.chunks.size());
  std::once_flag asked;
  std::vector<ChunkChoices> result(batch.chunks.size());
  const size_t width = static_cast<size_t>(hidden_size());
  for (const ScoredRow& scored : batch.scored)
    if (scored.hidden >= 0) result[scored.chunk].hidden.resize(static_cast<size_t>(scored.hidden + 1) * width);
  executor_.run(batch, [&](int index, const float* numbers, int thread) {
    const ScoredRow& scored = batch.scored[index];
    if (scored.hidden >= 0) {
      float* place = result[scored.chunk].hidden.data() + static_cast<size_t>(scored.hidden) * width;
      std::copy(numbers, numbers + width, place);
      return;
    }
    if (allowed && scored.draws) std::call_once(asked, [&] { masks = allowed(); });
    choices[index] = choose(batch, scored, numbers, thread, scored.draws ? masks[scored.chunk] : Allowed());
  });
  for (size_t i = 0; i < choices.size(); i++) {
    if (batch.scored[i].hidden >= 0) continue;
    ChunkChoices& own = result[batch.scored[i].chunk];
    (batch.scored[i].draws ? own.drawn : own.prompt).push_back(std::move(choices[i]));
  }
  return result;
}

std::vector<float> Runner::logits(std::vector<Chunk> chunks) {
  const Batch batch = enter_rows(std::move(chunks));
  for (const Chunk& chunk : batch.chunks)
    if (chunk.embed) throw std::invalid_argument("a text to embed has no logits");
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

Choice Runner::choose(const Batch& batch, const ScoredRow& scored, const float* logits, int thread,
                      const Allowed& allowed) {
  const Chunk& chunk = batch.chunks[scored.chunk];
  const Slot& slot = slots_.at(chunk.slot);
  const int64_t count = batch.positions[scored.row] + 1;  // the tokens that the row has seen
  if (scored.draws) {
    const int64_t drawn = count - (chunk.end() - chunk.num_draft);  // before this one, in this step
    const uint32_t* mask = allowed.rows ? allowed.rows + drawn * static_cast<int64_t>(allowed.words) : nullptr;
    return sampler_.sample(logits, slot.params, slot.tokens, count, slot.prompt_len, scratch_[thread], mask);
  }
  return sampler_.score(logits, slot.tokens[count], slot.params.top_n, scratch_[thread]);
}

}  // namespace tgi
