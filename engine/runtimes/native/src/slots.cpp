#include "slots.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace tgi {

Slots::Slots(int num_slots, int max_context, int vocab_size)
    : capacity_(max_context + 1),
      vocab_size_(vocab_size),
      tokens_(static_cast<size_t>(num_slots) * static_cast<size_t>(capacity_) * sizeof(int64_t), false),
      slots_(static_cast<size_t>(num_slots)) {
  int64_t* tokens = reinterpret_cast<int64_t*>(tokens_.data());
  for (size_t i = 0; i < slots_.size(); i++) slots_[i].tokens = tokens + i * static_cast<size_t>(capacity_);
}

void Slots::enter(int slot, const std::vector<int64_t>& tokens, int64_t prompt_len, SamplingParams params) {
  Slot& taken = at(slot);
  const int64_t count = static_cast<int64_t>(tokens.size());
  if (count > capacity_ || prompt_len < 0 || prompt_len > count)
    throw std::invalid_argument("a request of " + std::to_string(count) + " tokens with a prompt of " +
                                std::to_string(prompt_len) + " enters a slot of " + std::to_string(capacity_));
  auto check = [this](int64_t token) {
    if (token < 0 || token >= vocab_size_)
      throw std::invalid_argument("token " + std::to_string(token) + " is not in the vocabulary of " +
                                  std::to_string(vocab_size_));
  };
  for (int64_t token : tokens) check(token);
  for (const auto& [token, value] : params.bias) check(token);
  std::copy(tokens.begin(), tokens.end(), taken.tokens);
  taken.prompt_len = prompt_len;
  taken.params = std::move(params);
  taken.taken = true;
}

void Slots::leave(int slot) {
  at(slot).taken = false;
}

Slot& Slots::at(int slot) {
  if (slot < 0 || slot >= static_cast<int>(slots_.size()))
    throw std::invalid_argument("slot " + std::to_string(slot) + " is not one of the " + std::to_string(slots_.size()));
  return slots_[static_cast<size_t>(slot)];
}

}  // namespace tgi
