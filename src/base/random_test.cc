#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tq {
namespace {

TEST(RandomTest, PhiloxMatchesPublishedVectors) {
  // Known-answer vectors of the Random123 distribution (philox 4x32, 10 rounds).
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(Philox4x32({f, f, f, f}, {f, f}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(RandomTest, StreamsAreReproducibleAndDistinct) {
  Random a(1, "x", 0), b(1, "x", 0), c(1, "x", 1), d(2, "x", 0);
  const uint64_t first = a.NextU64();
  EXPECT_EQ(first, b.NextU64());
  EXPECT_NE(first, c.NextU64());
  EXPECT_NE(first, d.NextU64());
}

TEST(RandomTest, NormalHasUnitVariance) {
  Random random(3, "normal");
  double sum = 0, squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double x = random.NextNormal();
    sum += x;
    squares += x * x;
  }
  // Five standard errors of the mean and of the variance.
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
}

TEST(RandomTest, BelowStaysInRange) {
  Random random(4, "below");
  bool seen[7] = {};
  for (int i = 0; i < 1000; ++i) seen[random.NextBelow(7)] = true;
  for (bool s : seen) EXPECT_TRUE(s);
}

}  // namespace
}  // namespace tq
