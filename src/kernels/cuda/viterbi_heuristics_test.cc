// Configurations of the search, without a device.
#include <gtest/gtest.h>

#include "kernels/cuda/viterbi.h"
#include "kernels/cuda/viterbi_layout.h"

namespace tq::cuda {
namespace {

using trellis::Code;

constexpr uint64_t kHopper = 227 << 10, kAmpere = 163 << 10, kConsumer = 99 << 10;

TEST(ViterbiHeuristics, FitsSharedMemoryAndFillsTheDevice) {
  for (Code code : trellis::kSupportedCodes) {
    for (uint64_t shared : {kHopper, kAmpere, kConsumer}) {
      const int steps = trellis::ShapeOf(code).steps();
      for (uint64_t tiles : {1u, 131u, 256u, 1792u}) {
        const ViterbiConfig config = ChooseViterbi(code, steps, tiles, {}, shared);
        if (!HasViterbi(code)) {
          EXPECT_EQ(config.together, 0);
          continue;
        }
        if (config.together == 0) {
          EXPECT_GT(ViterbiSharedBytes(code, steps, 1), shared);
          continue;
        }
        EXPECT_LE(config.shared_bytes, shared);
        EXPECT_EQ(config.shared_bytes, ViterbiSharedBytes(code, steps, config.together));
        const auto blocks = static_cast<uint64_t>(config.blocks);
        EXPECT_GE(blocks * 132 * 16, std::min<uint64_t>(tiles, 132));
        EXPECT_LE((blocks - 1) * static_cast<uint64_t>(config.together), tiles - 1);
        EXPECT_EQ(config.scratch_bytes, blocks * WinnerBytes(code, steps, config.together));
      }
    }
  }
}

TEST(ViterbiHeuristics, FewTilesGoToManyMultiprocessors) {
  const Code code{2, 4, 16};
  EXPECT_EQ(ChooseViterbi(code, 128, 132, {}, kHopper).together, 1);
  EXPECT_EQ(ChooseViterbi(code, 128, 132, {}, kHopper).blocks, 132);
  EXPECT_EQ(ChooseViterbi(code, 128, 600, {}, kHopper).together, 4);
  EXPECT_EQ(ChooseViterbi(code, 128, 600, {}, kAmpere).together, 4);
  EXPECT_EQ(ChooseViterbi(code, 128, 600, {}, kConsumer).together, 2);
}

// 16384 overlaps at k = 2: their costs alone take 128 KiB.
TEST(ViterbiHeuristics, TooLittleSharedMemoryIsSaid) {
  EXPECT_EQ(ChooseViterbi({2, 2, 16}, 256, 600, {}, kConsumer).together, 0);
  EXPECT_EQ(ChooseViterbi({2, 2, 16}, 256, 600, {}, kAmpere).together, 1);
}

}  // namespace
}  // namespace tq::cuda
