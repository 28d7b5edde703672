// A fixed pool: the caller works too, ranges are handed out from a shared counter.
//
// Decode runs hundreds of loops of some microseconds per token, so a loop costs no system
// call while workers are awake: they spin for a while before they sleep, and the caller waits
// only for those workers that joined its loop.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/status.h"
#include "device/executor.h"

namespace tq {

class ThreadPool final : public Executor {
 public:
  // `threads` = 0 takes the processors that this process may use. Above 1024 is an error,
  // and so are more than the system starts.
  static StatusOr<std::unique_ptr<ThreadPool>> Create(size_t threads);
  ~ThreadPool() override;

  size_t threads() const override { return workers_.size() + 1; }
  void ParallelFor(size_t n, size_t grain,
                   const std::function<void(size_t, size_t, size_t)>& body) override;

 private:
  ThreadPool() = default;
  void WorkerLoop(size_t worker);
  // Waits until the number of loops started differs from `seen`, and returns it.
  uint64_t AwaitLoop(uint64_t seen);
  void RunRanges(size_t worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> loops_{0};  // started so far; the destructor starts one more
  std::atomic<size_t> sleepers_{0};
  std::atomic<bool> stop_{false};

  // The loop in progress. Workers read the plain fields between joining (joined_ counts
  // them) and leaving, and only while open_ is true; the caller changes them only while it
  // is false and nobody is inside.
  std::atomic<bool> open_{false};
  std::atomic<size_t> joined_{0};
  const std::function<void(size_t, size_t, size_t)>* body_ = nullptr;
  size_t n_ = 0, range_ = 1;
  std::atomic<size_t> next_{0};
  std::exception_ptr error_;  // the first that a body threw; under mutex_ while anybody is inside
};

// Processors this process may run on (its affinity mask).
size_t AvailableProcessors();

}  // namespace tq
