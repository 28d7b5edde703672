#include "codec/grouped_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "base/random.h"
#include "codec/dense_matmul.h"
#include "codec/grouped_matrix_for_test.h"
#include "codec/grouped_rounding.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using ::testing::HasSubstr;
using namespace tq::testing;  // NOLINT: the test support

std::vector<float> RandomWeights(size_t count, uint64_t seed, double sigma = 0.05) {
  Random random(seed, "grouped_matrix_test");
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(sigma * random.NextNormal());
  return values;
}

GroupedMatrix Quantize(const std::vector<float>& w, uint64_t rows, uint64_t cols, uint32_t bits,
                       uint32_t group_size) {
  InlineExecutor executor;
  auto matrix = QuantizeToNearest(w.data(), rows, cols, bits, group_size, executor);
  EXPECT_TRUE(matrix.ok()) << matrix.status().message();
  return *std::move(matrix);
}

std::vector<float> Decode(const GroupedMatrix& matrix) {
  std::vector<float> out(matrix.rows * matrix.cols);
  DecodeRows(matrix, 0, matrix.rows, out.data());
  return out;
}

// Half a step, and what rounding the zero point can clamp away at the ends.
void CheckErrors(const std::vector<float>& w, const GroupedMatrix& matrix) {
  const std::vector<float> decoded = Decode(matrix);
  const uint64_t groups = matrix.scale.shape()[1];
  for (uint64_t i = 0; i < w.size(); ++i) {
    const uint64_t at = i / matrix.cols * groups + i % matrix.cols / matrix.group_size;
    const double scale = HalfToFloat(matrix.scale.as<uint16_t>()[at]);
    const double zero = HalfToFloat(matrix.zero.as<uint16_t>()[at]);
    const double bound =
        scale * (0.5 + std::abs(zero) * 0x1p-11 + 0x1p-20) + std::abs(w[i]) * 0x1p-22;
    ASSERT_NEAR(decoded[i], w[i], bound) << "bits " << matrix.bits << " at " << i;
  }
}

TEST(GroupedMatrix, RoundsToNearestAtEveryWidth) {
  for (uint32_t bits = 2; bits <= 8; ++bits) {
    for (uint64_t cols : {1, 3, 16, 31, 32, 33, 64, 100}) {
      for (uint32_t group_size : {1, 7, 32, 128}) {
        const std::vector<float> w = RandomWeights(5 * cols, cols);
        const GroupedMatrix matrix = Quantize(w, 5, cols, bits, group_size);
        ASSERT_NO_FATAL_FAILURE(CheckErrors(w, matrix));
        EXPECT_EQ(matrix.num_bytes(),
                  5 * ((cols * bits + 7) / 8) + 5 * ((cols + group_size - 1) / group_size) * 4);
      }
    }
  }
}

TEST(GroupedMatrix, EightTimesTheErrorIsGoneWithThreeMoreBits) {
  const std::vector<float> w = RandomWeights(64 * 256, 3);
  const auto error = [&](uint32_t bits) {
    const std::vector<float> decoded = Decode(Quantize(w, 64, 256, bits, 32));
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) sum += std::pow(decoded[i] - w[i], 2.0);
    return std::sqrt(sum);
  };
  EXPECT_NEAR(error(3) / error(6), 63.0 / 7, 1.0);
}

TEST(GroupedMatrix, DegenerateGroups) {
  // Zeros, a constant, narrow but far from zero, denormals, large, one outlier.
  const uint64_t cols = 32;
  std::vector<float> w(7 * cols, 0.0f);
  for (uint64_t c = 0; c < cols; ++c) {
    w[1 * cols + c] = 0.7f;
    w[2 * cols + c] = -1.0f - 1e-6f * static_cast<float>(c);
    w[3 * cols + c] = 1e-42f * static_cast<float>(c);
    w[4 * cols + c] = 6e4f * static_cast<float>(c % 3) - 6e4f;
    w[5 * cols + c] = c == 9 ? 1000.0f : 1e-3f;
    w[6 * cols + c] = c % 2 == 0 ? -0.0f : 0.0f;
  }
  for (uint32_t bits : {2, 4, 8}) {
    const GroupedMatrix matrix = Quantize(w, 7, cols, bits, 32);
    ASSERT_NO_FATAL_FAILURE(CheckErrors(w, matrix));
    const std::vector<float> decoded = Decode(matrix);
    for (uint64_t c = 0; c < cols; ++c) {
      EXPECT_EQ(decoded[c], 0.0f);
      EXPECT_NEAR(decoded[1 * cols + c], 0.7, 0.7 * 0x1p-11);
      EXPECT_NEAR(decoded[2 * cols + c], w[2 * cols + c], 0x1p-10);
      EXPECT_LE(std::abs(decoded[3 * cols + c]), 1e-6f);
      EXPECT_EQ(decoded[6 * cols + c], 0.0f);
    }
  }
}

// Robustness case 42, case 44.
TEST(GroupedMatrix, RefusesWhatAScaleCannotHold) {
  std::vector<float> w = RandomWeights(40 * 64, 5);
  InlineExecutor executor;
  auto pool = *ThreadPool::Create(2);
  w[31 * 64 + 40] = -1e38f;
  w[17 * 64 + 3] = 3e6f;
  for (Executor* each : {static_cast<Executor*>(&executor), static_cast<Executor*>(pool.get())}) {
    const auto result = QuantizeToNearest(w.data(), 40, 64, 4, 32, *each);
    ASSERT_FALSE(result.ok());
    EXPECT_THAT(result.status().message(), HasSubstr("row 17 group 0"));
  }
  w[17 * 64 + 3] = std::numeric_limits<float>::quiet_NaN();
  const auto nan = QuantizeToNearest(w.data(), 40, 64, 4, 32, executor);
  ASSERT_FALSE(nan.ok());
  EXPECT_EQ(nan.status().code(), StatusCode::kDataLoss);
  EXPECT_THAT(nan.status().message(), HasSubstr("row 17 column 3"));
  w[17 * 64 + 3] = 0;
  w[31 * 64 + 40] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(QuantizeToNearest(w.data(), 40, 64, 4, 32, executor).status().message(),
              HasSubstr("row 31 column 40"));
}

TEST(GroupedMatrix, RefusesBadSizes) {
  const float w = 1;
  InlineExecutor executor;
  EXPECT_FALSE(QuantizeToNearest(&w, 0, 1, 4, 32, executor).ok());
  EXPECT_FALSE(QuantizeToNearest(&w, 1, 0, 4, 32, executor).ok());
  EXPECT_FALSE(QuantizeToNearest(&w, 1, 1, 1, 32, executor).ok());
  EXPECT_FALSE(QuantizeToNearest(&w, 1, 1, 9, 32, executor).ok());
  EXPECT_FALSE(QuantizeToNearest(&w, 1, 1, 4, 0, executor).ok());
  EXPECT_FALSE(QuantizeToNearest(&w, uint64_t{1} << 40, 1, 4, 32, executor).ok());
}

constexpr ZeroKind kAllZeros[] = {ZeroKind::kHalf, ZeroKind::kPacked, ZeroKind::kSymmetric};

Tensor LayoutTensor(std::span<const int32_t> ints) {
  return *Tensor::FromValues<int32_t>(DType::kI32, {ints.size()}, ints);
}

TEST(GroupedMatrix, DecodesEveryKind) {
  for (uint32_t bits = kTernaryBits; bits <= 8; ++bits) {
    for (uint64_t cols : {1, 3, 16, 31, 64, 100, 333}) {
      for (uint32_t group_size : {1, 7, 32, 128}) {
        for (ZeroKind zeros : kAllZeros) {
          for (bool ordered : {false, true}) {
            const GroupedMatrix matrix =
                RandomGrouped(MakeLayout(3, cols, bits, group_size, zeros, ordered), cols);
            ASSERT_EQ(Decode(matrix), Weights(matrix))
                << "bits " << bits << " cols " << cols << " group " << group_size;
          }
        }
      }
    }
  }
}

TEST(GroupedMatrix, CountsEveryByte) {
  const auto bytes = [](ZeroKind zeros, bool ordered) {
    return RandomGrouped(MakeLayout(6, 50, 3, 16, zeros, ordered), 1).num_bytes();
  };
  const uint64_t codes = 6 * 19, scales = 6 * 4 * 2;
  EXPECT_EQ(bytes(ZeroKind::kHalf, false), codes + 2 * scales);
  EXPECT_EQ(bytes(ZeroKind::kPacked, false), codes + scales + 6 * 2);
  EXPECT_EQ(bytes(ZeroKind::kSymmetric, false), codes + scales);
  EXPECT_EQ(bytes(ZeroKind::kSymmetric, true), codes + scales + 50 * 4);
  EXPECT_EQ(RandomGrouped(MakeLayout(6, 51, kTernaryBits, 16), 1).num_bytes(), 6 * 11 + scales);
}

// The first format must stay what old files have.
TEST(GroupedMatrix, LayoutRoundTrip) {
  for (ZeroKind zeros : kAllZeros) {
    for (bool ordered : {false, true}) {
      const GroupedMatrix matrix = RandomGrouped(MakeLayout(6, 50, 3, 16, zeros, ordered), 6);
      const std::vector<int32_t> ints = LayoutToInts(matrix);
      if (zeros == ZeroKind::kHalf && !ordered) {
        EXPECT_THAT(ints, ::testing::ElementsAre(1, 2, 6, 50, 3, 16));
      } else {
        EXPECT_THAT(ints, ::testing::ElementsAre(2, 2, 6, 50, 3, 16, static_cast<int>(zeros),
                                                 ordered ? 1 : 0));
      }
      const auto layout = GroupedLayoutFromTensor(LayoutTensor(ints));
      ASSERT_TRUE(layout.ok()) << layout.status().message();
      const auto parsed = MakeGroupedMatrix(*layout, matrix);
      ASSERT_TRUE(parsed.ok()) << parsed.status().message();
      EXPECT_EQ(Decode(*parsed), Decode(matrix));
    }
  }
}

TEST(GroupedMatrix, TernaryLayoutRoundTrip) {
  const GroupedMatrix matrix = RandomGrouped(MakeLayout(6, 50, kTernaryBits, 16), 6);
  const std::vector<int32_t> ints = LayoutToInts(matrix);
  EXPECT_THAT(ints, ::testing::ElementsAre(1, 3, 6, 50, 16));
  const auto layout = GroupedLayoutFromTensor(LayoutTensor(ints));
  ASSERT_TRUE(layout.ok()) << layout.status().message();
  EXPECT_TRUE(layout->ternary());
  EXPECT_EQ(layout->rate(), 1.6);
  const auto parsed = MakeGroupedMatrix(*layout, matrix);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  EXPECT_EQ(Decode(*parsed), Decode(matrix));
}

// Robustness case 42.
TEST(GroupedMatrix, TernaryMatricesThatLie) {
  const GroupedLayout good = MakeLayout(6, 50, kTernaryBits, 16);
  const auto parse = [&](const std::vector<int32_t>& ints) {
    const auto layout = GroupedLayoutFromTensor(LayoutTensor(ints));
    return layout.ok() ? MakeGroupedMatrix(*layout, RandomTensors(good, 7)).status().message()
                       : layout.status().message();
  };
  EXPECT_EQ(parse({1, 3, 6, 50, 16}), "");
  EXPECT_THAT(parse({2, 3, 6, 50, 16}), HasSubstr("format of ternary codes = 2"));
  EXPECT_THAT(parse({1, 3, 6, 50, 16, 2}), HasSubstr("layout is I32 [6]"));
  EXPECT_THAT(parse({1, 3}), HasSubstr("layout is I32 [2]"));
  EXPECT_THAT(parse({1, 3, 0, 50, 16}), HasSubstr("rows = 0"));
  EXPECT_THAT(parse({1, 3, 6, -50, 16}), HasSubstr("cols = -50"));
  EXPECT_THAT(parse({1, 3, 6, 50, 0}), HasSubstr("group_size = 0"));
  EXPECT_THAT(parse({1, 3, 6, 50, 1 << 20}), HasSubstr("group_size = 1048576"));
  EXPECT_THAT(parse({1, 3, 6, 51, 16}), HasSubstr("codes is U8 [6, 10]"));
  EXPECT_THAT(parse({1, 3, INT32_MAX, INT32_MAX, 1}), HasSubstr("codes"));
  EXPECT_THAT(parse({1, 3, 6, 50, 8}), HasSubstr("scale is F16 [6, 4]"));
  EXPECT_THAT(parse({2, 2, 6, 50, 1, 16, 2, 0}), HasSubstr("bits = 1, must be 2 to 8"));

  const auto message = [&](const auto& damage) {
    GroupedLayout layout = good;
    GroupedTensors tensors = RandomTensors(good, 7);
    damage(layout, tensors);
    return MakeGroupedMatrix(layout, std::move(tensors)).status().message();
  };
  const auto scale = [](uint16_t half) {
    return [half](auto&, auto& t) { t.scale.template mutable_as<uint16_t>()[9] = half; };
  };
  EXPECT_EQ(message([](auto&, auto&) {}), "");
  EXPECT_THAT(message([](auto&, auto& t) { t.codes.mutable_data()[37] = 20; }),
              HasSubstr("byte 7 of row 3 is 0x14"));
  EXPECT_THAT(message(scale(0)), HasSubstr("scale of row 2 group 1 is 0, must be above 0"));
  EXPECT_THAT(message(scale(0x9C00)), HasSubstr("must be above 0"));
  EXPECT_THAT(message(scale(0x7C00)), HasSubstr("scale of row 2 group 1 is not finite"));
  EXPECT_THAT(message([](auto&, auto& t) {
                t.zero = *Tensor::Zeros(DType::kF16, {6, 4});
              }),
              HasSubstr("the layout has none"));
  EXPECT_THAT(message([](auto& l, auto&) { l.zeros = ZeroKind::kHalf; }),
              HasSubstr("have no zeros"));
  EXPECT_THAT(message([](auto& l, auto&) { l.ordered = true; }), HasSubstr("no order of columns"));
}

TEST(GroupedMatrix, LayoutsThatLie) {
  const GroupedMatrix good = Quantize(RandomWeights(6 * 50, 7), 6, 50, 3, 16);
  const auto parse = [&](const std::vector<int32_t>& ints) {
    const auto layout = GroupedLayoutFromTensor(LayoutTensor(ints));
    return layout.ok() ? MakeGroupedMatrix(*layout, good).status().message()
                       : layout.status().message();
  };
  EXPECT_EQ(parse({1, 2, 6, 50, 3, 16}), "");
  EXPECT_EQ(parse({2, 2, 6, 50, 3, 16, 0, 0}), "");
  EXPECT_THAT(parse({3, 2, 6, 50, 3, 16, 0, 0}), HasSubstr("format = 3"));
  EXPECT_THAT(parse({2, 2, 6, 50, 3, 16}), HasSubstr("format = 2, but layout has 6"));
  EXPECT_THAT(parse({1, 2, 6, 50, 3, 16, 0, 0}), HasSubstr("format = 1, but layout has 8"));
  EXPECT_THAT(parse({1, 1, 6, 50, 3, 16}), HasSubstr("code = 1"));
  EXPECT_THAT(parse({1, 2, -6, 50, 3, 16}), HasSubstr("rows = -6"));
  EXPECT_THAT(parse({1, 2, 6, 0, 3, 16}), HasSubstr("cols = 0"));
  EXPECT_THAT(parse({1, 2, 6, 50, 9, 16}), HasSubstr("bits = 9"));
  EXPECT_THAT(parse({1, 2, 6, 50, 1, 16}), HasSubstr("bits = 1"));
  EXPECT_THAT(parse({1, 2, 6, 50, 3, 0}), HasSubstr("group_size = 0"));
  EXPECT_THAT(parse({1, 2, 6, 50, 3, 1 << 30}), HasSubstr("group_size = 1073741824"));
  EXPECT_THAT(parse({2, 2, 6, 50, 3, 16, 3, 0}), HasSubstr("zeros = 3"));
  EXPECT_THAT(parse({2, 2, 6, 50, 3, 16, -1, 0}), HasSubstr("zeros = -1"));
  EXPECT_THAT(parse({2, 2, 6, 50, 3, 16, 0, 2}), HasSubstr("ordered = 2"));
  EXPECT_THAT(parse({1, 2, 7, 50, 3, 16}), HasSubstr("codes"));
  EXPECT_THAT(parse({1, 2, INT32_MAX, INT32_MAX, 8, 1}), HasSubstr("codes"));
  EXPECT_THAT(parse({1, 2, 6, 50, 3, 8}), HasSubstr("scale"));
  EXPECT_THAT(parse({2, 2, 6, 50, 3, 16, 1, 0}), HasSubstr("zero is F16 [6, 4]"));
  EXPECT_THAT(parse({2, 2, 6, 50, 3, 16, 2, 0}), HasSubstr("zero is F16 [6, 4]"));
  EXPECT_THAT(parse({2, 2, 6, 50, 3, 16, 0, 1}), HasSubstr("order is"));
  EXPECT_THAT(parse({1, 2, 6, 50, 3}), HasSubstr("layout"));
  EXPECT_THAT(parse({1, 2, 6, 50, 3, 16, 0}), HasSubstr("layout"));
}

TEST(GroupedMatrix, TensorsThatLie) {
  const GroupedLayout layout = MakeLayout(6, 50, 3, 16, ZeroKind::kHalf, true);
  const auto message = [&](const auto& damage) {
    GroupedLayout used = layout;
    GroupedTensors tensors = RandomTensors(layout, 7);
    damage(used, tensors);
    return MakeGroupedMatrix(used, std::move(tensors)).status().message();
  };
  EXPECT_EQ(message([](auto&, auto&) {}), "");
  EXPECT_THAT(message([](auto&, auto& t) {
                t.zero = *Tensor::Zeros(DType::kBF16, {6, 4});
              }),
              HasSubstr("zero is BF16"));
  EXPECT_THAT(message([](auto&, auto& t) { t.scale.template mutable_as<uint16_t>()[9] = 0x7C00; }),
              HasSubstr("scale of row 2 group 1"));
  EXPECT_THAT(message([](auto&, auto& t) { t.zero.template mutable_as<uint16_t>()[9] = 0x7E00; }),
              HasSubstr("zero of row 2 group 1"));
  EXPECT_THAT(message([](auto&, auto& t) { t.order.template mutable_as<int32_t>()[3] = 50; }),
              HasSubstr("order[3] = 50, must be 0 to 49"));
  EXPECT_THAT(message([](auto&, auto& t) { t.order.template mutable_as<int32_t>()[3] = -1; }),
              HasSubstr("order[3] = -1"));
  EXPECT_THAT(message([](auto&, auto& t) {
                auto* order = t.order.template mutable_as<int32_t>();
                order[49] = order[0];
              }),
              HasSubstr("which is there twice"));
  EXPECT_THAT(message([](auto&, auto& t) { t.order = *Tensor::Zeros(DType::kI32, {49}); }),
              HasSubstr("order is I32 [49]"));
  EXPECT_THAT(message([](auto& l, auto&) { l.ordered = false; }),
              HasSubstr("order is I32 [50], the layout has none"));
  EXPECT_THAT(message([](auto& l, auto&) { l.zeros = static_cast<ZeroKind>(3); }),
              HasSubstr("zeros = 3"));
  EXPECT_THAT(message([](auto& l, auto&) { l.rows = 0; }), HasSubstr("rows = 0"));
  EXPECT_THAT(message([](auto& l, auto&) { l.cols = 0; }), HasSubstr("cols = 0"));
  EXPECT_THAT(message([](auto& l, auto&) { l.group_size = 0; }), HasSubstr("group_size = 0"));
}

TEST(GroupedMatmul, IsTheDenseProductOfTheDecodedRows) {
  const uint64_t rows = 131, cols = 96;
  const std::vector<float> w = RandomWeights(rows * cols, 8);
  const GroupedMatrix matrix = Quantize(w, rows, cols, 4, 32);
  const std::vector<float> decoded = Decode(matrix);
  InlineExecutor here;
  auto pool = *ThreadPool::Create(3);
  for (uint64_t n : {1, 2, 17}) {
    const std::vector<float> x = RandomWeights(n * cols, n, 1.0);
    std::vector<float> dense(n * rows), grouped(n * rows), parallel(n * rows);
    DenseMatmul(x.data(), n, cols, decoded.data(), rows, here, dense.data());
    GroupedMatmul(matrix, x.data(), n, here, grouped.data());
    GroupedMatmul(matrix, x.data(), n, *pool, parallel.data());
    EXPECT_EQ(grouped, dense);
    EXPECT_EQ(parallel, dense);
  }
}

}  // namespace
}  // namespace tq
