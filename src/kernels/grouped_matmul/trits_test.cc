#include "kernels/grouped_matmul/trits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/random.h"
#include "kernels/ternary_matmul/packing.h"

namespace tq::grouped {
namespace {

// The format, byte by byte.
TEST(Trits, AreFractionsInBase3) {
  const auto pack = [](const std::vector<uint8_t>& q) {
    std::vector<uint8_t> bytes(TritBytes(q.size()));
    PackTrits(q.data(), q.size(), bytes.data());
    return bytes;
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(pack({0, 0, 0, 0, 0}), ElementsAre(0));
  EXPECT_THAT(pack({1, 1, 1, 1, 1}), ElementsAre(128));  // v = 121
  EXPECT_THAT(pack({2, 2, 2, 2, 2}), ElementsAre(255));  // v = 242
  EXPECT_THAT(pack({2, 0, 0, 1, 2}), ElementsAre(176));  // v = 167
  EXPECT_THAT(pack({0}), ElementsAre(43));               // 0 1 1 1 1, v = 40
  // Two bytes: columns 0, 2, 4, 6 and 1, 3, 5.
  EXPECT_THAT(pack({0, 2, 1, 2, 2, 0, 1}), ElementsAre(52, 232));  // 01211: 49, 22011: 220
}

TEST(Trits, ComeBackForAnyNumberOfColumns) {
  Random random(77, "trits");
  for (size_t cols = 1; cols < 1000; ++cols) {
    std::vector<uint8_t> q(cols), bytes(TritBytes(cols)), back(cols + 1, 9);
    for (uint8_t& each : q) each = static_cast<uint8_t>(random.NextBelow(3));
    PackTrits(q.data(), cols, bytes.data());
    EXPECT_EQ(ternary::FindNoCode(ternary::Packing::kBase3, bytes.data(), bytes.size()),
              bytes.size());
    UnpackTrits(bytes.data(), cols, back.data());
    ASSERT_EQ(back[cols], 9);
    back.pop_back();
    ASSERT_EQ(back, q) << cols << " columns";
  }
}

TEST(Trits, WholeChunksAreCacheLines) {
  std::vector<uint8_t> q(2 * kChunkColumns, 1);
  q[kChunkColumns + 64 + 3] = 2;  // digit 1 of the second line's byte 3
  std::vector<uint8_t> bytes(TritBytes(q.size()));
  ASSERT_EQ(bytes.size(), 2 * kChunkBytes);
  PackTrits(q.data(), q.size(), bytes.data());
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(bytes[i], i == kChunkBytes + 3 ? 156 : 128) << i;  // v = 148, 121
  }
}

}  // namespace
}  // namespace tq::grouped
