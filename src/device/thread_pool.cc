#include "device/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "base/checked.h"

namespace tq {
namespace {
constexpr size_t kMaxThreads = 1024;
// Decode runs hundreds of short loops per token; spinning this long before sleeping
// keeps a worker awake from one loop to the next (about 20 microseconds).
constexpr int kSpins = 4000;
// Ranges per thread: some slack for uneven work, few enough that handing out is free.
constexpr size_t kRangesPerThread = 4;

void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
}  // namespace

size_t AvailableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) {
    return static_cast<size_t>(CPU_COUNT(&set));
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

StatusOr<std::unique_ptr<ThreadPool>> ThreadPool::Create(size_t threads) {
  if (threads > kMaxThreads) {
    return InvalidArgument("threads {}: at most {} are supported", threads, kMaxThreads);
  }
  return std::unique_ptr<ThreadPool>(new ThreadPool(threads == 0 ? AvailableProcessors() : threads));
}

ThreadPool::ThreadPool(size_t threads) {
  for (size_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunRanges(size_t worker) {
  for (;;) {
    const size_t begin = next_.fetch_add(range_, std::memory_order_relaxed);
    if (begin >= n_) return;
    (*body_)(begin, std::min(n_, begin + range_), worker);
  }
}

void ThreadPool::WorkerLoop(size_t worker) {
  uint64_t seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) {
      CpuRelax();
    }
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      seen = generation_.load();
      if (stop_) return;
    }
    RunRanges(worker);
    std::lock_guard lock(mutex_);
    if (--running_ == 0) done_.notify_one();
  }
}

void ThreadPool::ParallelFor(size_t n, size_t grain,
                             const std::function<void(size_t, size_t, size_t)>& body) {
  if (n == 0) return;
  grain = std::max<size_t>(grain, 1);
  if (workers_.empty() || n <= grain) {
    body(0, n, 0);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    body_ = &body;
    n_ = n;
    range_ = RoundUp(std::max(grain, CeilDiv(n, threads() * kRangesPerThread)), grain);
    next_.store(0);
    running_ = workers_.size();
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  RunRanges(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return running_ == 0; });
}

}  // namespace tq
