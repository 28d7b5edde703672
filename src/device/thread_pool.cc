#include "device/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/checked.h"

namespace tq {
namespace {
constexpr size_t kMaxThreads = 1024;
// Decode runs hundreds of short loops per token; spinning this long before sleeping
// keeps a worker awake from one loop to the next (some 100 microseconds).
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
  if (threads == 0) threads = AvailableProcessors();
  std::unique_ptr<ThreadPool> pool(new ThreadPool);
  pool->workers_.reserve(threads - 1);
  try {
    for (size_t i = 1; i < threads; ++i) {
      pool->workers_.emplace_back([pool = pool.get(), i] { pool->WorkerLoop(i); });
    }
  } catch (const std::system_error& error) {  // memory for a stack, or the system's limit
    return ResourceExhausted("threads {}: only {} can be started ({})", threads, pool->threads(),
                             error.what());
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  {
    std::lock_guard lock(mutex_);
    loops_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunRanges(size_t worker) {
  for (;;) {
    const size_t begin = next_.fetch_add(range_, std::memory_order_relaxed);
    if (begin >= n_) return;
    try {
      (*body_)(begin, std::min(n_, begin + range_), worker);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_.store(n_);  // the ranges that nobody has begun are dropped
    }
  }
}

uint64_t ThreadPool::AwaitLoop(uint64_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (const uint64_t now = loops_.load(); now != seen) return now;
    CpuRelax();
  }
  std::unique_lock lock(mutex_);
  sleepers_.fetch_add(1);
  wake_.wait(lock, [&] { return loops_.load() != seen; });
  sleepers_.fetch_sub(1);
  return loops_.load();
}

void ThreadPool::WorkerLoop(size_t worker) {
  uint64_t seen = 0;
  for (;;) {
    seen = AwaitLoop(seen);
    if (stop_.load()) return;
    // Sequentially consistent with the caller's "close, then look who is inside": either
    // the caller sees this worker, or this worker sees the loop closed.
    joined_.fetch_add(1);
    if (open_.load()) RunRanges(worker);
    joined_.fetch_sub(1);
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
  // A worker that came late to the last loop may still be between joining and leaving.
  while (joined_.load() != 0) std::this_thread::yield();
  body_ = &body;
  n_ = n;
  range_ = RoundUp(std::max(grain, CeilDiv(n, threads() * kRangesPerThread)), grain);
  next_.store(0);
  open_.store(true);
  loops_.fetch_add(1);
  if (sleepers_.load() > 0) {
    // The lock orders this after a sleeper's last look at loops_.
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  RunRanges(0);
  open_.store(false);
  for (int spins = 0; joined_.load() != 0; ++spins) {
    // More threads than processors: give way to the worker that we wait for.
    if (spins < kSpins) {
      CpuRelax();
    } else {
      std::this_thread::yield();
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace tq
