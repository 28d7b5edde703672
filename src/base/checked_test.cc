#include "base/checked.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace tq {
namespace {

TEST(CheckedTest, ReportsOverflow) {
  EXPECT_EQ(CheckedMul<uint64_t>(1ull << 32, 1ull << 31), 1ull << 63);
  EXPECT_EQ(CheckedMul<uint64_t>(1ull << 32, 1ull << 32), std::nullopt);
  EXPECT_EQ(CheckedAdd<uint64_t>(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(CheckedProduct(std::vector<int64_t>{3, 4, 5}), 60u);
  EXPECT_EQ(CheckedProduct(std::vector<int64_t>{}), 1u);
  EXPECT_EQ(CheckedProduct(std::vector<int64_t>{3, -4}), std::nullopt);
  EXPECT_EQ(CheckedProduct(std::vector<uint64_t>{1ull << 40, 1ull << 40}), std::nullopt);
}

TEST(CheckedTest, RangeFitsDoesNotWrap) {
  EXPECT_TRUE(RangeFits(10, 0, 10));
  EXPECT_TRUE(RangeFits(0, 10, 10));
  EXPECT_FALSE(RangeFits(1, 10, 10));
  EXPECT_FALSE(RangeFits(UINT64_MAX, 2, 10));
  EXPECT_FALSE(RangeFits(2, UINT64_MAX, 10));
}

TEST(CheckedTest, CeilDivAndRoundUp) {
  EXPECT_EQ(CeilDiv(7, 3), 3);
  EXPECT_EQ(CeilDiv(6, 3), 2);
  EXPECT_EQ(RoundUp(65, 64), 128);
}

}  // namespace
}  // namespace tq
