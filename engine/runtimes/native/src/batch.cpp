#include "batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace tgi {
namespace {

void require(bool holds, const Chunk& chunk, const std::string& what) {
  if (!holds) throw std::invalid_argument("the chunk of slot " + std::to_string(chunk.slot) + " " + what);
}

void check(const Chunk& chunk, const Program& program, Slots& slots) {
  const Geometry& g = program.geometry;
  require(slots.at(chunk.slot).taken, chunk, "belongs to no request: the slot is empty");
  require(!chunk.tokens.empty(), chunk, "has no tokens");
  require(chunk.num_draft >= 0 && chunk.num_draft < chunk.count(), chunk, "has more drafts than tokens");
  const int64_t end = int64_t{chunk.start} + chunk.count();
  require(chunk.start >= 0 && end <= g.max_context, chunk,
          "ends at to position " + std::to_string(end) + ", past the context");
  require(!program.tape.positions.data || end <= program.tape.positions.rows, chunk, "passes the learned positions");
  require(end <= static_cast<int64_t>(chunk.blocks.size()) * g.block_size, chunk, "has too few blocks");
  require(!chunk.embed || !(chunk.start || chunk.num_draft || chunk.sample || chunk.prompt_logprobs), chunk,
          "is to be embedded, and is no whole text or asks for tokens too");
  require(chunk.embed || program.logits >= 0, chunk, "asks for tokens of a model that only embeds");
  for (int32_t token : chunk.tokens)
    require(token >= 0 && token < program.tape.embedding.rows, chunk, "holds the token " + std::to_string(token));
  for (int32_t block : chunk.blocks)
    require(block >= 0 && block < g.num_blocks, chunk, "names the block " + std::to_string(block));
}

// Rows of the chunk that precede a prompt token to be scored.
int prompt_rows(const Chunk& chunk, const Slot& slot) {
  if (!chunk.prompt_logprobs) return 0;
  return static_cast<int>(std::clamp<int64_t>(slot.prompt_len - 1 - chunk.start, 0, chunk.count()));
}

}  // namespace

Batch make_batch(std::vector<Chunk> chunks, const Program& program, Slots& slots) {
  Batch batch;
  batch.chunks = std::move(chunks);
  for (const Chunk& chunk : batch.chunks) check(chunk, program, slots);
  for (int index = 0; index < static_cast<int>(batch.chunks.size()); index++) {
    const Chunk& chunk = batch.chunks[index];
    const int first = batch.rows();
    batch.first_row.push_back(first);
    batch.tokens.insert(batch.tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
    for (int i = 0; i < chunk.count(); i++) {
      batch.positions.push_back(chunk.start + i);
      batch.chunk_of.push_back(index);
    }
    if (chunk.embed) {
      const EmbedRows rows = program.geometry.embed_rows;
      const int begin = rows == EmbedRows::last ? chunk.count() - 1 : 0;
      const int end = rows == EmbedRows::first ? 1 : chunk.count();
      for (int i = begin; i < end; i++) batch.scored.push_back({first + i, index, false, i - begin});
    }
    const int scored = prompt_rows(chunk, slots.at(chunk.slot));
    for (int i = 0; i < scored; i++) batch.scored.push_back({first + i, index, false});
    const int drawn = chunk.sample ? chunk.num_draft + 1 : 0;
    for (int i = chunk.count() - drawn; i < chunk.count(); i++) batch.scored.push_back({first + i, index, true});
  }
  return batch;
}

}  // namespace tgi
