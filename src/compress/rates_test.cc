#include "compress/rates.h"

#include <gtest/gtest.h>

namespace tq {
namespace {

TEST(RatesTest, PositionsGiveTheRate) {
  for (const double rate : AllocationRates()) {
    const std::vector<Segment> segments =
        SplitRows(6400, PositionOfRate(rate), 0.5, HigherRows::kLast, {});
    double bits = 0;
    for (const Segment& s : segments) {
      bits += s.code.rate() * static_cast<double>(s.row_end - s.row_begin);
    }
    EXPECT_NEAR(bits / 6400, rate, 0.01) << rate;
    EXPECT_LE(segments.size(), 2u);
  }
  EXPECT_EQ(PositionOfRate(0.1).index, 0u);
  EXPECT_EQ(PositionOfRate(0.1).fraction, 0);
  EXPECT_EQ(PositionOfRate(99).fraction, 0);
}

TEST(RatesTest, MoreBitsLoseLess) {
  for (const HigherRows higher : {HigherRows::kLast, HigherRows::kFirst}) {
    double last = 1;
    for (double x = 0; x <= kLargestPosition; x += 0.125) {
      const double error = ExpectedError(PositionAt(x), higher);
      EXPECT_LT(error, last) << x;
      last = error;
    }
  }
  // The first rows of a vocabulary are worth more than their number.
  EXPECT_LT(ExpectedError({4, 0.5}, HigherRows::kFirst),
            ExpectedError({4, 0.5}, HigherRows::kLast));
}

TEST(RatesTest, HigherRowsLieWhereAsked) {
  const auto last = SplitRows(640, {2, 0.3}, 0.5, HigherRows::kLast, {});
  const auto first = SplitRows(640, {2, 0.3}, 0.5, HigherRows::kFirst, {});
  ASSERT_EQ(last.size(), 2u);
  ASSERT_EQ(first.size(), 2u);
  EXPECT_LT(last[0].code.rate(), last[1].code.rate());
  EXPECT_GT(first[0].code.rate(), first[1].code.rate());
  EXPECT_EQ(first[0].row_end, 192u);
  EXPECT_EQ(last[0].row_end, 448u);
}

TEST(RatesTest, Variants) {
  EXPECT_EQ(SplitRows(64, {4, 0}, 0.5, HigherRows::kLast, {})[0].code, (trellis::Code{2, 4, 16}));
  EXPECT_EQ(SplitRows(64, {4, 0}, 0.5, HigherRows::kLast, {.v1 = true})[0].code,
            (trellis::Code{1, 2, 16}));
  EXPECT_EQ(SplitRows(64, {4, 0}, 0.5, HigherRows::kLast, {.twelve_bits = true})[0].code,
            (trellis::Code{2, 4, 12}));
}

}  // namespace
}  // namespace tq
