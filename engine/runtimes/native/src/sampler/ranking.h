// The highest of many values, without sorting them all.
#pragma once
#include "scratch.h"

namespace tgi {

// Values [size] in blocks, with the highest of each: what is below a bound is passed over a block at a time.
class Blocks {
 public:
  // Of a length at which the highest `count` values lie in a small part of the blocks.
  Blocks(const double* values, int size, int count, Scratch& scratch);

  double operator[](int index) const { return values_[index]; }

  // A number that at least `count` values reach, and not many more unless they are equal; -inf at worst.
  double bound(int count, Scratch& scratch) const;

  // Call visit(index) for every value that reaches `bound`, in ascending order. It may change values up to that index.
  template <typename Visit>
  void reaching(double bound, Visit&& visit) const {
    for (int block = 0, i = 0; block < count_; block++) {
      int end = i + length_ < size_ ? i + length_ : size_;
      if (peaks_[block] < bound) i = end;
      for (; i < end; i++)
        if (values_[i] >= bound) visit(i);
    }
  }

 private:
  const double* values_;
  int size_, length_, count_;
  double* peaks_;
};

// The `count`-th highest value, count <= size.
double nth_highest(const Blocks& blocks, int size, int count, Scratch& scratch);

struct Ranking {
  const Ranked* entries;  // in the scratch
  int size;
};

// At least the `count` highest values (all, if there are not so many), the highest first, the lowest index among
// equals.
Ranking rank(const double* values, int size, int count, Scratch& scratch);

}  // namespace tgi
