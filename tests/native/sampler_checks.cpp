// The sampler against its laws written plainly, one full sort a filter. (That it draws the very tokens of engine/sample
// is proved in tests/sample.)
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "checks.h"
#include "sampler/noise.h"
#include "sampler/sampler.h"

namespace tgi::tests {
namespace {

struct Candidate {
  int id;
  double score;
};
using Candidates = std::vector<Candidate>;

// Philox4x32-10 (Salmon et al., 2011), word `id % 4` of the counter (id / 4, position, 0, 0).
uint32_t philox(uint64_t seed, uint32_t position, uint32_t id) {
  uint32_t c[4] = {id / 4, position, 0, 0}, key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(a)};
    std::copy_n(next, 4, c);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c[id % 4];
}

// Most probable first, the lowest id among equals.
void sort(Candidates& candidates) {
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
}

double log_sum(const Candidates& candidates) {
  double highest = -INFINITY, sum = 0;
  for (const Candidate& c : candidates) highest = std::max(highest, c.score);
  for (const Candidate& c : candidates) sum += std::exp(c.score - highest);
  return highest + std::log(sum);
}

// What is left to draw from. `close`: a filter's limit lies within rounding of where it cuts, so either cut is right.
struct Plain {
  Candidates candidates;
  bool close = false;

  Plain(const float* logits, int n, double temperature) {
    for (int id = 0; id < n; id++)
      if (logits[id] > -INFINITY) candidates.push_back({id, logits[id] / temperature});
    sort(candidates);
  }
  void top_k(size_t k) {
    if (k >= candidates.size()) return;
    const double lowest = candidates[k - 1].score;
    while (candidates.back().score < lowest) candidates.pop_back();
  }
  void top_p(double mass) {
    const double all = log_sum(candidates);
    double total = 0;
    for (size_t i = 0; i < candidates.size(); i++) {
      total += std::exp(candidates[i].score - all);
      close = close || std::fabs(total - mass) < 1e-9;
      if (total >= mass) return candidates.resize(i + 1, Candidate{});
    }
  }
  void min_p(double ratio) {
    const double limit = candidates[0].score + std::log(ratio);
    for (const Candidate& c : candidates) close = close || std::fabs(c.score - limit) < 1e-9;
    while (candidates.back().score < limit) candidates.pop_back();
  }
  int draw(uint64_t seed, uint32_t position) {
    int winner = -1;
    double best = -INFINITY, second = -INFINITY;
    for (const Candidate& c : candidates) {
      const double number =
          c.score - std::log(-std::log((philox(seed, position, static_cast<uint32_t>(c.id)) + 0.5) * 0x1p-32));
      second = std::max(second, std::min(best, number));
      if (number > best) best = number, winner = c.id;
    }
    close = close || best - second < 1e-9;
    return winner;
  }
};

void check_noise(Random& random) {
  for (int i = 0; i < 20; i++) {
    const uint64_t seed = random.next();
    const uint32_t position = static_cast<uint32_t>(random.next());
    const int32_t first = 4 * random.below(1 << 20);
    const Noise noise(seed, position);
    uint32_t words[Noise::BATCH];
    noise.words(first, words);
    for (int j = 0; j < Noise::BATCH; j++) {
      const uint32_t expected = philox(seed, position, static_cast<uint32_t>(first + j));
      check(words[j] == expected && noise.word(first + j) == expected, "the noise of id %d", first + j);
    }
  }
}

class SamplerLaws {
 public:
  SamplerLaws(const Kernels& kernels, Random& random)
      : random_(random),
        vocab_(random.pick({1, 5, 63, 64, 300, 3000})),
        tokens_(random.chance(3) ? random.between(1, vocab_) : vocab_),
        sampler_(vocab_, tokens_, kernels),
        logits_(1, vocab_, random) {
    const float size = random.pick({0.1f, 1.0f, 5.0f});
    for (int i = 0; i < vocab_; i++) {
      logits_[0][i] *= size;
      if (random.chance(20)) logits_[0][i] = logits_[0][0];
      if (random.chance(10) && i > 0) logits_[0][i] = -INFINITE;
    }
  }

  void check_draws(int count) {
    for (int i = 0; i < count; i++) {
      SamplingParams params = random_params();
      const int64_t position = random_.below(5000);
      Plain plain(logits_[0], tokens_, params.temperature);
      if (params.top_k > 0) plain.top_k(size_t(params.top_k));
      if (params.top_p < 1) plain.top_p(params.top_p);
      if (params.min_p > 0) plain.min_p(params.min_p);
      const Choice choice = sampler_.sample(logits_[0], params, nullptr, position, 0, scratch_);
      const int expected = plain.draw(params.seed, static_cast<uint32_t>(position));
      if (plain.close) continue;
      check(choice.token == expected, "drawn %lld, not %d (of %d; t %g k %lld p %g min %g)",
            static_cast<long long>(choice.token), expected, tokens_, params.temperature,
            static_cast<long long>(params.top_k), params.top_p, params.min_p);
      check_logprobs(choice, plain.candidates, params.top_n);
    }
  }

  void check_greedy() {
    int best = 0;
    for (int i = 1; i < tokens_; i++)
      if (logits_[0][i] > logits_[0][best]) best = i;
    SamplingParams params;
    const Choice choice = sampler_.sample(logits_[0], params, nullptr, 0, 0, scratch_);
    check(choice.token == best && choice.fault == Fault::none, "greedy takes %lld, not %d",
          static_cast<long long>(choice.token), best);
  }

  // Penalties of the tokens so far, and a bias, against the same on the logits.
  void check_penalties() {
    std::vector<int64_t> so_far(static_cast<size_t>(random_.below(50)));
    for (int64_t& token : so_far) token = random_.below(vocab_);
    const int64_t count = static_cast<int64_t>(so_far.size()), prompt = random_.below(static_cast<int>(count) + 1);
    SamplingParams params;
    params.repetition_penalty = 1.3;
    params.frequency_penalty = 0.25;
    params.presence_penalty = -0.5;
    params.bias = {{random_.below(vocab_), 3.0}, {random_.below(vocab_), -100.0}};
    std::vector<double> row(logits_[0], logits_[0] + vocab_);
    for (int id = 0; id < vocab_; id++) {
      double& score = row[size_t(id)];
      if (std::count(so_far.begin(), so_far.end(), id) > 0) score = score > 0 ? score / 1.3 : score * 1.3;
      const double times = static_cast<double>(std::count(so_far.begin() + prompt, so_far.end(), id));
      if (times > 0) score = score - 0.25 * times + 0.5;
    }
    for (const auto& [id, value] : params.bias) row[size_t(id)] += value;
    const auto best = std::max_element(row.begin(), row.begin() + tokens_);
    const Choice choice = sampler_.sample(logits_[0], params, so_far.data(), count, prompt, scratch_);
    check(row[size_t(choice.token)] == *best, "the best after penalties is %lld, not %lld",
          static_cast<long long>(choice.token), static_cast<long long>(best - row.begin()));
  }

  void check_faults() {
    for (auto [number, fault] : {std::pair{NOT_A_NUMBER, Fault::nan}, std::pair{INFINITE, Fault::plus_infinity}}) {
      Rows row(1, vocab_, random_);
      row[0][random_.below(tokens_)] = number;
      expect_fault(row[0], fault);
    }
    Rows nothing(1, vocab_);
    std::fill_n(nothing[0], vocab_, -INFINITE);
    expect_fault(nothing[0], Fault::all_minus_infinity);
  }

 private:
  SamplingParams random_params() {
    SamplingParams params;
    params.temperature = random_.pick({0.3, 1.0, 1.7});
    if (random_.chance(2)) params.top_k = random_.between(1, 60);
    if (random_.chance(2)) params.top_p = 0.05 + 0.9 * random_.uniform();
    if (random_.chance(3)) params.min_p = 0.01 + 0.3 * random_.uniform();
    params.seed = random_.next();
    params.logprobs = random_.chance(2);
    params.top_n = params.logprobs ? random_.below(6) : 0;
    return params;
  }

  void check_logprobs(const Choice& choice, const Candidates& sorted, int top_n) {
    if (choice.logprob == 0 && choice.top.empty()) return;
    const double all = log_sum(sorted);
    for (const Candidate& c : sorted)
      if (c.id == choice.token)
        check(std::fabs(choice.logprob - (c.score - all)) < 1e-9, "log probability %g, not %g", choice.logprob,
              c.score - all);
    check(choice.top.size() == std::min(size_t(top_n), sorted.size()), "%zu alternatives of %d", choice.top.size(),
          top_n);
    for (size_t i = 0; i < choice.top.size(); i++)
      check(std::fabs(choice.top[i].second - (sorted[i].score - all)) < 1e-9, "alternative %zu", i);
  }

  void expect_fault(const float* row, Fault fault) {
    SamplingParams params;
    for (double temperature : {0.0, 1.0}) {
      params.temperature = temperature;
      const Choice choice = sampler_.sample(row, params, nullptr, 1, 0, scratch_);
      check(choice.fault == fault, "a row with fault %d has fault %d", static_cast<int>(fault),
            static_cast<int>(choice.fault));
    }
    check(sampler_.score(row, 0, 1, scratch_).fault == fault, "a scored row has no fault %d", static_cast<int>(fault));
  }

  Random& random_;
  int vocab_, tokens_;
  Sampler sampler_;
  Rows logits_;
  Sampler::Scratch scratch_;
};

}  // namespace

void check_sampler(const Kernels& kernels, int effort) {
  Random random(8);
  check_noise(random);
  for (int i = 0; i < 12 * effort; i++) {
    SamplerLaws laws(kernels, random);
    laws.check_greedy();
    laws.check_draws(12);
    laws.check_penalties();
    laws.check_faults();
  }
}

}  // namespace tgi::tests
