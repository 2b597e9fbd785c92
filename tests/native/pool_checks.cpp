// The thread pool: every thread and every item once, barriers that hold, exceptions that come out, at any hurry.
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "checks.h"
#include "pool.h"

namespace tgi::tests {
namespace {

void check_runs(Pool& pool, int runs) {
  std::vector<int> visits(static_cast<size_t>(pool.threads()));  // each thread writes its own
  for (int i = 0; i < runs; i++) pool.run([&](int thread) { visits[size_t(thread)]++; });
  for (int visited : visits) check(visited == runs, "a thread ran %d of %d tasks", visited, runs);
}

// Each phase reads what all threads wrote in the one before.
void check_barriers(Pool& pool, int phases) {
  std::vector<int> last(static_cast<size_t>(pool.threads())), wrong(last.size());
  pool.run([&](int thread) {
    for (int phase = 1; phase <= phases; phase++) {
      last[size_t(thread)] = phase;
      pool.barrier();
      for (int seen : last) wrong[size_t(thread)] += seen != phase;
      pool.barrier();
    }
  });
  for (int count : wrong) check(count == 0, "%d of %d phases were seen before their end", count, phases);
}

void check_shares(Pool& pool, Random& random, int rounds) {
  std::vector<int> taken;
  for (int round = 0; round < rounds; round++) {
    const int count = random.below(70), grain = random.between(1, 9);
    taken.assign(size_t(count), 0);
    pool.run([&](int) {
      for (int again = 0; again < 3; again++)
        pool.share(count, grain, [&](int begin, int end) {
          for (int i = begin; i < end; i++) taken[size_t(i)]++;
        });
    });
    for (int times : taken)
      check(times == 3, "an item of %d in grains of %d was taken %d times, not 3", count, grain, times);
  }
}

// The message of what `run` throws; empty where it throws nothing.
template <typename Task>
std::string thrown_by(Pool& pool, Task&& task) {
  try {
    pool.run(task);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

// Some threads fail, at some place; the caller hears of one of them, and the pool goes on working.
void check_exceptions(Pool& pool, Random& random, int rounds) {
  for (int round = 0; round < rounds; round++) {
    const uint64_t failing = random.next() | uint64_t{1} << random.below(pool.threads());
    const int place = random.below(4);
    auto fail = [&](int thread) {
      if (failing >> thread & 1) throw std::runtime_error("thread " + std::to_string(thread));
    };
    const std::string heard = thrown_by(pool, [&](int thread) {
      if (place == 0) return fail(thread);
      pool.barrier();
      if (place == 1) fail(thread);
      pool.share(40, 3, [&](int begin, int) {
        if (place == 2 && begin >= 21) throw std::runtime_error("thread 0");
      });
      if (place == 3) fail(thread);
      pool.barrier();
    });
    check(heard.rfind("thread ", 0) == 0, "the failure of a task came out as '%s'", heard.c_str());
    check_runs(pool, 2);
    if (round % 4 == 0) check_shares(pool, random, 2);
  }
}

void check_callers(Pool& pool) {
  constexpr int CALLERS = 3, RUNS = 50;
  int total = 0;  // guarded by the pool: one task at a time
  std::vector<std::thread> callers;
  for (int caller = 0; caller < CALLERS; caller++)
    callers.emplace_back([&] {
      for (int i = 0; i < RUNS; i++)
        pool.run([&](int thread) {
          if (thread == 0) total++;
        });
    });
  for (std::thread& caller : callers) caller.join();
  check(total == CALLERS * RUNS, "%d of %d tasks of several callers ran", total, CALLERS * RUNS);
}

// Idle long enough that the threads sleep.
void check_waking(Pool& pool, int rounds) {
  for (int i = 0; i < rounds; i++) {
    std::this_thread::sleep_for(std::chrono::microseconds(i % 2 ? 400 : 90));
    check_runs(pool, 1);
  }
}

void check_sizes() {
  for (int threads : {0, -1, 1025}) {
    bool refused = false;
    try {
      Pool pool(threads);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    check(refused, "a pool of %d threads is not refused", threads);
  }
  for (int i = 0; i < 50; i++) Pool pool(1 + i % 4);  // gone before its threads have begun
}

}  // namespace

void check_pool(int effort) {
  Random random(5);
  check_sizes();
  for (int threads = 1; threads <= 8; threads++) {
    Where where("%d threads", threads);
    Pool pool(threads);
    check_runs(pool, 100 * effort);
    check_barriers(pool, 10 * effort);
    check_shares(pool, random, 5 * effort);
    check_exceptions(pool, random, 4 * effort);
    check_callers(pool);
    check_waking(pool, 2 * effort);
  }
}

}  // namespace tgi::tests
