// The activation kernels of a GPU against their plain twins, bit for bit. Needs a device.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/device_test.h"
#include "kernels/hadamard/hadamard.h"
#include "kernels/trellis_matmul/activations.h"

namespace tq::cuda {
namespace {

constexpr uint64_t kSeed = 99;

// Orders of block transforms, and how many blocks a row has.
struct Order {
  int m, log2;
  uint64_t blocks;
  uint64_t values() const { return blocks * static_cast<uint64_t>(m) << log2; }
};
constexpr Order kOrders[] = {{1, 0, 300}, {1, 2, 1},  {1, 5, 9},  {1, 7, 33}, {1, 10, 3},
                             {1, 7, 224}, {12, 3, 6}, {20, 2, 8}, {28, 4, 3}, {36, 1, 7}};

std::vector<float> Signs(int m) {
  Random random(kSeed, "signs", static_cast<uint64_t>(m));
  std::vector<float> signs(static_cast<size_t>(m * m));
  for (float& sign : signs) sign = static_cast<float>(random.NextSign());
  return signs;
}
std::vector<uint16_t> Halves(uint64_t n) {
  Random random(kSeed, "halves", n);
  std::vector<uint16_t> halves(n);  // +-[0.5, 2)
  for (uint16_t& half : halves)
    half = static_cast<uint16_t>(0x3800 + random.NextBelow(0x800) + random.NextBelow(2) * 0x8000);
  return halves;
}
std::vector<float> Normal(uint64_t n) {
  Random random(kSeed, "x", n);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}
bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class ActivationsDeviceTest : public testing::TestWithParam<Order> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

struct Prepared {
  std::vector<uint8_t> activations;
  std::vector<float> scale;
  std::vector<int64_t> sum;
};

// By the plain twins.
Prepared Expected(int values, trellis::Code code, const std::vector<float>& x, uint64_t n,
                  const std::vector<uint16_t>& in_scale, const Order& order,
                  const std::vector<float>& signs, float scale) {
  const trellis::ActivationKernels& kernels = trellis::FindActivationKernels(Isa::kReference);
  const uint64_t cols = in_scale.size();
  std::vector<int16_t> q(n * cols);
  Prepared prepared{std::vector<uint8_t>(ActivationBytes(code, n, cols)), {}, {}};
  for (uint64_t row = 0; row < n; ++row) {
    std::vector<float> a(cols);
    kernels.scale_by_half(&x[row * cols], in_scale.data(), cols, a.data());
    HadamardTransform({a.data(), cols, order.m, order.log2, signs.data(), scale}, Isa::kReference);
    const uint32_t bits = kernels.combine(values, a.data(), cols, a.data());
    float largest;
    std::memcpy(&largest, &bits, sizeof(largest));
    if (!std::isfinite(largest)) {
      prepared.scale.push_back(std::numeric_limits<float>::quiet_NaN());
      prepared.sum.push_back(0);
      continue;
    }
    const trellis::ActivationScale of = trellis::ScaleOf(largest, trellis::kMaxActivation);
    const int64_t sum = kernels.quantize(a.data(), cols, of.inverse, &q[row * cols]);
    prepared.scale.push_back(of.scale);
    prepared.sum.push_back(sum);
  }
  PackActivations(code, q.data(), n, cols, prepared.activations.data());
  return prepared;
}

TEST_P(ActivationsDeviceTest, PrepareEqualsThePlainTwins) {
  const Order order = GetParam();
  const uint64_t cols = order.values();
  const std::vector<float> signs = Signs(order.m);
  const std::vector<uint16_t> in_scale = Halves(cols);
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(order.m << order.log2)));
  for (int values : {1, 2, 4}) {
    const trellis::Code code{values, values == 4 ? 3 : 5, 16};
    for (uint64_t n : {1, 3, 16}) {
      std::vector<float> x = Normal(n * cols);
      if (n == 3) {
        std::fill_n(x.begin(), cols, 0.0f);
        x[cols + cols / 2] = std::numeric_limits<float>::infinity();
      }
      const Prepared expected = Expected(values, code, x, n, in_scale, order, signs, scale);
      const DeviceCopy<float> device_x(x), device_signs(signs);
      const DeviceCopy<uint16_t> device_in_scale(in_scale);
      // Poisoned: everything must be written.
      const DeviceCopy<uint8_t> activations(
          std::vector<uint8_t>(expected.activations.size(), 0xee));
      const DeviceCopy<float> scales(std::vector<float>(n, -1.0f));
      const DeviceCopy<int64_t> sums(std::vector<int64_t>(n, -1));
      const DeviceCopy<float> scratch(std::vector<float>(PrepareScratchFloats(n, cols),
                                                         std::numeric_limits<float>::quiet_NaN()));
      PrepareArgs args;
      args.x = device_x.data(), args.n = n, args.cols = cols;
      args.in_scale = device_in_scale.data();
      args.hadamard = {order.m, order.log2, device_signs.data(), scale};
      args.values = values;
      args.activations = activations.data(), args.scale = scales.data(), args.sum = sums.data();
      args.scratch = scratch.data();
      ASSERT_EQ(LaunchPrepare(args, nullptr), cudaSuccess);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      EXPECT_EQ(activations.Host(), expected.activations) << "V " << values << " n " << n;
      EXPECT_EQ(sums.Host(), expected.sum) << "V " << values << " n " << n;
      const std::vector<float> actual = scales.Host();
      for (uint64_t row = 0; row < n; ++row) {
        if (std::isnan(expected.scale[row])) {
          EXPECT_TRUE(std::isnan(actual[row]));
        } else {
          EXPECT_EQ(actual[row], expected.scale[row]) << "V " << values << " row " << row;
        }
      }
    }
  }
}

TEST_P(ActivationsDeviceTest, FinishEqualsThePlainTwinsAndClearsTheSums) {
  const Order order = GetParam();
  const trellis::ActivationKernels& kernels = trellis::FindActivationKernels(Isa::kReference);
  const uint64_t rows = order.values(), stride = rows + 3, split = rows / 2;
  const std::vector<float> signs = Signs(order.m);
  const std::vector<uint16_t> out_scale = Halves(rows);
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(order.m << order.log2)));
  for (uint64_t n : {1, 3}) {
    Random random(kSeed, "sums", n);
    std::vector<int64_t> sums(n * stride);
    for (int64_t& sum : sums) {
      sum = static_cast<int64_t>(random.NextBelow(uint64_t{1} << 40)) - (int64_t{1} << 39);
    }
    const std::vector<float> scales[2] = {Normal(n), Normal(n + 1)};
    const std::vector<int64_t> of_x[2] = {std::vector<int64_t>(n, 12345),
                                          std::vector<int64_t>(n, -77)};
    constexpr int kValues[] = {1, 4};
    const float weight_scales[2] = {0.013f, 0.0071f};
    std::vector<float> expected(n * rows);
    for (uint64_t b = 0; b < n; ++b) {
      float* y = &expected[b * rows];
      for (int s : {0, 1}) {
        const uint64_t begin = s == 0 ? 0 : split, end = s == 0 ? split : rows;
        kernels.finish(&sums[b * stride + begin], end - begin,
                       -trellis::SumCentre(kValues[s]) * static_cast<double>(of_x[s][b]),
                       static_cast<double>(scales[s][b]) * static_cast<double>(weight_scales[s]),
                       y + begin);
      }
      HadamardTransform({y, rows, order.m, order.log2, signs.data(), scale}, Isa::kReference);
      kernels.scale_by_half(y, out_scale.data(), rows, y);
    }
    const DeviceCopy<int64_t> device_sums(sums);
    const DeviceCopy<float> device_signs(signs), scales0(scales[0]), scales1(scales[1]);
    const DeviceCopy<int64_t> of_x0(of_x[0]), of_x1(of_x[1]);
    const DeviceCopy<uint16_t> device_out_scale(out_scale);
    const DeviceCopy<float> y(std::vector<float>(n * rows, -1.0f));
    FinishArgs args;
    args.sums = device_sums.data(), args.n = n, args.sum_stride = stride, args.num_matrices = 1;
    FinishMatrix& matrix = args.matrices[0];
    matrix.rows = rows, matrix.num_segments = 2;
    matrix.segments[0] = {0, 0, split, kValues[0], weight_scales[0], scales0.data(), of_x0.data()};
    // Two rows of padding behind them.
    matrix.segments[1] = {
        split, split, rows - split + 2, kValues[1], weight_scales[1], scales1.data(), of_x1.data()};
    matrix.out_scale = device_out_scale.data();
    matrix.hadamard = {order.m, order.log2, device_signs.data(), scale};
    matrix.y = y.data();
    ASSERT_EQ(LaunchFinish(args, nullptr), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_TRUE(SameBits(y.Host(), expected)) << "n " << n;
    const std::vector<int64_t> left = device_sums.Host();
    for (uint64_t b = 0; b < n; ++b) {
      for (uint64_t row = 0; row < stride; ++row) {
        ASSERT_EQ(left[b * stride + row], row < rows + 2 ? 0 : sums[b * stride + row]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, ActivationsDeviceTest, testing::ValuesIn(kOrders),
                         [](const auto& info) {
                           return fmt::format("{}x2to{}x{}", info.param.m, info.param.log2,
                                              info.param.blocks);
                         });

}  // namespace
}  // namespace tq::cuda
