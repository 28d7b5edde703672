// Rounding on a CUDA device against the processor's. Needs a device.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/checked.h"
#include "compress/methods/trellis/rounding.h"
#include "compress/testing.h"
#include "device/executor.h"
#include "kernels/cuda/device_test.h"

namespace tq {
namespace {

using trellis::Code;

struct Rounded {
  std::vector<float> w;
  std::vector<uint8_t> codes;
  std::vector<RoundingLoss> losses;
};

struct Problem {
  Code code;
  uint64_t rows, cols;
  std::vector<float> scales;
  HessianFactor* factor = nullptr;

  Rounded On(const RoundingDevice& device) const {
    InlineExecutor executor;
    const trellis::TileShape shape = trellis::ShapeOf(code);
    Rounded rounded;
    rounded.w = testing::NormalValues(scales.size() * rows * cols, rows);
    rounded.codes.assign(scales.size() * CeilDiv<uint64_t>(rows, shape.rows) *
                             CeilDiv<uint64_t>(cols, shape.columns) * shape.bytes(),
                         0xee);
    auto rounding = device.Start(factor, cols, executor);
    EXPECT_TRUE(rounding.ok()) << rounding.status().message();
    if (!rounding.ok()) return rounded;
    auto losses = (*rounding)->Round({code, rows, scales, rounded.w.data(), rounded.codes.data()});
    EXPECT_TRUE(losses.ok()) << losses.status().message();
    if (losses.ok()) rounded.losses = *losses;
    return rounded;
  }
};

HessianFactor Factor(uint64_t cols) {
  InlineExecutor executor;
  return *HessianFactor::Create("g", testing::Gram(testing::LowRankRows(4 * cols, cols, 1), cols),
                                0.01, executor);
}

class CudaRoundingDeviceTest : public ::testing::TestWithParam<Code> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

std::vector<Code> Codes() {
  std::vector<Code> codes;
  for (Code code : trellis::kNativeCodes) {
    code.state_bits = 12;
    codes.push_back(code);
  }
  codes.push_back({2, 4, 16});
  return codes;
}

// Up to 128 columns nothing is summed in another order: the same bits.
TEST_P(CudaRoundingDeviceTest, IsTheProcessorsToTheBit) {
  const auto device = MakeCudaRounding();
  ASSERT_TRUE(device.ok()) << device.status().message();
  ASSERT_EQ((*device)->Has(GetParam()), GetParam().bits <= 5);
  if (!(*device)->Has(GetParam())) return;
  for (const uint64_t cols : {16, 40, 128}) {
    HessianFactor factor = Factor(cols);
    for (HessianFactor* with : {&factor, static_cast<HessianFactor*>(nullptr)}) {
      for (const uint64_t rows : {7, 100}) {
        const Problem problem{GetParam(), rows, cols, {0.0065f, 0.007f, 0.008f}, with};
        const Rounded cpu = problem.On(ProcessorRounding()), cuda = problem.On(**device);
        const std::string where = fmt::format("{} x {}", rows, cols);
        EXPECT_EQ(cuda.codes, cpu.codes) << where;
        EXPECT_EQ(cuda.w, cpu.w) << where;
        ASSERT_EQ(cuda.losses.size(), cpu.losses.size());
        for (size_t i = 0; i < cpu.losses.size(); ++i) {
          EXPECT_NEAR(cuda.losses[i].loss, cpu.losses[i].loss, 1e-9 * cpu.losses[i].loss) << where;
          EXPECT_NEAR(cuda.losses[i].norm, cpu.losses[i].norm, 1e-5 * cpu.losses[i].norm) << where;
        }
      }
    }
  }
}

// Beyond, sums of products differ by rounding, and so do some codes; the loss is as large.
TEST_P(CudaRoundingDeviceTest, LosesAsMuchAsTheProcessor) {
  const auto device = MakeCudaRounding();
  ASSERT_TRUE(device.ok()) << device.status().message();
  if (!(*device)->Has(GetParam())) return;
  HessianFactor factor = Factor(392);
  const Problem problem{GetParam(), 200, 392, {0.007f}, &factor};
  const Rounded cpu = problem.On(ProcessorRounding()), cuda = problem.On(**device);
  ASSERT_EQ(cuda.losses.size(), 1u);
  // A loss of 78 400 values: other codes of the same quality differ by more than 0.1 % of it.
  EXPECT_NEAR(cuda.losses[0].loss, cpu.losses[0].loss, 0.01 * cpu.losses[0].loss);
  EXPECT_NEAR(cuda.losses[0].norm, cpu.losses[0].norm, 1e-5 * cpu.losses[0].norm);
}

// Also where products with the factor enter.
TEST_P(CudaRoundingDeviceTest, PiecesGiveTheSame) {
  const auto whole = MakeCudaRounding();
  const auto pieces = MakeCudaRounding(uint64_t{48} << 20);
  ASSERT_TRUE(whole.ok() && pieces.ok());
  if (!(*whole)->Has(GetParam()) || GetParam().state_bits == 16) return;
  HessianFactor factor = Factor(136);
  const Problem problem{GetParam(), 60000, 136, {0.007f}, &factor};
  const Rounded a = problem.On(**whole), b = problem.On(**pieces);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.w, b.w);
}

// The losses of scales that are compared: of the same rows, which stay.
TEST_P(CudaRoundingDeviceTest, LossesAloneAreThoseOfTheProcessor) {
  const auto device = MakeCudaRounding();
  ASSERT_TRUE(device.ok()) << device.status().message();
  if (!(*device)->Has(GetParam())) return;
  InlineExecutor executor;
  HessianFactor factor = Factor(72);
  const std::vector<float> scales = {0.006f, 0.007f, 0.009f};
  const std::vector<float> rows = testing::NormalValues(50 * 72, 3);
  std::vector<RoundingLoss> losses[2];
  for (const RoundingDevice* where : {&ProcessorRounding(), &**device}) {
    std::vector<float> w = rows;
    auto rounding = where->Start(&factor, 72, executor);
    ASSERT_TRUE(rounding.ok());
    auto got = (*rounding)->Round({GetParam(), 50, scales, w.data(), nullptr});
    ASSERT_TRUE(got.ok()) << got.status().message();
    EXPECT_EQ(w, rows);
    losses[where == &**device] = *got;
  }
  for (size_t i = 0; i < scales.size(); ++i) {
    EXPECT_NEAR(losses[1][i].loss, losses[0][i].loss, 1e-9 * losses[0][i].loss);
  }
}

// Robustness case 72.
TEST_P(CudaRoundingDeviceTest, TooLittleMemoryIsAnErrorWithTheAmount) {
  const auto device = MakeCudaRounding(1 << 10);
  ASSERT_TRUE(device.ok());
  if (!(*device)->Has(GetParam())) return;
  InlineExecutor executor;
  auto rounding = (*device)->Start(nullptr, 128, executor);
  ASSERT_TRUE(rounding.ok());
  std::vector<float> w(128);
  const float scale = 1;
  const auto losses = (*rounding)->Round({GetParam(), 1, {&scale, 1}, w.data(), nullptr});
  ASSERT_FALSE(losses.ok());
  EXPECT_NE(losses.status().message().find("1.0 KiB"), std::string::npos)
      << losses.status().message();
}

INSTANTIATE_TEST_SUITE_P(Codes, CudaRoundingDeviceTest, ::testing::ValuesIn(Codes()),
                         [](const auto& info) {
                           return fmt::format("V{}_k{}_L{}", info.param.values, info.param.bits,
                                              info.param.state_bits);
                         });

}  // namespace
}  // namespace tq
