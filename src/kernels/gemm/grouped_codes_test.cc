#include "kernels/gemm/grouped_codes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/random.h"
#include "kernels/isa.h"

namespace tq::gemm {
namespace {

constexpr uint16_t kOne = 0x3C00, kHalf = 0x3800, kTwo = 0x4000, kMinusThree = 0xC200;

TEST(GroupedCodes, LeastSignificantBitFirst) {
  // Codes 1, 2, 7, 0, 5 of 3 bits: 0b000'111'010'001 and 0b101 at bit 12.
  const uint8_t codes[] = {0xD1, 0x51};
  const uint16_t scale[] = {kOne, kHalf}, zero[] = {kTwo, kMinusThree};
  float out[5];
  DecodeGroupedRow({codes, 2, scale, zero, 5, 3, 3}, out, Isa::kReference);
  EXPECT_THAT(std::vector<float>(out, out + 5), testing::ElementsAre(-1, 0, 5, 1.5f, 4));
}

TEST(GroupedCodes, LevelsGiveTheSameBits) {
  Random random(20240613, "grouped_codes_test");
  for (int bits = 2; bits <= 8; ++bits) {
    for (size_t cols : {1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200}) {
      for (size_t group : {5, 16, 32, 48, 128}) {
        const size_t bytes = (cols * bits + 7) / 8, groups = (cols + group - 1) / group;
        // Exactly as many bytes as allowed: a sanitizer sees any read beyond.
        const std::unique_ptr<uint8_t[]> codes(new uint8_t[bytes]);
        for (size_t i = 0; i < bytes; ++i) codes[i] = static_cast<uint8_t>(random.NextU32());
        std::vector<uint16_t> scale(groups), zero(groups);
        for (auto* part : {&scale, &zero}) {
          for (uint16_t& half : *part) half = static_cast<uint16_t>(random.NextBelow(0x7C00));
        }
        const GroupedRow row = {codes.get(), bytes, scale.data(), zero.data(), cols, group, bits};
        std::vector<float> expected(cols + 1, 9.0f);
        DecodeGroupedRow(row, expected.data(), Isa::kReference);
        EXPECT_EQ(expected[cols], 9.0f);
        for (Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
          if (!IsaSupported(isa)) continue;
          std::vector<float> out(cols + 1, 9.0f);
          DecodeGroupedRow(row, out.data(), isa);
          ASSERT_EQ(out, expected) << IsaName(isa) << " bits " << bits << " cols " << cols;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tq::gemm
