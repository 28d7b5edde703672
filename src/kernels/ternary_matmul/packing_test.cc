// The two packings of ternary weights, and what is no code of them.
#include "kernels/ternary_matmul/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/random.h"

namespace tq::ternary {
namespace {

constexpr uint64_t kSeed = 1958;

std::vector<int8_t> RandomTrits(size_t n) {
  Random random(kSeed, "trits", n);
  std::vector<int8_t> trits(n);
  for (int8_t& trit : trits) trit = static_cast<int8_t>(static_cast<int>(random.NextBelow(3)) - 1);
  return trits;
}

TEST(TernaryPackingTest, ByteIsWhatTheHeaderSays) {
  // Row 5: columns c = 2 of the groups are 1, -1, 0, 1, -1, so u = 2, 0, 1, 2, 0.
  for (Packing packing : kAllPackings) {
    const int columns = TileColumns(packing);
    std::vector<int8_t> trits(kTileRows * columns);
    const int values[] = {1, -1, 0, 1, -1};
    for (int g = 0; g < TileGroups(packing); ++g) {
      trits[5 * columns + 4 * g + 2] = static_cast<int8_t>(values[g]);
    }
    uint8_t tile[kTileBytes];
    PackTile(packing, trits.data(), columns, kTileRows, columns, tile);
    const int v = 81 * 2 + 27 * 0 + 9 * 1 + 3 * 2 + 0;  // 177 of 243
    EXPECT_EQ(tile[4 * 5 + 2], packing == Packing::k2Bits ? 0b10'01'00'10 : (v * 256 + 242) / 243);
    EXPECT_EQ(tile[4 * 5 + 1], packing == Packing::k2Bits ? 0b01'01'01'01 : 128);  // zeros
  }
}

TEST(TernaryPackingTest, TilesOfAnySizeComeBackWithZerosAround) {
  for (Packing packing : kAllPackings) {
    const int columns = TileColumns(packing);
    for (int rows : {1, 2, 31, 32}) {
      for (int width = 0; width <= columns; ++width) {
        const std::vector<int8_t> trits = RandomTrits(kTileRows * 23);
        std::vector<uint8_t> tile(kTileBytes, 0xee);
        PackTile(packing, trits.data(), 23, rows, width, tile.data());
        EXPECT_EQ(FindNoCode(packing, tile.data(), kTileBytes), size_t{kTileBytes});
        std::vector<int8_t> back(kTileRows * columns, 99);
        UnpackTile(packing, tile.data(), back.data());
        for (int i = 0; i < kTileRows * columns; ++i) {
          const int row = i / columns, column = i % columns;
          ASSERT_EQ(back[i], row < rows && column < width ? trits[row * 23 + column] : 0)
              << "row " << row << " column " << column << " of " << rows << " x " << width;
        }
      }
    }
  }
}

// What comes back from a code packs to that code again, and nothing else does.
TEST(TernaryPackingTest, CodesAreTheBytesThatPackingGives) {
  for (Packing packing : kAllPackings) {
    const int columns = TileColumns(packing);
    int codes = 0;
    for (int byte = 0; byte < 256; ++byte) {
      uint8_t tile[kTileBytes] = {}, again[kTileBytes];
      tile[0] = static_cast<uint8_t>(byte);
      std::vector<int8_t> trits(kTileRows * columns);
      UnpackTile(packing, tile, trits.data());
      const bool ternary = *std::max_element(trits.begin(), trits.end()) <= 1;
      if (ternary) PackTile(packing, trits.data(), columns, kTileRows, columns, again);
      EXPECT_EQ(IsCode(packing, tile[0]), ternary && again[0] == byte) << byte;
      codes += IsCode(packing, tile[0]);
    }
    EXPECT_EQ(codes, packing == Packing::k2Bits ? 81 : 243);
  }
}

TEST(TernaryPackingTest, FirstByteThatIsNoCodeIsFound) {
  for (Packing packing : kAllPackings) {
    const uint8_t bad = packing == Packing::k2Bits ? 0b00'11'00'00 : 20;
    for (size_t n : {1, 31, 4095, 4096, 4097, 9000}) {
      std::vector<uint8_t> bytes(n, 0);
      ASSERT_EQ(FindNoCode(packing, bytes.data(), n), n);
      for (size_t at : {size_t{0}, n / 2, n - 1}) {
        bytes[n - 1] = bytes[at] = bad;
        EXPECT_EQ(FindNoCode(packing, bytes.data(), n), at) << n;
        bytes[n - 1] = bytes[at] = 0;
      }
    }
    EXPECT_EQ(FindNoCode(packing, nullptr, 0), 0u);
  }
}

}  // namespace
}  // namespace tq::ternary
