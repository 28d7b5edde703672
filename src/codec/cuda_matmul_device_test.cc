// Products of a CUDA device against the processor's, bit for bit. Needs a device.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"
#include "codec/cuda_matmul.h"
#include "codec/packed_matmul.h"
#include "codec/rotation.h"
#include "kernels/cuda/device_test.h"

namespace tq {
namespace {

using cuda::DeviceCopy;
using trellis::Code;

constexpr uint64_t kSeed = 12;

Tensor HalfScales(uint64_t n, Random& random) {
  Tensor tensor = *Tensor::Zeros(DType::kF16, {n});
  for (uint64_t i = 0; i < n; ++i) {  // +-[0.5, 2)
    tensor.mutable_as<uint16_t>()[i] =
        static_cast<uint16_t>(0x3800 + random.NextBelow(0x800) + random.NextBelow(2) * 0x8000);
  }
  return tensor;
}

// Random codes; rows from `split` on have the second code.
PackedMatrix Matrix(uint64_t rows, uint64_t cols, Code first, Code second, uint64_t split,
                    uint32_t out_block, std::shared_ptr<const InputTransform> input) {
  Random random(kSeed, "matrix", rows);
  PackedMatrix matrix;
  matrix.rows = rows, matrix.cols = cols, matrix.out_block = out_block;
  matrix.segments = MakeSegments(rows, cols, first, second, split);
  uint64_t bytes = 0;
  for (Segment& segment : matrix.segments) {
    segment.scale = 0.001f * static_cast<float>(1 + random.NextBelow(9));
    bytes += SegmentBytes(segment, cols);
  }
  matrix.codes = *Tensor::Zeros(DType::kU8, {bytes});
  for (uint64_t i = 0; i < bytes; ++i) {
    matrix.codes.mutable_data()[i] = static_cast<uint8_t>(random.NextU32());
  }
  matrix.out_scale = HalfScales(rows, random);
  matrix.input = std::move(input);
  return matrix;
}

struct Group {
  std::vector<PackedMatrix> matrices;
  std::vector<const PackedMatrix*> pointers() const {
    std::vector<const PackedMatrix*> result;
    for (const PackedMatrix& matrix : matrices) result.push_back(&matrix);
    return result;
  }
};

// Three matrices with codes of their own and shared ones, of all V, with rows that fill no unit.
Group MakeGroup(uint64_t cols, uint32_t in_block) {
  Random random(kSeed, "input", cols);
  const auto input =
      std::make_shared<InputTransform>(InputTransform{HalfScales(cols, random), in_block});
  Group group;
  const Code two{2, 4, 16}, half{4, 2, 16}, three{1, 3, 16}, fast{2, 4, 12};
  group.matrices.push_back(Matrix(200, cols, two, half, 128, 40, input));
  group.matrices.push_back(Matrix(77, cols, two, three, 64, 1, input));
  group.matrices.push_back(Matrix(96, cols, fast, fast, 96, 96, input));
  return group;
}

std::vector<float> Normal(uint64_t n, uint64_t index) {
  Random random(kSeed, "x", index);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}

class CudaMatmulDeviceTest : public testing::TestWithParam<std::pair<uint64_t, uint32_t>> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

TEST_P(CudaMatmulDeviceTest, HasTheBitsOfManyRowsOnTheProcessor) {
  const auto [cols, in_block] = GetParam();
  const Group group = MakeGroup(cols, in_block);
  const auto device = *CudaDevice::Open();
  auto matmul = CudaMatmul::Create(*device, group.pointers());
  ASSERT_TRUE(matmul.ok()) << matmul.status().message();
  // A scratch that other groups use too.
  CudaMatmulScratch::Sizes sizes = (*matmul)->scratch_sizes();
  const Group other = MakeGroup(cols + 2 * in_block, in_block);
  const auto others = *CudaMatmul::Create(*device, other.pointers());
  sizes.Include(others->scratch_sizes());
  const CudaMatmulScratch scratch = *CudaMatmulScratch::Create(*device, sizes);
  InlineExecutor executor;
  const std::vector<Code> codes{{2, 4, 16}, {4, 2, 16}, {1, 3, 16}, {2, 4, 12}};
  for (uint64_t n : {1, 2, 5, 16, 3}) {
    // One row alone has the bits of many.
    const uint64_t rows = std::max<uint64_t>(n, 2);
    const std::vector<float> x = Normal(rows * cols, n);
    RotatedInput rotated;
    rotated.Prepare(*group.matrices[0].input, x.data(), rows, cols, codes, MatmulPath::kFast,
                    executor);
    const DeviceCopy<float> device_x(x);
    std::vector<std::unique_ptr<DeviceCopy<float>>> outputs;
    std::vector<float*> y;
    for (const PackedMatrix& matrix : group.matrices) {
      outputs.push_back(std::make_unique<DeviceCopy<float>>(
          std::vector<float>(n * matrix.rows, std::numeric_limits<float>::quiet_NaN())));
      y.push_back(outputs.back()->data());
    }
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const Status status = (*matmul)->Run(*device, scratch, device_x.data(), n, y);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(device->Synchronize().ok());
    for (size_t i = 0; i < group.matrices.size(); ++i) {
      std::vector<float> expected(rows * group.matrices[i].rows);
      PackedMatmul(group.matrices[i], rotated, MatmulPath::kFast, executor, expected.data());
      expected.resize(n * group.matrices[i].rows);
      EXPECT_EQ(outputs[i]->Host(), expected) << "n " << n << " matrix " << i;
    }
    // What another group leaves behind does not matter.
    const DeviceCopy<float> other_x(Normal(n * (cols + 2 * in_block), n));
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_TRUE(others->Run(*device, scratch, other_x.data(), n, y).ok());
    ASSERT_TRUE(device->Synchronize().ok());
  }
}

// Weights are exact, x has 11 bits and outputs too.
TEST_P(CudaMatmulDeviceTest, DenseProductsAreNearTheProcessors) {
  const auto [cols, in_block] = GetParam();
  const Group group = MakeGroup(cols, in_block);
  const auto device = *CudaDevice::Open();
  const auto blas = Cublas::Load(*device);
  if (!blas.ok()) GTEST_SKIP() << "NOT TESTED: " << blas.status().message();
  auto matmul = *CudaMatmul::Create(*device, group.pointers());
  InlineExecutor executor;
  const std::vector<Code> codes{{2, 4, 16}, {4, 2, 16}, {1, 3, 16}, {2, 4, 12}};
  constexpr uint64_t kRows = 37;
  const std::vector<float> x = Normal(kRows * cols, kRows);
  RotatedInput rotated;
  rotated.Prepare(*group.matrices[0].input, x.data(), kRows, cols, codes, MatmulPath::kFast,
                  executor);
  CudaDenseScratch::Sizes sizes;
  sizes.rows = kRows + 3, sizes.x_stride = matmul->dense_x_stride() + 64;
  sizes.sums_stride = matmul->dense_sums_stride();
  sizes.weight_bytes = CudaMatmul::kMinDenseRows * matmul->dense_x_stride() * sizeof(uint16_t);
  const CudaDenseScratch scratch = *CudaDenseScratch::Create(*device, sizes);
  const DeviceCopy<float> device_x(x);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(cuda::LaunchDensePrepare(device_x.data(), kRows, matmul->DenseInput(scratch),
                                     device->stream()),
            cudaSuccess);
  ASSERT_TRUE(matmul->StartDenseProducts(*device, **blas, scratch, kRows).ok());
  for (size_t i = 0; i < group.matrices.size(); ++i) {
    const uint64_t rows = group.matrices[i].rows;
    const DeviceCopy<float> y(
        std::vector<float>(kRows * rows, std::numeric_limits<float>::quiet_NaN()));
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_EQ(
        cuda::LaunchDenseFinish(matmul->DenseOutput(scratch, i), kRows, y.data(), device->stream()),
        cudaSuccess);
    ASSERT_TRUE(device->Synchronize().ok());
    std::vector<float> expected(kRows * rows);
    PackedMatmul(group.matrices[i], rotated, MatmulPath::kFast, executor, expected.data());
    const std::vector<float> actual = y.Host();
    double error = 0, sum = 0;
    for (size_t j = 0; j < expected.size(); ++j) {
      error += std::pow(actual[j] - expected[j], 2.0);
      sum += std::pow(expected[j], 2.0);
    }
    EXPECT_LT(std::sqrt(error / sum), 1e-3) << "matrix " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Columns, CudaMatmulDeviceTest,
                         testing::Values(std::pair(128, 128), std::pair(576, 576),
                                         std::pair(1200, 80), std::pair(20, 20)),
                         [](const auto& info) { return fmt::format("{}", info.param.first); });

}  // namespace
}  // namespace tq
