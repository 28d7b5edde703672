#include "kernels/trellis/trellis_code.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace tq::trellis {
namespace {

constexpr Code kCodes[] = {{4, 2}, {4, 3}, {2, 2}, {2, 3}, {2, 4}, {2, 5},
                           {1, 2}, {1, 3}, {1, 4}, {1, 5}, {1, 6}, {1, 8}};

TEST(TrellisCode, ShapesArePinned) {
  struct Expected {
    int words, windows, rows, columns;
  };
  constexpr Expected kExpected[] = {{1, 8, 32, 32},  {3, 16, 64, 32}, {1, 8, 32, 16},
                                    {3, 16, 64, 16}, {1, 4, 16, 16},  {5, 16, 64, 16},
                                    {1, 8, 16, 16},  {3, 16, 32, 16}, {2, 8, 16, 16},
                                    {5, 16, 32, 16}, {3, 8, 16, 16},  {4, 8, 16, 16}};
  for (int i = 0; i < 12; ++i) {
    const TileShape shape = ShapeOf(kCodes[i]);
    EXPECT_EQ(shape.words, kExpected[i].words) << i;
    EXPECT_EQ(shape.windows, kExpected[i].windows) << i;
    EXPECT_EQ(shape.rows, kExpected[i].rows) << i;
    EXPECT_EQ(shape.columns, kExpected[i].columns) << i;
    // Exact rate: nothing but the stream is stored.
    EXPECT_EQ(shape.bytes() * 8, shape.steps() * kCodes[i].bits) << i;
    EXPECT_EQ(64 % shape.rows, 0) << i;
  }
}

TEST(TrellisCode, WindowsCoverTheTileOnce) {
  for (Code code : kCodes) {
    const TileShape shape = ShapeOf(code);
    std::set<int> seen;
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int window = 0; window < shape.windows; ++window) {
        const int row = TileRow(code, lane, window), column = TileColumn(code, lane, window);
        ASSERT_LT(row, shape.rows);
        ASSERT_LE(column + code.values, shape.columns);
        ASSERT_EQ(column % code.values, 0);
        ASSERT_TRUE(seen.insert(row * shape.columns + column).second);
      }
    }
    EXPECT_EQ(static_cast<int>(seen.size()) * code.values, shape.values());
  }
}

TEST(TrellisCode, OneBitMovesThroughTheWindowsInOrder) {
  for (Code code : kCodes) {
    for (int state_bits : {16, 12}) {
      code.state_bits = state_bits;
      const TileShape shape = ShapeOf(code);
      const int total = shape.steps() * code.bits;
      for (int bit = 0; bit < total; bit += 7) {
        std::vector<uint8_t> tile(shape.bytes());
        const int word = bit / 16;
        tile[64 * (word % shape.words) + 2 * (word / shape.words) + bit % 16 / 8] = 1 << bit % 8;
        for (int step = 0; step < shape.steps(); ++step) {
          const int distance = ((bit - step * code.bits) % total + total) % total;
          ASSERT_EQ(StateAt(tile.data(), code, step), distance < state_bits ? 1u << distance : 0u)
              << "V " << code.values << " k " << code.bits << " bit " << bit << " step " << step;
        }
      }
    }
  }
}

TEST(TrellisCode, ValuesAreNearlyWhiteWithTheStatedSigma) {
  for (int values : {1, 2, 4}) {
    const Code code{values, 2};
    double mean[4] = {}, square[4][4] = {};
    for (uint32_t state = 0; state < 65536; ++state) {
      int out[4] = {};
      DecodeState(code, state, out);
      for (int i = 0; i < values; ++i) {
        mean[i] += out[i] / 65536.0;
        for (int j = 0; j < values; ++j) square[i][j] += out[i] * out[j] / 65536.0;
      }
    }
    for (int i = 0; i < values; ++i) {
      EXPECT_NEAR(mean[i], 0, 1.5);
      for (int j = 0; j < values; ++j) {
        const double unit = square[i][j] / (kValueSigma * kValueSigma);
        EXPECT_NEAR(unit, i == j ? 1 : 0, 0.02) << values << " " << i << " " << j;
      }
    }
  }
}

TEST(TrellisCode, NativeCodesRiseInRate) {
  double last = 0;
  for (Code code : kNativeCodes) {
    EXPECT_TRUE(IsSupported(code));
    EXPECT_GT(code.rate(), last);
    last = code.rate();
  }
  EXPECT_EQ(last, 8);
}

TEST(TrellisCode, SupportIsTheNativeCodesAndOneMore) {
  int supported = 0;
  for (int values = -1; values < 10; ++values) {
    for (int bits = -1; bits < 20; ++bits) {
      for (int state_bits : {0, 8, 12, 15, 16, 18}) {
        supported += IsSupported({values, bits, state_bits});
      }
    }
  }
  EXPECT_EQ(supported, 24);
}

}  // namespace
}  // namespace tq::trellis
