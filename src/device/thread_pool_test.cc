#include "device/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <numeric>

namespace tq {
namespace {

TEST(ThreadPoolTest, EveryItemOnceForAnyNumberOfThreads) {
  for (size_t threads : {1u, 2u, 3u, 8u}) {
    auto pool = ThreadPool::Create(threads);
    ASSERT_TRUE(pool.ok());
    EXPECT_EQ((*pool)->threads(), threads);
    for (size_t n : {0u, 1u, 2u, 7u, 1000u}) {
      for (size_t grain : {1u, 3u, 64u}) {
        std::vector<int> hits(n, 0);
        (*pool)->ParallelFor(n, grain, [&](size_t begin, size_t end, size_t worker) {
          EXPECT_LT(worker, threads);
          for (size_t i = begin; i < end; ++i) ++hits[i];
        });
        EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), size_t{0}), n);
      }
    }
  }
}

TEST(ThreadPoolTest, ManyShortLoops) {
  auto pool = ThreadPool::Create(4);
  ASSERT_TRUE(pool.ok());
  std::vector<uint64_t> sums(64, 0);
  for (int loop = 0; loop < 2000; ++loop) {
    (*pool)->ParallelFor(sums.size(), 1, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) sums[i] += i;
    });
  }
  for (size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(sums[i], 2000 * i);
}

// Robustness case 68: memory that runs out in any thread ends the loop, not the process.
TEST(ThreadPoolTest, ExceptionsReachTheCaller) {
  for (size_t threads = 1; threads <= 4; ++threads) {
    auto pool = ThreadPool::Create(threads);
    ASSERT_TRUE(pool.ok());
    for (size_t bad = 0; bad < 200; ++bad) {
      const auto run = [&] {
        (*pool)->ParallelFor(200, 1, [&](size_t begin, size_t end, size_t) {
          if (begin <= bad && bad < end) throw std::bad_alloc();
        });
      };
      EXPECT_THROW(run(), std::bad_alloc);
    }
    std::atomic<size_t> done{0};
    (*pool)->ParallelFor(200, 1, [&](size_t begin, size_t end, size_t) { done += end - begin; });
    EXPECT_EQ(done, 200u);
  }
}

TEST(ThreadPoolTest, RefusesAbsurdCounts) {
  EXPECT_EQ(ThreadPool::Create(1'000'000).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tq
