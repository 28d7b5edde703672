#include "checkpoint/gguf_encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "../../tests/support/gguf_reader.h"
#include "base/random.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support

constexpr GgufEncoding kAll[] = {GgufEncoding::kF32,  GgufEncoding::kF16,  GgufEncoding::kBF16,
                                 GgufEncoding::kQ8_0, GgufEncoding::kQ6_K, GgufEncoding::kQ5_0,
                                 GgufEncoding::kQ4_K};
constexpr GgufEncoding kBlocked[] = {GgufEncoding::kQ8_0, GgufEncoding::kQ6_K, GgufEncoding::kQ5_0,
                                     GgufEncoding::kQ4_K};

std::string Name(GgufEncoding type) { return GgufTypeName(static_cast<uint32_t>(type)); }

std::vector<float> RoundTrip(GgufEncoding type, const std::vector<float>& x) {
  const GgufBlocks format = BlocksOf(type);
  TQ_CHECK(x.size() % format.values == 0);
  const uint64_t blocks = x.size() / format.values;
  std::vector<uint8_t> bytes(blocks * format.bytes + 1, 0xA5);
  const Status status = EncodeBlocks(type, x.data(), blocks, bytes.data());
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(bytes.back(), 0xA5) << Name(type);
  return DecodeGgml(static_cast<uint32_t>(type), bytes.data(), x.size());
}

std::vector<float> Normal(size_t n, double sigma, double mean = 0) {
  Random random(3, "encode");
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(mean + sigma * random.NextNormal());
  return x;
}

// RMS of the error over RMS of the values.
double RelativeError(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
    power += double{x[i]} * x[i];
  }
  return std::sqrt(error / power);
}

double LargestError(const std::vector<float>& x, const std::vector<float>& y) {
  double largest = 0;
  for (size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(double{x[i]} - y[i]));
  return largest;
}

TEST(GgufEncode, BlocksAreThoseOfTheFormat) {
  const std::pair<uint64_t, uint64_t> sizes[] = {{1, 4},     {1, 2},   {1, 2},    {32, 34},
                                                 {256, 210}, {32, 22}, {256, 144}};
  for (size_t i = 0; i < std::size(kAll); ++i) {
    EXPECT_EQ(BlocksOf(kAll[i]).values, sizes[i].first) << Name(kAll[i]);
    EXPECT_EQ(BlocksOf(kAll[i]).bytes, sizes[i].second) << Name(kAll[i]);
  }
}

// Bounds are what these values lose, and 2 % more.
TEST(GgufEncode, ErrorOfGaussianValues) {
  const std::vector<float> x = Normal(1 << 16, 0.02);
  const std::pair<GgufEncoding, double> bounds[] = {
      {GgufEncoding::kF32, 0},        {GgufEncoding::kF16, 2.11e-4},
      {GgufEncoding::kBF16, 1.69e-3}, {GgufEncoding::kQ8_0, 5.46e-3},
      {GgufEncoding::kQ6_K, 1.72e-2}, {GgufEncoding::kQ5_0, 4.09e-2},
      {GgufEncoding::kQ4_K, 7.14e-2}};
  for (const auto& [type, bound] : bounds) {
    const double error = RelativeError(x, RoundTrip(type, x));
    EXPECT_LE(error, bound) << Name(type);
    EXPECT_GE(error, 0.95 * bound) << Name(type) << ": the bound could be tighter";
  }
}

// Values of one sign: Q4_K has a minimum for those below zero, and does without it above, where
// levels span 0 to 0.36.
TEST(GgufEncode, ErrorOfShiftedValues) {
  for (const double mean : {-0.3, 0.3}) {
    const std::vector<float> x = Normal(1 << 14, 0.02, mean);
    EXPECT_LE(RelativeError(x, RoundTrip(GgufEncoding::kQ4_K, x)), mean < 0 ? 0.018 : 0.026);
  }
}

// Half a step of 1 / 127 of a block's largest magnitude.
TEST(GgufEncode, Q8IsNearestWithinHalfAStep) {
  for (const double sigma : {1e-6, 1e-3, 1.0, 100.0}) {
    const std::vector<float> x = Normal(1 << 12, sigma), y = RoundTrip(GgufEncoding::kQ8_0, x);
    for (size_t b = 0; b < x.size(); b += 32) {
      double largest = 0;
      for (size_t i = b; i < b + 32; ++i) largest = std::max(largest, std::abs(double{x[i]}));
      // A step in half precision: 2^-11 above at most, or 2^-24.
      const double step = std::max(largest / 127 * (1 + 0x1p-10), largest / 127 + 0x1p-24);
      for (size_t i = b; i < b + 32; ++i) {
        EXPECT_LE(std::abs(double{x[i]} - y[i]), 0.5001 * step) << sigma << " " << i;
      }
    }
  }
}

// Robustness case 43.
TEST(GgufEncode, ZerosStayZeros) {
  for (const GgufEncoding type : kAll) {
    EXPECT_THAT(RoundTrip(type, std::vector<float>(512, 0)), ::testing::Each(0)) << Name(type);
  }
  // A run of zeros among others.
  std::vector<float> x = Normal(256, 1);
  std::fill(x.begin() + 64, x.begin() + 96, 0.0f);
  for (const GgufEncoding type : kBlocked) {
    const std::vector<float> y = RoundTrip(type, x);
    for (int i = 64; i < 96; ++i) EXPECT_EQ(y[i], 0) << Name(type);
  }
}

TEST(GgufEncode, ConstantBlocks) {
  for (const float value : {0.25f, -0.25f, 1e-3f, -7.0f}) {
    const std::vector<float> x(256, value);
    for (const GgufEncoding type : kBlocked) {
      EXPECT_LE(RelativeError(x, RoundTrip(type, x)), 4e-3) << Name(type) << " of " << value;
    }
  }
}

// One value of 1000 among values near 1: it is kept, and the error of the others is bounded by the
// step that it forces on its run.
TEST(GgufEncode, SingleOutlier) {
  for (const GgufEncoding type : kBlocked) {
    for (const float outlier : {1000.0f, -1000.0f}) {
      std::vector<float> x = Normal(256, 1);
      x[37] = outlier;
      const std::vector<float> y = RoundTrip(type, x);
      EXPECT_NEAR(y[37], outlier, 30) << Name(type);
      const double steps = type == GgufEncoding::kQ8_0   ? 127
                           : type == GgufEncoding::kQ6_K ? 31
                           : type == GgufEncoding::kQ5_0 ? 15
                                                         : 14;
      EXPECT_LE(LargestError(x, y), 1000 / steps * 0.6) << Name(type);
      // Another run of the super-block loses what the coarser unit of its scale costs.
      double other = 0;
      for (int i = 128; i < 256; ++i) other = std::max(other, std::abs(double{x[i]} - y[i]));
      EXPECT_LE(other, 4.0) << Name(type);
    }
  }
}

// Robustness case 44: denormals, and all magnitudes on the way to them, vanish without harm.
TEST(GgufEncode, TinyValues) {
  for (const float scale : {1e-3f, 1e-5f, 1e-7f, 1e-10f, 1e-20f, 1e-38f, 1e-44f}) {
    std::vector<float> x = Normal(256, 1);
    for (float& v : x) v *= scale;
    for (const GgufEncoding type : kAll) {
      const std::vector<float> y = RoundTrip(type, x);
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_TRUE(std::isfinite(y[i])) << Name(type) << " " << scale;
      }
      // No worse than to drop them all, but for what the smallest half stands for.
      EXPECT_LE(LargestError(x, y), 4 * scale + 0x1p-24) << Name(type) << " " << scale;
    }
  }
}

// Robustness case 44: what a type does not hold is refused.
TEST(GgufEncode, HugeValues) {
  std::vector<float> x = Normal(512, 1);
  for (const float huge : {65504.0f, -65504.0f}) {
    x[300] = huge;
    for (const GgufEncoding type : kAll) {
      EXPECT_NEAR(RoundTrip(type, x)[300], huge, 65504 * 0.03) << Name(type);
    }
  }
  std::vector<uint8_t> bytes(4 * x.size());
  const auto encode = [&](GgufEncoding type) {
    return EncodeBlocks(type, x.data(), x.size() / BlocksOf(type).values, bytes.data());
  };
  for (const float huge : {65536.0f, 1e38f, -1e38f, std::numeric_limits<float>::max()}) {
    x[300] = huge;
    for (const GgufEncoding type : kAll) {
      const bool wide = type == GgufEncoding::kF32 || (type == GgufEncoding::kBF16 && huge < 2e38f);
      if (wide) {
        EXPECT_NEAR(RoundTrip(type, x)[300], huge, std::abs(huge) * 0x1p-8) << Name(type);
      } else {
        EXPECT_THAT(encode(type), Fails(StatusCode::kInvalidArgument, "element 300", Name(type)));
      }
    }
  }
}

// Blocks stand alone: the same bytes wherever they are.
TEST(GgufEncode, BlocksStandAlone) {
  const std::vector<float> x = Normal(1024, 1);
  for (const GgufEncoding type : kAll) {
    const GgufBlocks format = BlocksOf(type);
    const uint64_t blocks = x.size() / format.values;
    std::vector<uint8_t> all(blocks * format.bytes), one(format.bytes);
    ASSERT_TRUE(EncodeBlocks(type, x.data(), blocks, all.data()).ok());
    for (uint64_t b = 0; b < blocks; ++b) {
      ASSERT_TRUE(EncodeBlocks(type, &x[b * format.values], 1, one.data()).ok());
      EXPECT_TRUE(std::equal(one.begin(), one.end(), &all[b * format.bytes])) << Name(type);
    }
  }
}

}  // namespace
}  // namespace tq
