// A fixed pool: the caller works too, ranges are handed out from a shared counter.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/status.h"
#include "device/executor.h"

namespace tq {

class ThreadPool final : public Executor {
 public:
  // `threads` = 0 takes the processors that this process may use. Above 1024 is an error.
  static StatusOr<std::unique_ptr<ThreadPool>> Create(size_t threads);
  ~ThreadPool() override;

  size_t threads() const override { return workers_.size() + 1; }
  void ParallelFor(size_t n, size_t grain,
                   const std::function<void(size_t, size_t, size_t)>& body) override;

 private:
  explicit ThreadPool(size_t threads);
  void WorkerLoop(size_t worker);
  void RunRanges(size_t worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  size_t running_ = 0;
  bool stop_ = false;

  // The loop in progress.
  const std::function<void(size_t, size_t, size_t)>* body_ = nullptr;
  size_t n_ = 0, range_ = 1;
  std::atomic<size_t> next_{0};
};

// Processors this process may run on (its affinity mask).
size_t AvailableProcessors();

}  // namespace tq
