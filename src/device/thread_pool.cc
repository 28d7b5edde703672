#include "device/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/checked.h"

namespace tq {
namespace {
// Decode runs hundreds of short loops per token; spinning this long before sleeping
// keeps a worker awake from one loop to the next (some 100 microseconds).
constexpr int kSpins = 4000;
// Ranges per share: some slack for uneven work, few enough that handing out is free.
constexpr size_t kRangesPerShare = 8;

void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
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
  std::unique_ptr<ThreadPool> pool(new ThreadPool(threads));
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

void ThreadPool::Run(size_t worker) {
  for (size_t i = 0; i < shares_.size(); ++i) {
    RunShare(shares_[(worker + i) % shares_.size()], worker);
  }
}

void ThreadPool::RunShare(Share& share, size_t worker) {
  // A look before each step: nobody writes to the line of a share that is finished.
  while (share.next.load(std::memory_order_relaxed) < share.end) {
    const size_t begin = share.next.fetch_add(range_, std::memory_order_relaxed);
    if (begin >= share.end) return;
    try {
      (*body_)(begin, std::min(share.end, begin + range_), worker);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      for (Share& other : shares_) other.next.store(other.end);  // what nobody has begun is dropped
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
    if (open_.load()) Run(worker);
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
  AwaitWorkers();
  body_ = &body;
  const size_t share = RoundUp(CeilDiv(n, threads()), grain);
  range_ = RoundUp(CeilDiv(share, kRangesPerShare), grain);
  for (size_t i = 0; i < threads(); ++i) {
    shares_[i].next.store(std::min(n, i * share), std::memory_order_relaxed);
    shares_[i].end = std::min(n, (i + 1) * share);
  }
  open_.store(true);
  loops_.fetch_add(1);
  if (sleepers_.load() > 0) {
    // The lock orders this after a sleeper's last look at loops_.
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  Run(0);
  open_.store(false);
  AwaitWorkers();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::AwaitWorkers() const {
  for (int spins = 0; joined_.load() != 0; ++spins) {
    // More threads than processors: give way to the worker that we wait for.
    if (spins < kSpins) {
      CpuRelax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace tq
