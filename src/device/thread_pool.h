// A fixed pool: the caller works too. A loop is cut into equal shares, one per thread, always the
// same; a thread that is done with its own takes ranges of the others', so that one that the
// system holds up delays a loop by a range at most.
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
  static constexpr size_t kCacheLine = 64;

 public:
  static constexpr size_t kMaxThreads = 1024;
  // `threads` = 0 takes the processors that this process may use. Above kMaxThreads is an error,
  // and so are more than the system starts.
  static StatusOr<std::unique_ptr<ThreadPool>> Create(size_t threads);
  ~ThreadPool() override;

  size_t threads() const override { return workers_.size() + 1; }
  void ParallelFor(size_t n, size_t grain,
                   const std::function<void(size_t, size_t, size_t)>& body) override;

 private:
  // Of one thread: the rest of its part of [0, n).
  struct alignas(kCacheLine) Share {
    std::atomic<size_t> next{0};
    size_t end = 0;
  };

  explicit ThreadPool(size_t threads) : shares_(threads) {}
  void WorkerLoop(size_t worker);
  // Waits until the number of loops started differs from `seen`, and returns it.
  uint64_t AwaitLoop(uint64_t seen);
  // Until nobody is inside a loop.
  void AwaitWorkers() const;
  void Run(size_t worker);
  void RunShare(Share& share, size_t worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<size_t> sleepers_{0};
  std::exception_ptr error_;  // the first that a body threw; under mutex_ while anybody is inside

  // What waiting workers look at stands apart from what working ones write.
  alignas(kCacheLine) std::atomic<uint64_t> loops_{0};  // started; the destructor starts one more
  std::atomic<bool> stop_{false};

  // The loop in progress. Workers read the plain fields between joining (joined_ counts
  // them) and leaving, and only while open_ is true; the caller changes them only while it
  // is false and nobody is inside.
  alignas(kCacheLine) std::atomic<bool> open_{false};
  std::atomic<size_t> joined_{0};
  alignas(kCacheLine) const std::function<void(size_t, size_t, size_t)>* body_ = nullptr;
  size_t range_ = 1;  // taken from a share at once
  std::vector<Share> shares_;
};

// Processors this process may run on (its affinity mask).
size_t AvailableProcessors();

}  // namespace tq
