#include "pool.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace tgi {
namespace {

// Waiting at a barrier is mostly shorter than falling asleep and waking up.
constexpr auto BARRIER_SPIN = std::chrono::microseconds(10);
constexpr auto IDLE_SPIN = std::chrono::microseconds(100);  // between tasks
constexpr int SPINS_PER_LOOK = 32;                          // at the clock
constexpr int MAX_THREADS = 1024;

struct Abandoned {};  // another thread's task has failed: unwind

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// Both sides are sequentially consistent: either `notify` sees the sleeper, or the sleeper sees the change.
template <typename Done>
void Pool::Event::wait(std::chrono::microseconds spin, Done&& done) {
  for (int i = 0; i < 2 * SPINS_PER_LOOK; i++) {
    if (done()) return;
    pause();
  }
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < spin)
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      if (done()) return;
      pause();
    }
  std::unique_lock<std::mutex> lock(mutex_);
  sleeping_.fetch_add(1);
  condition_.wait(lock, done);
  sleeping_.fetch_sub(1);
}

void Pool::Event::notify() {
  if (sleeping_.load() == 0) return;
  { std::lock_guard<std::mutex> lock(mutex_); }  // a sleeper that is about to wait must get there first
  condition_.notify_all();
}

Pool::Pool(int threads) : threads_(threads) {
  if (threads < 1 || threads > MAX_THREADS)
    throw std::invalid_argument("a pool has 1 to " + std::to_string(MAX_THREADS) +
                                " threads. Given: " + std::to_string(threads));
  for (int thread = 1; thread < threads; thread++) workers_.emplace_back([this, thread] { serve(thread); });
}

Pool::~Pool() {
  closing_.store(true);
  epoch_.fetch_add(1);
  begun_.notify();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run(const std::function<void(int)>& task) {
  std::lock_guard<std::mutex> only(callers_);
  task_ = &task;
  finished_.store(0);
  epoch_.fetch_add(1);
  begun_.notify();
  attempt(0);
  ended_.wait(BARRIER_SPIN, [this] { return finished_.load() == threads_ - 1; });
  if (!failed_.load()) return;
  failed_.store(false);
  arrived_.store(0);
  next_.store(0);
  std::rethrow_exception(std::exchange(error_, nullptr));
}

void Pool::meet(bool reset_share) {
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    if (reset_share) next_.store(0, std::memory_order_relaxed);
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1);
    met_.notify();
    return;
  }
  met_.wait(BARRIER_SPIN, [&] { return generation_.load() != generation || failed_.load(); });
  if (generation_.load() == generation) throw Abandoned();
}

void Pool::attempt(int thread) {
  try {
    (*task_)(thread);
  } catch (const Abandoned&) {
  } catch (...) {
    {
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
    failed_.store(true);
    met_.notify();
  }
}

void Pool::serve(int thread) {
  for (uint32_t seen = 0;; seen++) {
    begun_.wait(IDLE_SPIN, [&] { return epoch_.load() != seen; });
    if (closing_.load()) return;
    attempt(thread);
    if (finished_.fetch_add(1) + 1 == threads_ - 1) ended_.notify();
  }
}

}  // namespace tgi
