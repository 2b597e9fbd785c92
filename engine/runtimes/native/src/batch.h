// The chunks of one step as rows: a row for each token.
#pragma once
#include <cstdint>
#include <vector>

#include "program.h"
#include "slots.h"

namespace tgi {

// A run of one request's tokens at positions start, start + 1, ...; see engine/sched/plan.py.
struct Chunk {
  int32_t slot, start;
  std::vector<int32_t> tokens;
  int32_t num_draft;
  std::vector<int32_t> blocks;
  bool sample, prompt_logprobs;
  bool embed = false, bidirectional = false;

  int32_t count() const { return static_cast<int32_t>(tokens.size()); }
  int32_t end() const { return start + count(); }
};

// A row whose logits are looked at, or its hidden state.
struct ScoredRow {
  int32_t row;
  int32_t chunk;
  bool draws;           // draws a token, or else scores the next token of the prompt
  int32_t hidden = -1;  // its place among the rows of a text to embed; -1: its logits are looked at
};

struct Batch {
  std::vector<Chunk> chunks;
  std::vector<int32_t> first_row;  // of each chunk
  std::vector<int32_t> tokens;     // of each row, as are:
  std::vector<int32_t> positions;
  std::vector<int32_t> chunk_of;
  std::vector<ScoredRow> scored;  // chunk by chunk: prompt tokens first, then what is drawn

  int rows() const { return static_cast<int>(tokens.size()); }
};

// Throws std::invalid_argument where a chunk names a slot that is empty, or a token, position or block out of range.
Batch make_batch(std::vector<Chunk> chunks, const Program& program, Slots& slots);

}  // namespace tgi
