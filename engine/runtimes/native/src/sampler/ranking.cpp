#include "ranking.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "numbers.h"

namespace tgi {
namespace {

constexpr int FEW = 512;               // up to here comparing is faster than counting digits
constexpr int DIGIT = 11, ROUNDS = 3;  // 3 rounds of 11 bits sort keys of 32

// Ascending where values descend, as far as a float tells them apart. Zeros of either sign are equal.
inline uint32_t sorting_key(double value) {
  float rounded = (float)(0.0 - value);
  uint32_t bits;
  memcpy(&bits, &rounded, sizeof bits);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// Sort from[size] by key, least significant digit first; equal keys keep their order. Returns where the result lies.
const Keyed* sort_by_key(Keyed* from, Keyed* to, int size) {
  constexpr int VALUES = 1 << DIGIT;
  int place[ROUNDS][VALUES] = {};
  auto digit = [](Keyed entry, int round) { return entry.key >> (round * DIGIT) & (VALUES - 1); };
  for (int i = 0; i < size; i++)
    for (int round = 0; round < ROUNDS; round++) place[round][digit(from[i], round)]++;
  for (int round = 0; round < ROUNDS; round++) {
    int total = 0;
    for (int& count : place[round]) total += std::exchange(count, total);
    for (int i = 0; i < size; i++) to[place[round][digit(from[i], round)]++] = from[i];
    std::swap(from, to);
  }
  return from;
}

// Sort entries that are in ascending order of index.
const Ranked* sort_many(const Ranked* ranked, int size, Scratch& scratch) {
  Keyed* keyed = scratch.keyed[0].room(size);
  for (int i = 0; i < size; i++) keyed[i] = {sorting_key(ranked[i].value), i};
  const Keyed* sorted = sort_by_key(keyed, scratch.keyed[1].room(size), size);
  Ranked* result = scratch.sorted.room(size);
  for (int i = 0; i < size; i++) result[i] = ranked[sorted[i].index];
  for (int begin = 0, end; begin < size; begin = end) {  // what differs, but not as a float
    for (end = begin + 1; end < size && sorted[end].key == sorted[begin].key;) end++;
    if (!std::is_sorted(result + begin, result + end)) std::sort(result + begin, result + end);
  }
  return result;
}

}  // namespace

Blocks::Blocks(const double* values, int size, int count, Scratch& scratch)
    : values_(values), size_(size), length_(std::clamp(size / count / 4 / 8 * 8, 8, 256)) {
  count_ = (size + length_ - 1) / length_;
  peaks_ = scratch.peaks.room(count_);
  for (int i = 0; i < count_; i++)
    peaks_[i] = highest_of(values + i * length_, std::min(length_, size - i * length_));
}

double Blocks::bound(int count, Scratch& scratch) const {
  if (count > count_) return -std::numeric_limits<double>::infinity();
  double* peaks = scratch.selected.room(count_);
  std::copy_n(peaks_, count_, peaks);
  std::nth_element(peaks, peaks + count - 1, peaks + count_, std::greater<>());
  return peaks[count - 1];
}

double nth_highest(const Blocks& blocks, int size, int count, Scratch& scratch) {
  double bound = blocks.bound(count, scratch), *pool = scratch.selected.room(size), *end = pool;
  blocks.reaching(bound, [&](int i) { *end++ = blocks[i]; });
  std::nth_element(pool, pool + count - 1, end, std::greater<>());
  return pool[count - 1];
}

Ranking rank(const double* values, int size, int count, Scratch& scratch) {
  Blocks blocks(values, size, count, scratch);
  Ranked *ranked = scratch.ranked.room(size), *end = ranked;
  blocks.reaching(blocks.bound(count, scratch), [&](int i) { *end++ = {values[i], i}; });
  int found = (int)(end - ranked);
  if (found > FEW) return {sort_many(ranked, found, scratch), found};
  std::sort(ranked, end);
  return {ranked, found};
}

}  // namespace tgi
