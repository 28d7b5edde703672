// Prepare, product and finish one after the other on a stream: nothing waits but what must, and y
// is that of one step at a time. Needs a device.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/trellis_gemv.h"

namespace tq::cuda {
namespace {

using trellis::Code;

constexpr uint64_t kSeed = 5, kRows = 1536, kCols = 2048;

class ProductDeviceTest : public testing::TestWithParam<Code> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

std::vector<float> Normal(uint64_t n, uint64_t index) {
  Random random(kSeed, "x", index);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}

// y = W x for many x in turn; `wait` after every step, or only at the end.
std::vector<std::vector<float>> Products(Code code, uint64_t n, bool wait) {
  constexpr size_t kProducts = 12;
  const uint64_t tile_rows = kRows / static_cast<uint64_t>(trellis::ShapeOf(code).rows);
  std::vector<uint8_t> units(CodesBytes(code, tile_rows, kCols));
  Random random(kSeed, "codes");
  for (uint8_t& byte : units) byte = static_cast<uint8_t>(random.NextU32());
  const DeviceCopy<uint8_t> codes(units);
  const DeviceCopy<uint8_t> activations(std::vector<uint8_t>(ActivationBytes(code, n, kCols)));
  const DeviceCopy<uint16_t> ones(std::vector<uint16_t>(kCols, 0x3c00));
  const DeviceCopy<float> scratch(std::vector<float>(PrepareScratchFloats(n, kCols)));
  const DeviceCopy<float> scale{std::vector<float>(n)};
  const DeviceCopy<int64_t> sum{std::vector<int64_t>(n)}, sums{std::vector<int64_t>(n * kRows)};
  const HadamardShape rotation{1, 7, nullptr, 1 / std::sqrt(128.0f)};
  const GemvProblem problem{code, static_cast<int>(n), UnitsDown(code, tile_rows),
                            UnitsAcross(code, kCols)};
  std::vector<std::unique_ptr<DeviceCopy<float>>> xs, ys;
  const auto step = [&](int error) {
    EXPECT_EQ(error, cudaSuccess);
    if (wait) {
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
  };
  for (size_t i = 0; i < kProducts; ++i) {
    xs.push_back(std::make_unique<DeviceCopy<float>>(Normal(n * kCols, i)));
    ys.push_back(std::make_unique<DeviceCopy<float>>(std::vector<float>(n * kRows, -1.0f)));
  }
  for (size_t i = 0; i < kProducts; ++i) {
    PrepareArgs prepare;
    prepare.x = xs[i]->data(), prepare.n = n, prepare.cols = kCols;
    prepare.in_scale = ones.data(), prepare.hadamard = rotation, prepare.values = code.values;
    prepare.scratch = scratch.data(), prepare.activations = activations.data();
    prepare.scale = scale.data(), prepare.sum = sum.data();
    step(LaunchPrepare(prepare, nullptr));
    const GemvArgs args{codes.data(), activations.data(), sums.data(), kRows, kRows};
    step(LaunchGemv(problem, ChooseGemv(problem, {}), args, true, nullptr));
    FinishArgs finish;
    finish.sums = sums.data(), finish.n = n, finish.sum_stride = kRows, finish.num_matrices = 1;
    FinishMatrix& matrix = finish.matrices[0];
    matrix.rows = kRows, matrix.num_segments = 1;
    matrix.segments[0] = {0, 0, kRows, code.values, 0.01f, scale.data(), sum.data()};
    matrix.out_scale = ones.data(), matrix.hadamard = rotation, matrix.y = ys[i]->data();
    step(LaunchFinish(finish, nullptr));
  }
  std::vector<std::vector<float>> results;
  for (const auto& y : ys) results.push_back(y->Host());
  return results;
}

TEST_P(ProductDeviceTest, StepsWaitForEachOther) {
  for (uint64_t n : {1, 7}) {
    const auto expected = Products(GetParam(), n, true), actual = Products(GetParam(), n, false);
    for (size_t i = 0; i < expected.size(); ++i) {
      for (size_t j = 0; j < expected[i].size(); ++j) {
        ASSERT_TRUE(std::isfinite(expected[i][j]));
        ASSERT_EQ(actual[i][j], expected[i][j]) << "product " << i << " element " << j;
      }
    }
    EXPECT_NE(expected[0], expected[1]);
  }
}

INSTANTIATE_TEST_SUITE_P(Codes, ProductDeviceTest,
                         testing::Values(Code{1, 4, 16}, Code{2, 4, 16}, Code{4, 2, 16}),
                         [](const auto& info) {
                           return fmt::format("V{}_k{}", info.param.values, info.param.bits);
                         });

}  // namespace
}  // namespace tq::cuda
