#include "kernels/transformer/elementwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/isa.h"

namespace tq::transformer {
namespace {

constexpr size_t kSizes[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 576};
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class ElementwiseTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam())) GTEST_SKIP() << IsaName(GetParam()) << " is not supported here";
  }
  const ElementwiseKernels& kernels() const { return ElementwiseFor(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Levels, ElementwiseTest,
                         testing::Values(Isa::kReference, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& param_info) {
                           return std::string(IsaName(param_info.param));
                         });

std::vector<float> RandomFloats(size_t count, uint64_t seed, double sigma = 1) {
  Random random(seed, "elementwise_test");
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(sigma * random.NextNormal());
  return values;
}

double Ulp(double value) {
  const float size = std::max(static_cast<float>(std::abs(value)), 0x1p-126f);
  return std::ldexp(1.0, std::ilogb(size) - 23);
}

TEST_P(ElementwiseTest, ExpIsAccurateOverItsRange) {
  // Every 509th float from the smallest to beyond overflow, both signs.
  std::vector<float> x, y;
  double worst = 0;
  const auto flush = [&] {
    y.resize(x.size());
    kernels().exp(x.data(), x.size(), y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      if (exact >= 0x1.ffffffp127) {
        ASSERT_EQ(y[i], kInf) << x[i];
      } else {
        worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / Ulp(exact));
      }
    }
    x.clear();
  };
  for (uint32_t bits = 0; bits <= std::bit_cast<uint32_t>(200.0f); bits += 509) {
    x.push_back(std::bit_cast<float>(bits));
    x.push_back(-std::bit_cast<float>(bits));
    if (x.size() >= 4096) flush();
  }
  flush();
  EXPECT_LE(worst, 1.1);
}

TEST_P(ElementwiseTest, ExpOfSpecialValues) {
  const std::vector<float> x = {-kInf,   kInf,   kNan,  0.0f,     -0.0f,   89.0f,
                                -104.0f, -1e38f, 1e38f, 88.7228f, -200.0f, -103.0f};
  std::vector<float> y(x.size());
  kernels().exp(x.data(), x.size(), y.data());
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_EQ(y[1], kInf);
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_EQ(y[3], 1.0f);
  EXPECT_EQ(y[4], 1.0f);
  EXPECT_EQ(y[5], kInf);
  EXPECT_EQ(y[6], 0.0f);
  EXPECT_EQ(y[7], 0.0f);
  EXPECT_EQ(y[8], kInf);
  EXPECT_LT(y[9], kInf);
  EXPECT_EQ(y[10], 0.0f);
  EXPECT_EQ(y[11], std::numeric_limits<float>::denorm_min());
}

TEST_P(ElementwiseTest, RmsNorm) {
  for (size_t width : kSizes) {
    const size_t rows = 3;
    const std::vector<float> x = RandomFloats(rows * width, width), w = RandomFloats(width, 7);
    std::vector<float> out(rows * width), in_place = x;
    kernels().rms_norm(x.data(), rows, width, w.data(), 1e-5f, out.data());
    kernels().rms_norm(in_place.data(), rows, width, w.data(), 1e-5f, in_place.data());
    EXPECT_EQ(out, in_place);
    for (size_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (size_t i = 0; i < width; ++i) sum += std::pow(x[row * width + i], 2.0);
      const double scale = 1 / std::sqrt(sum / static_cast<double>(width) + 1e-5f);
      for (size_t i = 0; i < width; ++i) {
        const double exact = x[row * width + i] * scale * w[i];
        const double bound = (static_cast<double>(width) / 64 + 12) * 0x1p-24 * std::abs(exact);
        ASSERT_NEAR(out[row * width + i], exact, bound) << width;
      }
    }
  }
}

TEST_P(ElementwiseTest, RmsNormOfZerosIsZero) {
  std::vector<float> x(20, 0.0f), w(20, 2.0f), out(20, 9.0f);
  kernels().rms_norm(x.data(), 1, 20, w.data(), 1e-5f, out.data());
  EXPECT_EQ(out, x);
}

TEST_P(ElementwiseTest, RopeRotatesHalfSplitPairs) {
  for (size_t dim : {2, 6, 16, 30, 64, 66, 128}) {
    const size_t heads = 3, half = dim / 2;
    std::vector<float> cos(half), sin(half);
    std::vector<double> frequencies(half);
    for (size_t i = 0; i < half; ++i) {
      frequencies[i] = std::pow(100000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    }
    RopeTable(12345, frequencies.data(), half, cos.data(), sin.data());
    const std::vector<float> x = RandomFloats(heads * dim, dim);
    std::vector<float> y = x;
    kernels().rope(y.data(), heads, dim, cos.data(), sin.data());
    for (size_t head = 0; head < heads; ++head) {
      for (size_t i = 0; i < half; ++i) {
        const double a = x[head * dim + i], b = x[head * dim + half + i];
        const double angle =
            12345 * std::pow(100000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const double bound = (std::abs(a) + std::abs(b)) * 0x1p-22;
        ASSERT_NEAR(y[head * dim + i], a * std::cos(angle) - b * std::sin(angle), bound);
        ASSERT_NEAR(y[head * dim + half + i], b * std::cos(angle) + a * std::sin(angle), bound);
      }
    }
  }
}

TEST_P(ElementwiseTest, SiluMultiply) {
  for (size_t n : kSizes) {
    const std::vector<float> gate = RandomFloats(n, n, 10), up = RandomFloats(n, n + 1);
    std::vector<float> out(n);
    kernels().silu_multiply(gate.data(), up.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) {
      const double g = gate[i], exact = g / (1 + std::exp(-g)) * up[i];
      ASSERT_NEAR(out[i], exact, std::abs(exact) * 5 * 0x1p-24) << g;
    }
  }
  const std::vector<float> gate = {-200, 200, kNan}, up = {1, 1, 1};
  std::vector<float> out(3);
  kernels().silu_multiply(gate.data(), up.data(), 3, out.data());
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 200.0f);
  EXPECT_TRUE(std::isnan(out[2]));
}

TEST_P(ElementwiseTest, GeluMultiply) {
  const double root = std::sqrt(2 / 3.14159265358979323846);
  for (size_t n : kSizes) {
    const std::vector<float> gate = RandomFloats(n, n, 3), up = RandomFloats(n, n + 1);
    std::vector<float> out(n);
    kernels().gelu_multiply(gate.data(), up.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) {
      const double g = gate[i], u = root * (g + 0.044715 * g * g * g);
      const double exact = 0.5 * g * (1 + std::tanh(u)) * up[i];
      // tanh near -1 cancels in the expected value.
      const double bound = (8 + 4 * std::abs(u)) * 0x1p-24 * std::abs(exact) + 1e-15 * std::abs(g);
      ASSERT_NEAR(out[i], exact, bound) << g;
    }
  }
  const std::vector<float> gate = {-50, 50, kNan}, up = {1, 1, 1};
  std::vector<float> out(3);
  kernels().gelu_multiply(gate.data(), up.data(), 3, out.data());
  EXPECT_NEAR(out[0], 0.0f, 1e-36f);
  EXPECT_EQ(out[1], 50.0f);
  EXPECT_TRUE(std::isnan(out[2]));
}

TEST(Elementwise, ReluSquaredMultiply) {
  const std::vector<float> gate = {-3, 0, 1.5f, kNan}, up = {2, 2, -2, 1};
  std::vector<float> out(4, 9.0f);
  ReluSquaredMultiply(gate.data(), up.data(), 4, out.data());
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], -4.5f);
  EXPECT_TRUE(std::isnan(out[3]));
}

TEST_P(ElementwiseTest, SoftCap) {
  for (const float cap : {0.5f, 30.0f, 50.0f}) {
    for (size_t n : kSizes) {
      const std::vector<float> x = RandomFloats(n, n, 40);
      std::vector<float> y = x;
      kernels().soft_cap(y.data(), n, cap);
      for (size_t i = 0; i < n; ++i) {
        const double wide = cap;
        ASSERT_NEAR(y[i], wide * std::tanh(x[i] / wide), wide * 0x1p-20) << x[i];
      }
    }
  }
  std::vector<float> x = {-1e30f, 1e30f, kNan};
  kernels().soft_cap(x.data(), 3, 30.0f);
  EXPECT_EQ(x[0], -30.0f);
  EXPECT_EQ(x[1], 30.0f);
  EXPECT_TRUE(std::isnan(x[2]));
}

TEST_P(ElementwiseTest, Softmax) {
  for (size_t width : kSizes) {
    const std::vector<float> x = RandomFloats(2 * width, width, 5);
    std::vector<float> y = x;
    kernels().softmax(y.data(), 2, width);
    for (size_t row = 0; row < 2; ++row) {
      const float* from = x.data() + row * width;
      const double max = *std::max_element(from, from + width);
      double sum = 0;
      for (size_t i = 0; i < width; ++i) sum += std::exp(from[i] - max);
      for (size_t i = 0; i < width; ++i) {
        // The rounded difference, exp, the sum (a chain per lane) and the quotient.
        const double exact = std::exp(from[i] - max) / sum;
        const double bound = (max - from[i] + static_cast<double>(width) / 16 + 16) * 0x1p-24;
        ASSERT_NEAR(y[row * width + i], exact, exact * bound) << width;
      }
    }
  }
  std::vector<float> masked = {-kInf, 3.0f, -kInf};
  kernels().softmax(masked.data(), 1, 3);
  EXPECT_EQ(masked, (std::vector<float>{0, 1, 0}));
  std::vector<float> bad = {1.0f, kNan, 2.0f};
  kernels().softmax(bad.data(), 1, 3);
  EXPECT_TRUE(std::isnan(bad[0]) && std::isnan(bad[1]) && std::isnan(bad[2]));
}

TEST_P(ElementwiseTest, AddToTouchesNothingBeyond) {
  for (size_t n : kSizes) {
    const std::vector<float> x = RandomFloats(n + 1, n), y = RandomFloats(n + 1, n + 1);
    std::vector<float> sum = x;
    kernels().add_to(sum.data(), y.data(), n);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(sum[i], x[i] + y[i]);
    EXPECT_EQ(sum[n], x[n]);
  }
}

TEST_P(ElementwiseTest, EveryHalf) {
  std::vector<uint16_t> halves(65536), back(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(65536);
  kernels().half_to_float(halves.data(), halves.size(), floats.data());
  kernels().float_to_half(floats.data(), floats.size(), back.data());
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint32_t exponent = (i >> 10) & 31, fraction = i & 1023;
    const double sign = i >> 15 ? -1 : 1;
    if (exponent == 31 && fraction != 0) {
      ASSERT_TRUE(std::isnan(floats[i]));
      ASSERT_EQ(back[i], i | 0x200);  // made quiet, payload kept
      continue;
    }
    const double exact = exponent == 31 ? HUGE_VAL
                         : exponent == 0
                             ? std::ldexp(fraction, -24)
                             : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    ASSERT_EQ(floats[i], sign * exact);
    ASSERT_EQ(back[i], i);
  }
}

TEST_P(ElementwiseTest, FloatToHalfRoundsToNearestEven) {
  std::vector<float> x;
  // Every half, the midpoint after it, and the neighbours of both; then random bits.
  for (uint32_t i = 0; i < 0x7C00; ++i) {
    const auto half = static_cast<uint16_t>(i);
    const uint16_t next = static_cast<uint16_t>(i + 1);
    float a = 0, b = 0;
    kernels().half_to_float(&half, 1, &a);
    kernels().half_to_float(&next, 1, &b);
    const float middle = i + 1 < 0x7C00 ? (a + b) / 2 : 65520.0f;
    for (float v : {a, middle}) {
      x.insert(x.end(), {v, std::nextafter(v, kInf), std::nextafter(v, -kInf), -v});
    }
  }
  Random random(5, "half");
  for (int i = 0; i < 100000; ++i) x.push_back(std::bit_cast<float>(random.NextU32()));
  std::vector<uint16_t> plain(x.size()), fast(x.size());
  ElementwiseFor(Isa::kReference).float_to_half(x.data(), x.size(), plain.data());
  kernels().float_to_half(x.data(), x.size(), fast.data());
  EXPECT_EQ(plain, fast);
  // The plain level itself against the definition: no half is nearer, ties are even.
  for (size_t i = 0; i < x.size(); i += 7) {
    if (!(std::abs(x[i]) < 65520.0f)) continue;
    const auto magnitude = static_cast<uint16_t>(plain[i] & 0x7FFF);
    const auto value = [&](int m) {
      const auto half = static_cast<uint16_t>(m);
      float f = 0;
      kernels().half_to_float(&half, 1, &f);
      return m == 0x7C00 ? 65536.0 : static_cast<double>(f);
    };
    const double distance = std::abs(std::abs(static_cast<double>(x[i])) - value(magnitude));
    for (int m : {magnitude - 1, magnitude + 1}) {
      if (m < 0 || m > 0x7C00) continue;
      const double other = std::abs(std::abs(static_cast<double>(x[i])) - value(m));
      ASSERT_LE(distance, other) << x[i];
      ASSERT_TRUE(distance < other || magnitude % 2 == 0) << x[i];
    }
  }
}

TEST_P(ElementwiseTest, ConversionsOfAnyLength) {
  for (size_t n : kSizes) {
    std::vector<uint16_t> bits(n + 1, 0x3C00);
    std::vector<float> out(n + 1, 7.0f);
    kernels().half_to_float(bits.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], 1.0f);
    EXPECT_EQ(out[n], 7.0f);
    for (size_t i = 0; i < n; ++i) bits[i] = static_cast<uint16_t>(0x3F80 + i);
    kernels().bfloat16_to_float(bits.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) {
      ASSERT_EQ(out[i], std::bit_cast<float>(static_cast<uint32_t>(0x3F80 + i) << 16));
    }
    EXPECT_EQ(out[n], 7.0f);
    bits.assign(n + 1, 0x1234);
    kernels().float_to_half(out.data(), n, bits.data());
    EXPECT_EQ(bits[n], 0x1234);
  }
}

TEST(Elementwise, VectorLevelsGiveTheSameBits) {
  if (!IsaSupported(Isa::kAvx512)) GTEST_SKIP() << "needs AVX-512";
  const ElementwiseKernels& a = ElementwiseFor(Isa::kAvx2);
  const ElementwiseKernels& b = ElementwiseFor(Isa::kAvx512);
  for (size_t n : kSizes) {
    const std::vector<float> x = RandomFloats(n, n, 20), w = RandomFloats(n, n + 1);
    std::vector<float> ya(n), yb(n);
    a.exp(x.data(), n, ya.data()), b.exp(x.data(), n, yb.data());
    EXPECT_EQ(ya, yb);
    a.silu_multiply(x.data(), w.data(), n, ya.data()),
        b.silu_multiply(x.data(), w.data(), n, yb.data());
    EXPECT_EQ(ya, yb);
    a.gelu_multiply(x.data(), w.data(), n, ya.data());
    b.gelu_multiply(x.data(), w.data(), n, yb.data());
    EXPECT_EQ(ya, yb);
    ya = yb = x;
    a.soft_cap(ya.data(), n, 30.0f), b.soft_cap(yb.data(), n, 30.0f);
    EXPECT_EQ(ya, yb);
    a.rms_norm(x.data(), 1, n, w.data(), 1e-6f, ya.data());
    b.rms_norm(x.data(), 1, n, w.data(), 1e-6f, yb.data());
    EXPECT_EQ(ya, yb);
    ya = yb = x;
    a.softmax(ya.data(), 1, n), b.softmax(yb.data(), 1, n);
    EXPECT_EQ(ya, yb);
  }
}

}  // namespace
}  // namespace tq::transformer
