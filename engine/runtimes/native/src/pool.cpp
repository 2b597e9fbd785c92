#include "pool.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace tgi {
namespace {

// Waiting at a barrier is mostly shorter than falling asleep and waking up.
constexpr auto BARRIER_SPIN = std::chrono::microseconds(50);
constexpr auto SHORT_SPIN = std::chrono::microseconds(5);   // by who has spun in vain the last time
constexpr auto IDLE_SPIN = std::chrono::microseconds(200);  // between tasks
constexpr int SPINS_PER_LOOK = 32;                          // at the clock
constexpr auto MOVE_PAUSE = std::chrono::milliseconds(50);  // the core moved to may be another program's: not too often
constexpr int MAX_THREADS = 1024;
constexpr int UNKNOWN = -1;  // core

// Of each thread:
thread_local int this_thread = 0;        // its number in the pool whose task it runs
thread_local bool spun_in_vain = false;  // the last time
thread_local std::chrono::steady_clock::time_point next_move;  // not before

struct Abandoned {};  // another thread's task has failed: unwind

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

size_t checked(int threads) {
  if (threads >= 1 && threads <= MAX_THREADS) return static_cast<size_t>(threads);
  throw std::invalid_argument("a pool has 1 to " + std::to_string(MAX_THREADS) +
                              " threads. Given: " + std::to_string(threads));
}

#if defined(__linux__)
int current_core() { return sched_getcpu(); }

// Moves the calling thread to a core that is not `taken`, if it may use one, and leaves it free to move again.
void leave(const std::vector<std::atomic<int>>& taken) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;  // more cores than a cpu_set_t has
  cpu_set_t others = allowed;
  for (const std::atomic<int>& core : taken)
    if (core.load(std::memory_order_relaxed) != UNKNOWN) CPU_CLR(core.load(std::memory_order_relaxed), &others);
  if (CPU_COUNT(&others) == 0) return;
  sched_setaffinity(0, sizeof others, &others);
  sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
int current_core() { return UNKNOWN; }
void leave(const std::vector<std::atomic<int>>&) {}
#endif

}  // namespace

// Both sides are sequentially consistent: either `notify` sees the sleeper, or the sleeper sees the change.
template <typename Done>
bool Pool::Event::wait(std::chrono::microseconds spin, Done&& done) {
  const auto end = std::chrono::steady_clock::now() + (spun_in_vain ? SHORT_SPIN : spin);
  do {
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      if (done()) return spun_in_vain = false;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  std::unique_lock<std::mutex> lock(mutex_);
  sleeping_.fetch_add(1);
  condition_.wait(lock, done);
  sleeping_.fetch_sub(1);
  return spun_in_vain = true;
}

void Pool::Event::notify() {
  if (sleeping_.load() == 0) return;
  { std::lock_guard<std::mutex> lock(mutex_); }  // a sleeper that is about to wait must get there first
  condition_.notify_all();
}

Pool::Pool(int threads) : threads_(threads), cores_(checked(threads)) {
  for (std::atomic<int>& core : cores_) core.store(UNKNOWN);
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
  this_thread = 0;
  cores_[0].store(current_core(), std::memory_order_relaxed);
  epoch_.fetch_add(1);
  begun_.notify();
  attempt();
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
  if (met_.wait(BARRIER_SPIN, [&] { return generation_.load() != generation || failed_.load(); })) settle();
  if (generation_.load() == generation) throw Abandoned();
}

void Pool::attempt() {
  try {
    (*task_)(this_thread);
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

void Pool::settle() {
  const int core = current_core();
  cores_[this_thread].store(core, std::memory_order_relaxed);
  const auto here = [core](const std::atomic<int>& other) { return other.load(std::memory_order_relaxed) == core; };
  if (core == UNKNOWN || std::count_if(cores_.begin(), cores_.end(), here) == 1) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_move) return;
  next_move = now + MOVE_PAUSE;
  leave(cores_);
  cores_[this_thread].store(current_core(), std::memory_order_relaxed);
}

void Pool::serve(int thread) {
  for (uint32_t seen = 0;; seen++) {
    begun_.wait(IDLE_SPIN, [&] { return epoch_.load() != seen; });
    if (closing_.load()) return;
    this_thread = thread;
    settle();
    attempt();
    if (finished_.fetch_add(1) + 1 == threads_ - 1) ended_.notify();
  }
}

}  // namespace tgi
