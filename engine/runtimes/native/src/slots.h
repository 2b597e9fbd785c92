// What is kept of each request while it runs: its tokens and how they are sampled.
#pragma once
#include <cstdint>
#include <vector>

#include "memory.h"
#include "sampler/sampler.h"

namespace tgi {

struct Slot {
  int64_t* tokens = nullptr;  // [max_context + 1], as far as they are known
  int64_t prompt_len = 0;
  SamplingParams params;
  bool taken = false;
};

class Slots {
 public:
  Slots(int num_slots, int max_context, int vocab_size);

  // Throws std::invalid_argument where a slot or token does not exist or there are too many tokens.
  void enter(int slot, const std::vector<int64_t>& tokens, int64_t prompt_len, SamplingParams params);
  void leave(int slot);  // leaving twice does no harm
  Slot& at(int slot);    // throws where the slot does not exist
  int capacity() const { return capacity_; }  // tokens of a slot

 private:
  int capacity_;
  int vocab_size_;
  Memory tokens_;
  std::vector<Slot> slots_;
};

}  // namespace tgi
