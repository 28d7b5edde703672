#include "codec/grouped_rounding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

constexpr ZeroKind kKinds[] = {ZeroKind::kHalf, ZeroKind::kPacked, ZeroKind::kSymmetric};

std::vector<float> Normal(size_t count, uint64_t seed, double mean = 0) {
  Random random(seed, "grouped_rounding_test");
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(mean + 0.05 * random.NextNormal());
  return values;
}

GroupedLayout Layout(uint64_t rows, uint64_t cols, uint32_t bits, uint32_t group_size,
                     ZeroKind zeros) {
  GroupedLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.bits = bits;
  layout.group_size = group_size;
  layout.zeros = zeros;
  return layout;
}

// Values are within half a step of a level, but for the highest of symmetric grids.
TEST(GroupGrid, SpansItsGroup) {
  for (const ZeroKind zeros : kKinds) {
    for (uint32_t bits = 2; bits <= 8; ++bits) {
      for (const double mean : {0.0, 0.02, -0.3, 3.0}) {
        const std::vector<float> w = Normal(64, bits, mean);
        const auto grid = MakeGrid(w, bits, zeros);
        ASSERT_TRUE(grid);
        EXPECT_EQ(grid->levels, (1u << bits) - 1);
        EXPECT_EQ(HalfToFloat(FloatToHalf(grid->scale)), grid->scale);
        const float highest = grid->Value(grid->levels);
        for (const float value : w) {
          if (zeros == ZeroKind::kSymmetric && value > highest) continue;
          // A zero is rounded to fp16, or to an integer.
          const double slack = zeros == ZeroKind::kPacked ? 0.5 : std::abs(grid->zero) * 0x1p-11;
          EXPECT_NEAR(grid->Nearest(static_cast<double>(value)), value,
                      grid->scale * (0.5 + slack) * (1 + 1e-6));
        }
        if (zeros == ZeroKind::kPacked) {
          EXPECT_EQ(grid->zero, std::rint(grid->zero));
          EXPECT_GE(grid->zero, 0);
          EXPECT_LE(grid->zero, grid->levels);
          EXPECT_EQ(grid->Nearest(0), 0);  // a level
        }
      }
    }
  }
}

TEST(GroupGrid, SymmetricIsThePublishedOne) {
  const std::vector<float> w = {-0.5f, 0.25f, 1.5f};
  const auto grid = MakeGrid(w, 4, ZeroKind::kSymmetric);
  ASSERT_TRUE(grid);
  EXPECT_NEAR(grid->scale, 2 * 1.5 / 15, 2e-4);
  EXPECT_EQ(grid->zero, 8);
  EXPECT_EQ(grid->NearestCode(1.5), 15u);
  EXPECT_EQ(grid->NearestCode(-100), 0u);
}

TEST(GroupGrid, OfNothingIsNothing) {
  for (const ZeroKind zeros : kKinds) {
    const std::vector<float> w(5, 0.0f);
    const auto grid = MakeGrid(w, 3, zeros);
    ASSERT_TRUE(grid);
    EXPECT_EQ(grid->scale, 0);
    EXPECT_EQ(grid->Nearest(0.7), 0);
    EXPECT_FALSE(MakeGrid(std::vector{0.0f, std::numeric_limits<float>::quiet_NaN()}, 3, zeros));
    EXPECT_FALSE(MakeGrid(std::vector{-1.0f, std::numeric_limits<float>::infinity()}, 3, zeros));
    EXPECT_FALSE(MakeGrid(std::vector{-1e38f, 1e38f}, 3, zeros));
    EXPECT_EQ(grid->NearestCode(std::numeric_limits<double>::quiet_NaN()),
              static_cast<uint32_t>(grid->zero));
  }
}

// What a matrix decodes to is what its rows become, by any number of threads.
TEST(QuantizeToNearest, EveryKindIsItsRows) {
  InlineExecutor one;
  const auto three = ThreadPool::Create(3);
  for (const ZeroKind zeros : kKinds) {
    for (const uint32_t bits : {2, 3, 5, 8}) {
      for (const uint64_t cols : {1, 31, 100}) {
        for (const uint32_t group_size : {7, 32, 100}) {
          const GroupedLayout layout = Layout(40, cols, bits, group_size, zeros);
          const std::vector<float> w = Normal(40 * cols, cols + bits);
          const auto matrix = QuantizeToNearest(w.data(), layout, one);
          const auto again = QuantizeToNearest(w.data(), layout, **three);
          ASSERT_TRUE(matrix.ok() && again.ok()) << matrix.status().message();
          EXPECT_EQ(
              std::memcmp(matrix->codes.data(), again->codes.data(), matrix->codes.num_bytes()), 0);
          std::vector<float> decoded(cols), rounded(cols);
          for (uint64_t row = 0; row < 40; ++row) {
            DecodeRows(*matrix, row, row + 1, decoded.data());
            ASSERT_TRUE(RoundRowToNearest(layout, w.data() + row * cols, rounded.data()));
            ASSERT_EQ(decoded, rounded) << bits << " bits, row " << row;
          }
        }
      }
    }
  }
}

// Robustness case 42, case 44.
TEST(QuantizeToNearest, NamesWhatItCannotRound) {
  InlineExecutor executor;
  const GroupedLayout layout = Layout(3, 64, 4, 32, ZeroKind::kPacked);
  std::vector<float> w = Normal(3 * 64, 1);
  w[64 + 40] = 1e30f;
  EXPECT_THAT(QuantizeToNearest(w.data(), layout, executor).status().message(),
              HasSubstr("row 1 group 1 are too large"));
  w[5] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(QuantizeToNearest(w.data(), layout, executor).status().message(),
              HasSubstr("row 0 column 5 is not finite"));
  EXPECT_FALSE(EmptyGroupedMatrix(Layout(1, 1, 9, 1, ZeroKind::kPacked)).ok());
  EXPECT_FALSE(EmptyGroupedMatrix(Layout(uint64_t{1} << 40, 1, 4, 1, ZeroKind::kPacked)).ok());
}

}  // namespace
}  // namespace tq
