#include "codec/rotation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"

namespace tq {
namespace {

// Columns of H (or H^T) by transforming unit vectors.
std::vector<float> MatrixOf(uint32_t order, HadamardSide side) {
  std::vector<float> columns(order * order);
  for (uint32_t c = 0; c < order; ++c) {
    columns[c * order + c] = 1;
    BlockHadamard(columns.data() + c * order, order, order, side);
  }
  return columns;
}

TEST(Rotation, KnowsTheOrders) {
  for (uint64_t order : {1, 2, 4, 12, 20, 24, 28, 36, 40, 56, 72, 96, 128, 576, 640, 1536}) {
    EXPECT_TRUE(IsHadamardOrder(order)) << order;
  }
  for (uint64_t order : {0, 3, 6, 10, 14, 18, 44, 60, 100, 120}) {
    EXPECT_FALSE(IsHadamardOrder(order)) << order;
  }
  EXPECT_FALSE(IsHadamardOrder(UINT64_MAX));
}

TEST(Rotation, FindsTheLargestOrder) {
  EXPECT_EQ(LargestHadamardOrder(576, 128), 96u);
  EXPECT_EQ(LargestHadamardOrder(576, 1000), 576u);
  EXPECT_EQ(LargestHadamardOrder(1536, 128), 128u);
  EXPECT_EQ(LargestHadamardOrder(640, 1000), 640u);
  EXPECT_EQ(LargestHadamardOrder(512, 1u << 31), 512u);
  EXPECT_EQ(LargestHadamardOrder(7, 128), 1u);
  EXPECT_EQ(LargestHadamardOrder(28, 128), 28u);
  EXPECT_EQ(LargestHadamardOrder(uint64_t{1} << 40, UINT64_MAX), 1u << 31);
  EXPECT_EQ(LargestHadamardOrder(128, 0), 1u);
}

TEST(Rotation, MatricesAreOrthonormalWithEqualMagnitudes) {
  for (uint32_t order : {2, 8, 12, 16, 20, 24, 28, 36, 40, 56, 72, 96, 128, 144, 320}) {
    const std::vector<float> h = MatrixOf(order, HadamardSide::kForward);
    const std::vector<float> transposed = MatrixOf(order, HadamardSide::kTransposed);
    for (uint32_t i = 0; i < order; ++i) {
      for (uint32_t j = 0; j < order; ++j) {
        double dot = 0;
        for (uint32_t c = 0; c < order; ++c) {
          dot += static_cast<double>(h[i * order + c]) * h[j * order + c];
        }
        ASSERT_NEAR(dot, i == j, 1e-5) << "order " << order << " at " << i << ", " << j;
        ASSERT_NEAR(std::fabs(h[i * order + j]), 1 / std::sqrt(order), 1e-6) << order;
        ASSERT_EQ(h[i * order + j], transposed[j * order + i]) << order;
      }
    }
  }
}

TEST(Rotation, TransposedUndoesForwardBlockByBlock) {
  for (uint32_t block : {1, 12, 20, 28, 36, 80, 96, 128, 512}) {
    Random random(3, "rotation", block);
    std::vector<float> x(3 * block);
    for (float& value : x) value = static_cast<float>(random.NextNormal());
    std::vector<float> y = x;
    BlockHadamard(y.data(), y.size(), block, HadamardSide::kForward);
    std::vector<float> first(x.begin(), x.begin() + block);
    BlockHadamard(first.data(), block, block, HadamardSide::kForward);
    for (uint32_t i = 0; i < block; ++i) ASSERT_EQ(first[i], y[i]) << block;
    BlockHadamard(y.data(), y.size(), block, HadamardSide::kTransposed);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-5) << block;
  }
}

}  // namespace
}  // namespace tq
