#include "base/memory_usage.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

namespace tq {
namespace {

// Bytes that a sanitizer keeps of each byte of memory in use.
#if defined(__SANITIZE_THREAD__)
constexpr uint64_t kShadow = 4;
#else
constexpr uint64_t kShadow = 0;
#endif

TEST(MemoryUsageTest, PeakStaysWhenMemoryIsGivenBack) {
  constexpr uint64_t kBytes = uint64_t{64} << 20;
  const uint64_t before = PeakRssBytes();
  EXPECT_GT(before, uint64_t{1} << 20);
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 1, kBytes);
  const uint64_t during = PeakRssBytes();
  munmap(memory, kBytes);
  // What is resident at the start may lie below the peak so far.
  constexpr uint64_t kSlack = uint64_t{1} << 20;  // the kernel sums over processors now and then
  EXPECT_GE(during, kBytes);
  EXPECT_LE(during, before + (1 + kShadow) * kBytes + (kBytes >> 3));
  EXPECT_GE(PeakRssBytes() + kSlack, during);
}

}  // namespace
}  // namespace tq
