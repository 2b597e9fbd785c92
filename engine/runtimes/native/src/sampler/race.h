// The choice: argmax(score + Gumbel noise), the lowest id among equals.
//
// Exact, yet the noise of few ids is computed. A Gumbel number is -log(-log u), and -log u >= 1 - u, so the leading
// ones of the word w of an id bound its noise: with m = 2^32 - 1 - w and z leading zeros in m,
//
//     1 - u = (m + 1/2) / 2^32 >= 2^-(z + 1), and so noise <= (z + 1) log 2.
//
// An id for which score + (z + 1) log 2 stays below the best sum so far cannot win. Nor can any id of a block whose
// highest score is too low even for 32 leading ones: for such a block no words are made.
#pragma once
#include <cstdint>
#include <limits>

#include "noise.h"
#include "scratch.h"

namespace tgi {

class Race {
 public:
  explicit Race(const Noise& noise) : noise_(noise) {}

  // The lowest word that lets an id of this score, or a lower one, win or draw; NONE where no word does.
  static constexpr uint64_t NONE = uint64_t{1} << 32;
  uint64_t least_word(double score) const;

  void enter(int32_t id, double score) { enter(id, score, noise_.word(id)); }
  void enter(int32_t id, double score, uint32_t word);

  // All ids of a row, of score (x - highest) / temperature.
  template <typename Score>
  void enter_row(const Score* row, int n, double highest, double temperature);
  void enter_all(const Candidates& candidates, Scratch& scratch);

  int32_t winner() const { return winner_; }

 private:
  void enter_each(const Candidates& candidates);

  Noise noise_;
  int32_t winner_ = std::numeric_limits<int32_t>::max();
  double best_ = -std::numeric_limits<double>::infinity();
};

}  // namespace tgi
