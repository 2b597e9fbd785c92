// The memory a call works in.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace tgi {

// An array that grows when more is asked for. What it held is then lost; new entries are zero.
template <typename Entry>
class Buffer {
 public:
  Entry* room(size_t size) {
    if (size > size_) {
      data_ = std::make_unique<Entry[]>(size);
      size_ = size;
    }
    return data();
  }
  Entry* data() const { return data_.get(); }

 private:
  std::unique_ptr<Entry[]> data_;
  size_t size_ = 0;
};

// The ids that can still be drawn, ascending, and their scores: all finite.
struct Candidates {
  int size = 0;
  int32_t* ids = nullptr;
  double* scores = nullptr;
  double highest = 0;  // of the scores
};

// An entry of a list to be sorted: the highest value first, the lowest index among equals.
struct Ranked {
  double value;
  int32_t index;
  bool operator<(const Ranked& other) const {
    return value != other.value ? value > other.value : index < other.index;
  }
};

// An entry of a list that is sorted by the digits of its keys.
struct Keyed {
  uint32_t key;
  int32_t index;
};

struct Scratch {
  Buffer<double> penalised;  // the row after penalties and bias
  Buffer<int32_t> counts;    // of each token; zeros between calls
  Buffer<int32_t> ids;       // of the candidates
  Buffer<double> scores;     // of the candidates
  Buffer<double> values;     // what candidates are ranked by, where that is not the score
  Buffer<double> logprobs;   // of the candidates
  Buffer<double> peaks;      // the highest value of each block
  Buffer<double> selected;   // what a selection reorders
  Buffer<Ranked> ranked, sorted;
  Buffer<Keyed> keyed[2];  // before and after a round of sorting
  Buffer<uint64_t> marks;  // one bit for each candidate; zeros between calls
};

}  // namespace tgi
