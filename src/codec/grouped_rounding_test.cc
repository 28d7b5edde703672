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

// What a ternary matrix decodes to.
std::vector<float> Decoded(const GroupedMatrix& matrix) {
  std::vector<float> w(matrix.rows * matrix.cols);
  DecodeRows(matrix, 0, matrix.rows, w.data());
  return w;
}

TEST(QuantizeToTernary, IsTheMeanMagnitudeTimesTheNearestTrit) {
  auto pool = *ThreadPool::Create(3);
  InlineExecutor here;
  for (const uint64_t cols : {1, 32, 100, 700}) {
    for (const uint32_t group_size : {32, 48, 1024}) {
      const uint64_t rows = 37;
      const std::vector<float> w = Normal(rows * cols, cols);
      const auto matrix = QuantizeToTernary(w.data(), rows, cols, group_size, here);
      ASSERT_TRUE(matrix.ok()) << matrix.status().message();
      const auto same = QuantizeToTernary(w.data(), rows, cols, group_size, *pool);
      EXPECT_EQ(Decoded(*same), Decoded(*matrix));
      // The reader takes what is written.
      const auto read = MakeGroupedMatrix(*matrix, *matrix);
      EXPECT_TRUE(read.ok()) << read.status().message();
      const std::vector<float> decoded = Decoded(*matrix);
      for (uint64_t i = 0; i < w.size(); ++i) {
        const uint64_t row = i / cols, group = i % cols / group_size;
        const uint64_t first = row * cols + group * group_size;
        const uint64_t end = std::min(first + group_size, (row + 1) * cols);
        double mean = 0;
        for (uint64_t j = first; j < end; ++j) mean += std::abs(static_cast<double>(w[j]));
        mean /= static_cast<double>(end - first);
        const float scale =
            HalfToFloat(matrix->scale.as<uint16_t>()[row * matrix->groups() + group]);
        ASSERT_NEAR(scale, mean, mean * 0x1p-11);
        const float trit = std::abs(w[i]) <= scale / 2 ? 0 : std::copysign(1.0f, w[i]);
        ASSERT_EQ(decoded[i], scale * trit) << w[i];
      }
    }
  }
}

// Robustness case 42, case 43, case 44.
TEST(QuantizeToTernary, UnusualWeights) {
  InlineExecutor executor;
  std::vector<float> w(3 * 64, 0.0f);
  for (size_t i = 64; i < 128; ++i) w[i] = i % 2 == 0 ? 1e-30f : -1e-12f;
  for (size_t i = 128; i < 192; ++i) w[i] = i % 2 == 0 ? 65504 : -65504;
  const auto matrix = QuantizeToTernary(w.data(), 3, 64, 32, executor);
  ASSERT_TRUE(matrix.ok()) << matrix.status().message();
  EXPECT_TRUE(MakeGroupedMatrix(*matrix, *matrix).ok());
  const std::vector<float> decoded = Decoded(*matrix);
  for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(decoded[i], i < 128 ? 0 : w[i]) << i;

  w[130] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(QuantizeToTernary(w.data(), 3, 64, 32, executor).status().message(),
              HasSubstr("row 2 column 2 is not finite"));
  w[130] = 3e38f;
  EXPECT_THAT(QuantizeToTernary(w.data(), 3, 64, 32, executor).status().message(),
              HasSubstr("row 2 group 0"));
  // The group whose mean is too large, which need not have the largest weight.
  w.assign(64, 0.0f);
  w[0] = 1.6e6f;
  std::fill_n(w.begin() + 32, 32, 70000.0f);
  EXPECT_THAT(QuantizeToTernary(w.data(), 1, 64, 32, executor).status().message(),
              ::testing::AllOf(HasSubstr("row 0 group 1"), HasSubstr("mean magnitude is 70000"),
                               HasSubstr("65504")));
  w.assign(3 * 64, 0.0f);
  EXPECT_FALSE(QuantizeToTernary(w.data(), 3, 64, 0, executor).ok());
  EXPECT_FALSE(QuantizeToTernary(w.data(), 0, 64, 32, executor).ok());
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
