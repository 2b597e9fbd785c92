// The threads that compute: made once, asleep while there is nothing to do.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tgi {

class Pool {
 public:
  explicit Pool(int threads);  // the caller of `run` is one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Call task(thread) on every thread, 0 being the caller; returns when all are done. An exception of a task is thrown
  // here (one of them where there are several); the other threads then give up at their next barrier.
  void run(const std::function<void(int)>& task);

  // Inside a task: wait for all threads.
  void barrier() { meet(false); }

  // Inside a task: the items [0, count) in chunks of `grain`, each taken by the first thread that is free. `call` gets
  // a range [begin, end). Ends with a barrier. Which thread takes what never changes a result.
  template <typename Call>
  void share(int count, int grain, Call&& call) {
    for (int begin; (begin = next_.fetch_add(grain, std::memory_order_relaxed)) < count;)
      call(begin, begin + grain < count ? begin + grain : count);
    meet(true);
  }

 private:
  // Where threads wait for something to change: for a short time they spin, then they sleep. Spinning on would keep the
  // core from the very thread that is waited for, where the machine has other work too; a thread that has spun in vain
  // takes it as a sign of that, and spins less the next time.
  class Event {
   public:
    template <typename Done>
    bool wait(std::chrono::microseconds spin, Done&& done);  // true: it slept
    void notify();                                           // after the change

   private:
    std::atomic<int> sleeping_{0};
    std::mutex mutex_;
    std::condition_variable condition_;
  };

  void meet(bool reset_share);
  void attempt();

  // Two threads that sleep for each other on one core are never both ready to run, so the system sees no reason to move
  // one away, and they would stay there. So a thread that has woken looks whether its core is its own, or else moves.
  void settle();

  void serve(int thread);

  int threads_;
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};  // of the barrier
  alignas(64) std::atomic<uint32_t> epoch_{0};       // one more for each task
  alignas(64) std::atomic<int> finished_{0};
  std::atomic<bool> failed_{false};
  std::atomic<bool> closing_{false};
  const std::function<void(int)>* task_ = nullptr;
  std::exception_ptr error_;
  std::mutex error_mutex_;
  std::mutex callers_;  // one task at a time
  std::vector<std::atomic<int>> cores_;  // of each thread, when it last looked
  Event begun_, met_, ended_;
  std::vector<std::thread> workers_;
};

}  // namespace tgi
