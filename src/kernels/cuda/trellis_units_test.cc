// Units of codes and activations against the definition of the code, element by element.
#include "kernels/cuda/trellis_units.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq::cuda {
namespace {

using trellis::Code;
using trellis::ShapeOf;

constexpr uint64_t kSeed = 31;

TEST(TrellisUnitsTest, CodesKeepEveryWordWhereTheHeaderSays) {
  for (Code code : trellis::kMatmulCodes) {
    const trellis::TileShape shape = ShapeOf(code);
    for (uint64_t tiles_across : {1, 7, 8, 9, 17}) {
      const uint64_t cols = tiles_across * shape.columns - 3, tile_rows = 3;
      Random random(kSeed, "codes", tiles_across);
      std::vector<uint8_t> tiles(tile_rows * tiles_across * shape.bytes());
      for (uint8_t& byte : tiles) byte = static_cast<uint8_t>(random.NextU32());
      std::vector<uint8_t> units(CodesBytes(code, tile_rows, cols), 0xee);
      PackCodes(code, tiles.data(), tile_rows, cols, units.data());
      ASSERT_EQ(units.size(),
                (shape.rows == 16 ? 4 : 3) * ((tiles_across + 7) / 8) * 512 * shape.words);
      for (uint64_t row = 0; row < tile_rows; ++row) {
        for (uint64_t t = 0; t < UnitsAcross(code, cols) * kUnitTiles; ++t) {
          for (int q = 0; q < shape.words; ++q) {
            for (int lane = 0; lane < trellis::kLanes; ++lane) {
              const uint64_t together = shape.rows == 16 ? 2 : 1;
              const uint64_t unit = row / together * UnitsAcross(code, cols) + t / 8;
              const uint64_t chunk = (unit * together + row % together) * shape.words + q;
              uint16_t actual, expected = 0;
              std::memcpy(&actual, &units[512 * chunk + 16 * lane + t % 8 * 2], 2);
              if (t < tiles_across) {
                const uint64_t tile = row * tiles_across + t;
                std::memcpy(&expected, &tiles[tile * shape.bytes() + 64 * q + 2 * lane], 2);
              }
              ASSERT_EQ(actual, expected) << "tile " << t << " word " << q << " lane " << lane;
            }
          }
        }
      }
    }
  }
}

TEST(TrellisUnitsTest, SlotsAreTheColumnsOfALanesWindows) {
  for (Code code : trellis::kMatmulCodes) {
    const int windows = code.values == 1 ? 8 : 4;  // of one fragment of 16 rows
    for (int lane = 0; lane < trellis::kLanes; ++lane) {
      int slot = 0;
      for (int j = 0; j < windows; ++j) {
        if (j % 2 == 1) continue;  // the rows 8 below
        for (int v = 0; v < code.values; ++v, ++slot) {
          EXPECT_EQ(SlotColumn(code, lane % 4, slot), trellis::TileColumn(code, lane, j) + v);
        }
      }
      EXPECT_EQ(slot, SlotsPerTile(code));
    }
  }
}

TEST(TrellisUnitsTest, DigitsMakeUpEveryActivation) {
  constexpr uint64_t kRows = 3;
  for (Code code : {Code{1, 4, 16}, Code{2, 4, 16}, Code{4, 2, 16}}) {
    const uint64_t cols = 300;
    std::vector<int16_t> q(kRows * cols);
    for (size_t i = 0; i < q.size(); ++i) {
      q[i] = static_cast<int16_t>(static_cast<int>(i * 911 % 16319) - trellis::kMaxActivation);
    }
    q[0] = trellis::kMaxActivation, q[1] = -trellis::kMaxActivation;
    std::vector<uint8_t> out(ActivationBytes(code, kRows, cols), 0x55);
    PackActivations(code, q.data(), kRows, cols, out.data());
    const int slots = SlotsPerTile(code);
    size_t at = 0;
    std::vector<int> sums(kRows * UnitsAcross(code, cols) * UnitColumns(code));
    for (uint64_t unit = 0; unit < UnitsAcross(code, cols); ++unit) {
      for (int c = 0; c < 4; ++c) {
        for (uint64_t digit = 0; digit < 2 * kRows; ++digit) {
          for (int i = 0; i < 8 * slots; ++i, ++at) {
            const uint64_t column = unit * UnitColumns(code) + i / slots * ShapeOf(code).columns +
                                    SlotColumn(code, c, i % slots);
            const int value = static_cast<int8_t>(out[at]);
            ASSERT_LE(std::abs(value), 64);
            sums[digit / 2 * (sums.size() / kRows) + column] +=
                digit % 2 == 0 ? 128 * value : value;
          }
        }
      }
    }
    ASSERT_EQ(at, out.size());
    for (uint64_t row = 0; row < kRows; ++row) {
      for (uint64_t i = 0; i < sums.size() / kRows; ++i) {
        ASSERT_EQ(sums[row * (sums.size() / kRows) + i], i < cols ? q[row * cols + i] : 0);
      }
    }
  }
}

}  // namespace
}  // namespace tq::cuda
