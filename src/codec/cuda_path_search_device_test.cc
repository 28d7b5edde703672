// Codes that are searched on a CUDA device are those of the processor. Needs a device.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/random.h"
#include "codec/trellis_encoder.h"
#include "kernels/cuda/device_test.h"

namespace tq {
namespace {

using trellis::Code;

class PathSearchDeviceTest : public testing::TestWithParam<Code> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

std::vector<uint8_t> Encode(const TrellisEncoder& encoder, std::vector<float>& values) {
  auto scratch = *encoder.MakeScratch();
  const size_t tiles = values.size() / static_cast<size_t>(encoder.shape().values());
  std::vector<uint8_t> codes(tiles * static_cast<size_t>(encoder.shape().bytes()));
  const Status status = encoder.Encode(values.data(), tiles, scratch, codes.data(), values.data());
  EXPECT_TRUE(status.ok()) << status.message();
  return codes;
}

TEST_P(PathSearchDeviceTest, CodesAndValuesAreTheProcessors) {
  const auto search = MakeCudaPathSearch();
  ASSERT_TRUE(search.ok()) << search.status().message();
  const TrellisEncoder cpu = *TrellisEncoder::Create(GetParam());
  const TrellisEncoder cuda = *TrellisEncoder::Create(GetParam(), *search);
  const bool has = (*search)->Has(GetParam(), cpu.shape().steps());
  EXPECT_EQ(has, GetParam().bits <= 5);
  EXPECT_EQ(cuda.batch() == cpu.batch(), !has);
  Random random(4, "tiles");
  std::vector<float> values(7 * static_cast<size_t>(cpu.shape().values()));
  for (float& value : values) value = static_cast<float>(140 * random.NextNormal());
  std::vector<float> other = values;
  EXPECT_EQ(Encode(cuda, other), Encode(cpu, values));
  EXPECT_EQ(other, values);
}

INSTANTIATE_TEST_SUITE_P(Codes, PathSearchDeviceTest, testing::ValuesIn(trellis::kNativeCodes),
                         [](const auto& info) {
                           return fmt::format("V{}_k{}", info.param.values, info.param.bits);
                         });

}  // namespace
}  // namespace tq
