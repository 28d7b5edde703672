// What stands around dense products on a GPU, against plain twins on the processor. Needs a device.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/dense_steps.h"
#include "kernels/cuda/dense_weights.h"
#include "kernels/cuda/device_test.h"
#include "kernels/hadamard/hadamard.h"
#include "kernels/transformer/elementwise.h"
#include "kernels/trellis_matmul/constants.h"

namespace tq::cuda {
namespace {

using trellis::Code;
using trellis::ShapeOf;

constexpr uint64_t kSeed = 17;
constexpr uint16_t kPoison = 0x7e01;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float FromHalf(uint16_t half) {
  float value;
  transformer::HalfToFloat(&half, 1, &value);
  return value;
}
std::vector<float> Normal(uint64_t n, std::string_view label) {
  Random random(kSeed, label, n);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}
std::vector<uint16_t> Halves(const std::vector<float>& x) {
  std::vector<uint16_t> halves(x.size());
  transformer::FloatToHalf(x.data(), x.size(), halves.data());
  return halves;
}

class DenseWeightsDeviceTest : public testing::TestWithParam<Code> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

TEST_P(DenseWeightsDeviceTest, AreTheCodesIntegers) {
  const Code code = GetParam();
  const trellis::TileShape shape = ShapeOf(code);
  for (uint64_t tiles_across : {1, 8, 19}) {
    for (uint64_t tile_rows : {1, 5}) {
      const uint64_t cols = tiles_across * static_cast<uint64_t>(shape.columns);
      const uint64_t all_rows = tile_rows * static_cast<uint64_t>(shape.rows), rows = all_rows - 3;
      // Not all columns, or more than the codes have.
      const uint64_t stride = tiles_across == 1 ? 8 : (cols + 63) / 64 * 64;
      Random random(kSeed, "tiles", tiles_across);
      std::vector<uint8_t> tiles(tile_rows * tiles_across * static_cast<uint64_t>(shape.bytes()));
      for (uint8_t& byte : tiles) byte = static_cast<uint8_t>(random.NextU32());
      std::vector<uint8_t> units(CodesBytes(code, tile_rows, cols));
      PackCodes(code, tiles.data(), tile_rows, cols, units.data());
      const DeviceCopy<uint8_t> device_units(units);
      const DeviceCopy<uint16_t> out(std::vector<uint16_t>((rows + 1) * stride, kPoison));
      DenseWeightsArgs args;
      args.units = device_units.data(), args.units_down = UnitsDown(code, tile_rows);
      args.units_across = UnitsAcross(code, cols), args.out = out.data();
      args.rows = rows, args.stride = stride;
      ASSERT_EQ(LaunchDenseWeights(code, args, nullptr), cudaSuccess);
      const std::vector<uint16_t> actual = out.Host();
      for (uint64_t tile = 0; tile < tile_rows * tiles_across; ++tile) {
        const uint8_t* codes = &tiles[tile * static_cast<uint64_t>(shape.bytes())];
        for (int step = 0; step < shape.steps(); ++step) {
          const int lane = step / shape.windows, window = step % shape.windows;
          int values[4];
          trellis::DecodeState(code, trellis::StateAt(codes, code, step), values);
          const auto row = tile / tiles_across * static_cast<uint64_t>(shape.rows) +
                           static_cast<uint64_t>(trellis::TileRow(code, lane, window));
          for (int v = 0; v < code.values; ++v) {
            const auto column = tile % tiles_across * static_cast<uint64_t>(shape.columns) +
                                static_cast<uint64_t>(trellis::TileColumn(code, lane, window) + v);
            if (row >= rows || column >= stride) continue;
            ASSERT_EQ(FromHalf(actual[row * stride + column]),
                      kDenseUnit * static_cast<float>(values[v]))
                << "tile " << tile << " row " << row << " column " << column;
          }
        }
      }
      for (uint64_t i = rows * stride; i < actual.size(); ++i) ASSERT_EQ(actual[i], kPoison);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Codes, DenseWeightsDeviceTest, testing::ValuesIn(trellis::kMatmulCodes),
                         [](const auto& info) {
                           return fmt::format("V{}_k{}_L{}", info.param.values, info.param.bits,
                                              info.param.state_bits);
                         });

// Orders of block transforms, and how many blocks a row has: rows kept in registers and others.
struct Order {
  int m, log2;
  uint64_t blocks;
  uint64_t values() const { return blocks * static_cast<uint64_t>(m) << log2; }
};
constexpr Order kOrders[] = {{1, 0, 300}, {1, 5, 9},   {1, 7, 1},   {1, 7, 33},
                             {1, 7, 112}, {1, 7, 128}, {1, 7, 129}, {12, 3, 6},
                             {20, 2, 8},  {28, 4, 3},  {36, 4, 1}};

class DenseStepsDeviceTest : public testing::TestWithParam<Order> {
 protected:
  void SetUp() override {
    TQ_SKIP_WITHOUT_DEVICE();
    device_signs_.emplace(signs_);
  }

  uint64_t size() const { return GetParam().values(); }
  float hadamard_scale() const {
    return static_cast<float>(1 / std::sqrt(static_cast<double>(GetParam().m << GetParam().log2)));
  }
  HadamardShape shape() const {
    return {GetParam().m, GetParam().log2, device_signs_->data(), hadamard_scale()};
  }
  void Transform(float* x) const {
    HadamardTransform({x, size(), GetParam().m, GetParam().log2, signs_.data(), hadamard_scale()},
                      Isa::kReference);
  }
  static std::vector<float> Signs(int m) {
    Random random(kSeed, "signs", static_cast<uint64_t>(m));
    std::vector<float> signs(static_cast<size_t>(m * m));
    for (float& sign : signs) sign = static_cast<float>(random.NextSign());
    return signs;
  }

  const std::vector<float> signs_ = Signs(GetParam().m);
  std::optional<DeviceCopy<float>> device_signs_;
};

// What went into a product: x' [n][size].
std::vector<float> Input(const std::vector<uint16_t>& x, const std::vector<float>& scale,
                         uint64_t size, uint64_t stride) {
  std::vector<float> input;
  for (uint64_t row = 0; row < scale.size(); ++row) {
    for (uint64_t i = 0; i < stride; ++i) {
      const float value = FromHalf(x[row * stride + i]);
      if (i < size) {
        input.push_back(value * scale[row]);
      } else {
        EXPECT_EQ(value, 0) << "padding";
      }
    }
  }
  return input;
}
// To 2^-11 of each value, and to half precision's smallest steps below.
void ExpectRounded(const std::vector<float>& actual, const std::vector<float>& expected,
                   float smallest) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], std::abs(expected[i]) * 0x1.2p-11f + smallest) << i;
  }
}

TEST_P(DenseStepsDeviceTest, PrepareRotatesAndNormalises) {
  const uint64_t stride = (size() + 63) / 64 * 64;
  const std::vector<float> in_scale = Normal(size(), "in_scale");
  for (const float magnitude : {1.0f, 1e15f, 1e-15f}) {
    constexpr uint64_t kRows = 5;
    std::vector<float> x = Normal(kRows * size(), "x");
    for (float& value : x) value *= magnitude;
    std::fill_n(x.begin(), size(), 0.0f);  // the first row
    x[size() * 2 - 1] = std::numeric_limits<float>::infinity();
    // Squares that float does not hold: not finite, or nothing.
    for (uint64_t i = 0; i < size(); ++i) x[2 * size() + i] *= magnitude == 1 ? 1e20f : 1e-15f;
    if (magnitude > 1) std::fill_n(&x[2 * size()], size(), 1e-30f);
    const DeviceCopy<float> device_x(x), scale(std::vector<float>(kRows, -1.0f));
    const DeviceCopy<uint16_t> device_in_scale(Halves(in_scale));
    const DeviceCopy<uint16_t> out(std::vector<uint16_t>(kRows * stride, kPoison));
    const DenseInput to{size(), stride, device_in_scale.data(), shape(), out.data(), scale.data()};
    ASSERT_EQ(LaunchDensePrepare(device_x.data(), kRows, to, nullptr), cudaSuccess);
    std::vector<float> expected(kRows * size());
    for (uint64_t i = 0; i < expected.size(); ++i) {
      uint16_t half;
      transformer::FloatToHalf(&in_scale[i % size()], 1, &half);
      expected[i] = x[i] * FromHalf(half);
    }
    for (uint64_t row = 0; row < kRows; ++row) Transform(&expected[row * size()]);
    const std::vector<float> scales = scale.Host();
    EXPECT_EQ(scales[0], 0);
    EXPECT_TRUE(std::isnan(scales[1]));
    if (magnitude == 1) {
      EXPECT_TRUE(std::isnan(scales[2]));
    } else {
      EXPECT_EQ(scales[2], 0);
    }
    std::vector<uint16_t> halves = out.Host();
    expected.erase(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(3 * size()));
    halves.erase(halves.begin(), halves.begin() + static_cast<std::ptrdiff_t>(3 * stride));
    ExpectRounded(Input(halves, {scales[3], scales[4]}, size(), stride), expected,
                  magnitude * 1e-6f);
  }
}

TEST_P(DenseStepsDeviceTest, StepsBetweenProducts) {
  constexpr uint64_t kRows = 3;
  // A matrix of two segments behind another one in the rows of sums.
  const uint64_t before = 16, stride = (size() + before + 63) / 64 * 64;
  const uint64_t split = size() > 64 ? 64 : size();
  const std::vector<uint16_t> sums = Halves(Normal(kRows * stride, "sums"));
  // Gates of about 2, 10 and 0.5.
  const std::vector<float> scale = {0.03f, 0.15f, 0.008f};
  const std::vector<uint16_t> out_scale = Halves(Normal(size(), "out_scale"));
  std::vector<float> y(kRows * size());
  for (uint64_t row = 0; row < kRows; ++row) {
    for (uint64_t i = 0; i < size(); ++i) {
      const float weight_scale = i < split ? 0.25f : 0.125f;
      y[row * size() + i] =
          FromHalf(sums[row * stride + before + i]) * scale[row] * weight_scale / kDenseUnit;
    }
    Transform(&y[row * size()]);
    for (uint64_t i = 0; i < size(); ++i) y[row * size() + i] *= FromHalf(out_scale[i]);
  }
  const float largest = std::abs(*std::max_element(
      y.begin(), y.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));

  const DeviceCopy<uint16_t> device_sums(sums), device_out_scale(out_scale);
  const DeviceCopy<float> device_scale(scale);
  DenseOutput from;
  from.rows = size(), from.num_segments = split < size() ? 2 : 1;
  from.segments[0] = {0, 0.25f}, from.segments[1] = {split, 0.125f};
  from.out_scale = device_out_scale.data(), from.hadamard = shape();
  from.sums = device_sums.data() + before, from.stride = stride, from.scale = device_scale.data();
  const DeviceCopy<float> finished(std::vector<float>(kRows * size(), kNan));
  ASSERT_EQ(LaunchDenseFinish(from, kRows, finished.data(), nullptr), cudaSuccess);
  const std::vector<float> actual = finished.Host();
  for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(actual[i], y[i], largest * 1e-5f) << i;

  // Fused steps make what plain ones do.
  const uint64_t to_stride = (size() + 63) / 64 * 64;
  const DeviceCopy<uint16_t> in_scale(Halves(Normal(size(), "in_scale")));
  const DeviceCopy<uint16_t> plain_x(std::vector<uint16_t>(kRows * to_stride, kPoison));
  const DeviceCopy<uint16_t> fused_x(std::vector<uint16_t>(kRows * to_stride, kPoison));
  const DeviceCopy<float> plain_scale(std::vector<float>(kRows, -1.0f));
  const DeviceCopy<float> fused_scale(std::vector<float>(kRows, -1.0f));
  const DenseInput plain{size(),  to_stride,      in_scale.data(),
                         shape(), plain_x.data(), plain_scale.data()};
  const DenseInput fused{size(),  to_stride,      in_scale.data(),
                         shape(), fused_x.data(), fused_scale.data()};
  const auto expect_same = [&](const char* what) {
    const std::vector<float> expected =
        Input(plain_x.Host(), plain_scale.Host(), size(), to_stride);
    const std::vector<float> made = Input(fused_x.Host(), fused_scale.Host(), size(), to_stride);
    for (uint64_t row = 0; row < kRows; ++row) {
      double error = 0, sum = 0;
      for (uint64_t i = row * size(); i < (row + 1) * size(); ++i) {
        error += std::pow(made[i] - expected[i], 2.0);
        sum += std::pow(expected[i], 2.0);
      }
      EXPECT_LT(error, sum * 1e-7) << what << " row " << row;
    }
  };
  const DeviceCopy<float> x(Normal(kRows * size(), "x")), same_x(Normal(kRows * size(), "x"));
  const DeviceCopy<float> weight(Normal(size(), "weight"));
  const DeviceCopy<float> normed(std::vector<float>(kRows * size(), kNan));
  const DeviceCopy<uint32_t> bad(std::vector<uint32_t>{UINT32_MAX});
  NormArgs norm;
  norm.x = x.data(), norm.weight = weight.data(), norm.y = normed.data();
  norm.added = finished.data(), norm.n = kRows, norm.size = size(), norm.eps = 1e-5f;
  norm.first_bad = bad.data(), norm.place = 3;
  ASSERT_EQ(LaunchNorm(norm, nullptr), cudaSuccess);
  ASSERT_EQ(LaunchDensePrepare(normed.data(), kRows, plain, nullptr), cudaSuccess);
  DenseNormArgs fused_norm{from, norm, fused};
  fused_norm.norm.x = same_x.data();
  DenseOutput shifted = from;
  shifted.sums = device_sums.data();
  if (!CanKeepRow(plain) || !CanKeepRow(from)) {
    EXPECT_EQ(LaunchDenseNorm(fused_norm, nullptr), cudaErrorInvalidValue);
    EXPECT_EQ(LaunchDenseSilu({from, shifted, kRows, fused}, nullptr), cudaErrorInvalidValue);
    return;
  }
  ASSERT_EQ(LaunchDenseNorm(fused_norm, nullptr), cudaSuccess);
  expect_same("norm");
  EXPECT_EQ(same_x.Host(), x.Host());
  EXPECT_EQ(bad.Host()[0], UINT32_MAX);

  const DeviceCopy<float> up(std::vector<float>(kRows * size(), kNan));
  ASSERT_EQ(LaunchDenseFinish(from, kRows, finished.data(), nullptr), cudaSuccess);
  ASSERT_EQ(LaunchDenseFinish(shifted, kRows, up.data(), nullptr), cudaSuccess);
  ASSERT_EQ(LaunchSiluMultiply(finished.data(), up.data(), kRows * size(), nullptr), cudaSuccess);
  ASSERT_EQ(LaunchDensePrepare(finished.data(), kRows, plain, nullptr), cudaSuccess);
  ASSERT_EQ(LaunchDenseSilu({from, shifted, kRows, fused}, nullptr), cudaSuccess);
  expect_same("SiLU");
}

// Heads, KV heads, values of a head.
struct Heads {
  uint32_t heads, kv_heads, head_dim;
};
class DenseRopeDeviceTest : public testing::TestWithParam<Heads> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }
};

TEST_P(DenseRopeDeviceTest, TurnsAndStoresAsThePlainSteps) {
  const auto [heads, kv_heads, d] = GetParam();
  constexpr uint64_t kRows = 5, kBase = 9, kCapacity = 20;
  const uint64_t q_rows = heads * d, kv_rows = kv_heads * d, stride = q_rows + 2 * kv_rows;
  const DeviceCopy<uint16_t> sums(Halves(Normal(kRows * stride, "sums")));
  const DeviceCopy<uint16_t> out_scale(Halves(Normal(q_rows, "out_scale")));
  const DeviceCopy<float> scale({1, 2, 0.5f, 3, 4});
  const DeviceCopy<float> cosines(Normal(kRows * d / 2, "cos")),
      sines(Normal(kRows * d / 2, "sin"));
  const DeviceCopy<uint32_t> base({kBase});
  const auto output = [&](uint64_t first, uint64_t rows) {
    DenseOutput from;
    from.rows = rows, from.num_segments = 1, from.segments[0] = {0, 0.001f};
    from.out_scale = out_scale.data(), from.hadamard = {1, 7, nullptr, 1 / std::sqrt(128.0f)};
    from.sums = sums.data() + first, from.stride = stride, from.scale = scale.data();
    return from;
  };
  const DenseOutput outputs[] = {output(0, q_rows), output(q_rows, kv_rows),
                                 output(q_rows + kv_rows, kv_rows)};
  std::vector<float> queries[2];
  std::vector<uint16_t> keys[2], values[2];
  for (const int fused : {0, 1}) {
    const DeviceCopy<float> q(std::vector<float>(kRows * q_rows, kNan));
    const DeviceCopy<float> k(std::vector<float>(kRows * kv_rows, kNan));
    const DeviceCopy<float> v(std::vector<float>(kRows * kv_rows, kNan));
    const std::vector<uint16_t> empty(kv_rows * kCapacity, kPoison);
    const DeviceCopy<uint16_t> cached_keys(empty), cached_values(empty);
    RopeArgs rope;
    rope.queries = q.data(), rope.keys = k.data(), rope.values = v.data();
    rope.cosines = cosines.data(), rope.sines = sines.data(), rope.base = base.data();
    rope.n = kRows, rope.heads = heads, rope.kv_heads = kv_heads, rope.head_dim = d;
    rope.cache = {cached_keys.data(), cached_values.data(), kCapacity * d};
    if (fused == 1) {
      ASSERT_EQ(LaunchDenseRope({outputs[0], outputs[1], outputs[2], rope}, nullptr), cudaSuccess);
    } else {
      float* const y[] = {q.data(), k.data(), v.data()};
      for (int i : {0, 1, 2}) {
        ASSERT_EQ(LaunchDenseFinish(outputs[i], kRows, y[i], nullptr), cudaSuccess);
      }
      ASSERT_EQ(LaunchRope(rope, nullptr), cudaSuccess);
    }
    queries[fused] = q.Host(), keys[fused] = cached_keys.Host(),
    values[fused] = cached_values.Host();
  }
  EXPECT_EQ(queries[1], queries[0]);
  EXPECT_EQ(keys[1], keys[0]);
  EXPECT_EQ(values[1], values[0]);
}

INSTANTIATE_TEST_SUITE_P(Heads, DenseRopeDeviceTest,
                         testing::Values(Heads{8, 2, 64}, Heads{14, 2, 64}, Heads{4, 1, 128},
                                         Heads{32, 8, 128}),
                         [](const auto& info) {
                           return fmt::format("{}of{}x{}", info.param.heads, info.param.kv_heads,
                                              info.param.head_dim);
                         });

INSTANTIATE_TEST_SUITE_P(Orders, DenseStepsDeviceTest, testing::ValuesIn(kOrders),
                         [](const auto& info) {
                           return fmt::format("{}x2to{}x{}", info.param.m, info.param.log2,
                                              info.param.blocks);
                         });

}  // namespace
}  // namespace tq::cuda
