// Configurations of products: chosen on the host, tested without a GPU.
#include <gtest/gtest.h>

#include "kernels/cuda/trellis_gemv.h"
#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq::cuda {
namespace {

TEST(ChooseGemvTest, LargeProductsFillTheDeviceAndFitItsMemory) {
  const DeviceShape device;
  for (trellis::Code code : trellis::kMatmulCodes) {
    const GemvConfig config = ChooseGemv({code, 1, 512, 224}, device);
    EXPECT_EQ(config.blocks % device.multiprocessors, 0);
    EXPECT_GE(config.shared_bytes, kGemvWarps * GemvStages(code) * UnitBytes(code));
    EXPECT_LE(config.blocks / device.multiprocessors * config.shared_bytes, device.shared_bytes);
  }
}

TEST(ChooseGemvTest, SmallProductsLeaveNoBlockWithoutWorkAndNoMultiprocessorIdle) {
  const DeviceShape device;
  for (uint64_t units : {1, 7, 8, 9, 100, 1056, 3000, 4224, 6400, 9000}) {
    const GemvConfig config = ChooseGemv({{2, 4, 16}, 1, 1, units}, device);
    const auto blocks = static_cast<uint64_t>(config.blocks);
    EXPECT_LT((blocks - 1) * kGemvWarps, units);
    if (units >= uint64_t{132} * kGemvWarps) {
      EXPECT_GE(blocks, 132u);
    }
    if (blocks > 132) {
      EXPECT_EQ(blocks % 132, 0u);
      EXPECT_LE(blocks * kGemvWarps * 4, units);
    }
  }
}

}  // namespace
}  // namespace tq::cuda
