// The activation kernels: levels against the plain twin bit for bit, the twin against
// definitions, and extremes.
#include "kernels/trellis_matmul/activations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"

namespace tq::trellis {
namespace {

constexpr uint64_t kSeed = 77;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr ActivationForm kForms[] = {ActivationForm::kBytes, ActivationForm::kHalves,
                                     ActivationForm::kMagnitudes, ActivationForm::kWords};

struct ValuesAndForm {
  int values;
  ActivationForm form;
};
constexpr ValuesAndForm kCases[] = {
    {1, ActivationForm::kBytes},      {2, ActivationForm::kBytes},
    {4, ActivationForm::kBytes},      {2, ActivationForm::kHalves},
    {4, ActivationForm::kHalves},     {1, ActivationForm::kWords},
    {1, ActivationForm::kMagnitudes}, {2, ActivationForm::kMagnitudes},
    {4, ActivationForm::kMagnitudes}};

const ActivationKernels& Plain() { return FindActivationKernels(Isa::kReference); }

std::vector<float> Normal(size_t n, uint64_t index) {
  Random random(kSeed, "x", index);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Levels above the plain one, if this machine has any.
class ActivationsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!IsaSupported(Isa::kAvx2)) GTEST_SKIP() << "this machine has no AVX2";
  }
  const ActivationKernels& Level() const { return FindActivationKernels(Isa::kAvx2); }
};

TEST(ActivationsPlainTest, HalvesConvertExactly) {
  const std::vector<uint16_t> half = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff,
                                      0x0001, 0x03ff, 0x0400, 0x7c00, 0xfc00};
  const std::vector<float> ones(half.size(), 1.0f);
  std::vector<float> out(half.size(), kNan);
  Plain().scale_by_half(ones.data(), half.data(), half.size(), out.data());
  EXPECT_THAT(out, testing::ElementsAre(0.0f, -0.0f, 1.0f, -2.0f, 65504.0f, 0x1p-24f,
                                        1023 * 0x1p-24f, 0x1p-14f, kInf, -kInf));
  EXPECT_TRUE(std::signbit(out[1]));
  const uint16_t nan = 0x7e00;
  Plain().scale_by_half(ones.data(), &nan, 1, out.data());
  EXPECT_TRUE(std::isnan(out[0]));
}

TEST(ActivationsPlainTest, CombinationsAreHadamardSums) {
  const std::vector<float> x = {1, 2, 4, 8};
  std::vector<float> out(4);
  EXPECT_EQ(Plain().combine(1, x.data(), 4, out.data()), 0x41000000u);  // 8
  EXPECT_THAT(out, testing::ElementsAre(1, 2, 4, 8));
  Plain().combine(2, x.data(), 4, out.data());
  EXPECT_THAT(out, testing::ElementsAre(3, -1, 12, -4));
  EXPECT_EQ(Plain().combine(4, x.data(), 4, out.data()), 0x41700000u);  // 15
  EXPECT_THAT(out, testing::ElementsAre(15, -5, -9, 3));
}

TEST(ActivationsPlainTest, Every32ColumnsHaveTheScaleOfTheirLargest) {
  std::vector<float> a = Normal(96, 5);
  a[40] = -8;
  std::fill(a.begin() + 64, a.end(), 1e-40f);
  for (const auto& [values, form] : kCases) {
    std::vector<ScaleGroup> groups(3);
    std::vector<int16_t> q(96);
    const double bias = Plain().quantize_bytes(values, form, a.data(), 96, groups.data(), q.data());
    EXPECT_EQ(groups[1].scale, 8.0f / 127);
    EXPECT_EQ(q[40], -127);
    EXPECT_EQ(groups[2].scale, 0.0f);
    double expected = 0;
    std::vector<int> starts(6);
    for (int i = 0; i < 96; ++i) {
      const float scale = groups[i / 32].scale;
      ASSERT_LE(std::abs(q[i]), 127);
      ASSERT_NEAR(q[i] * scale, a[i], 0.5001 * scale + 1e-39);
      expected += static_cast<double>(scale) * q[i] * (ByteCentre(values) - SumCentre(values));
      starts[i / 32 * 2 + i / values % 4 / 2] -=
          form == ActivationForm::kMagnitudes ? std::min<int>(q[i], 0) * BytesPerActivation(values)
                                              : q[i] * ByteCentre(values);
    }
    EXPECT_NEAR(bias, expected, 1e-9);
    for (int g = 0; g < 3; ++g) {
      EXPECT_THAT(groups[g].start, testing::ElementsAre(starts[2 * g], starts[2 * g + 1])) << g;
    }
  }
}

TEST(ActivationsPlainTest, LayoutsHoldEveryActivationWhereTheHeaderSays) {
  std::vector<int16_t> q(32);
  for (int i = 0; i < 32; ++i) q[i] = static_cast<int16_t>(i % 2 == 0 ? 4 * i + 1 : -4 * i - 1);
  std::vector<uint8_t> out(128, 0xee);
  // The activation of byte b of group g.
  const auto at = [&](int g, int b) { return static_cast<int8_t>(out[16 * g + b]); };
  for (int values : {1, 2, 4}) {
    Plain().lay_out(values, ActivationForm::kBytes, q.data(), 32, out.data(), 16);
    constexpr int kLaneOf[] = {0, 2, 1, 3};
    for (int b = 0; b < 16; ++b) {
      for (int g = 0; g < 8 / values; ++g) {
        EXPECT_EQ(at(g, b), q[4 * values * g + values * kLaneOf[b / 4] + b % values]);
      }
    }
  }
  for (int values : {1, 2, 4}) {
    const int groups = 32 / GroupColumns(values, ActivationForm::kHalves);
    Plain().lay_out(values, ActivationForm::kHalves, q.data(), 32, out.data(), 8);
    for (int i = 0; i < 8 * groups; ++i) {
      const int half = values == 4 ? i / 8 % 2 : 0;
      const int lane = (values == 4 ? i / 16 : i / 8) * 4 + i % 8 / 2;
      EXPECT_EQ(static_cast<int8_t>(out[i]), q[lane * values + (2 * half + i % 2) % values]) << i;
    }
  }
  std::vector<uint8_t> magnitudes(256);
  for (int values : {1, 2, 4}) {
    Plain().lay_out(values, ActivationForm::kBytes, q.data(), 32, out.data(), 16);
    Plain().lay_out(values, ActivationForm::kMagnitudes, q.data(), 32, magnitudes.data(), 32);
    for (int g = 0; g < 8 / values; ++g) {
      for (int b = 0; b < 16; ++b) {
        EXPECT_EQ(magnitudes[32 * g + b], std::abs(at(g, b)));
        EXPECT_EQ(magnitudes[32 * g + 16 + b], at(g, b) < 0 ? 0x7f : 0x80);
      }
    }
  }
  std::vector<int16_t> words(32);
  for (int values : {1, 2, 4}) {
    Plain().lay_out(values, ActivationForm::kWords, q.data(), 32,
                    reinterpret_cast<uint8_t*>(words.data()), 8);
    for (int i = 0; i < values; ++i) {
      for (int c = 0; c < 4; ++c) EXPECT_EQ(words[4 * i + c], q[values * c + i]);
    }
  }
}

TEST_F(ActivationsTest, ScaleMatchesThePlainTwin) {
  for (size_t n = 0; n <= 65; ++n) {
    const std::vector<float> x = Normal(n, n);
    Random random(kSeed, "half", n);
    std::vector<uint16_t> half(n);
    for (auto& h : half)
      h = static_cast<uint16_t>(random.NextBelow(0x7c00) | (random.NextU32() & 0x8000));
    std::vector<float> expected(n), actual(n, kNan);
    Plain().scale_by_half(x.data(), half.data(), n, expected.data());
    Level().scale_by_half(x.data(), half.data(), n, actual.data());
    ASSERT_TRUE(SameBits(expected, actual)) << "n " << n << " seed " << kSeed;
  }
}

TEST_F(ActivationsTest, CombineMatchesThePlainTwinAndShowsNonFinite) {
  for (int values : {1, 2, 4}) {
    for (size_t n = 0; n <= 68; n += values) {
      std::vector<float> x = Normal(n, n);
      std::vector<float> expected(n), actual(n, kNan);
      EXPECT_EQ(Level().combine(values, x.data(), n, actual.data()),
                Plain().combine(values, x.data(), n, expected.data()));
      ASSERT_TRUE(SameBits(expected, actual)) << "V " << values << " n " << n;
      for (float bad : {kNan, kInf, -kInf}) {
        if (n == 0) continue;
        x[n / 2] = bad;
        EXPECT_GE(Level().combine(values, x.data(), n, actual.data()), 0x7f800000u);
        EXPECT_GE(Plain().combine(values, x.data(), n, actual.data()), 0x7f800000u);
      }
    }
  }
}

TEST_F(ActivationsTest, QuantizeMatchesThePlainTwin) {
  for (size_t n : {0, 1, 7, 16, 31, 32, 33, 64, 96, 160, 1000}) {
    std::vector<float> a = Normal(n, n);
    constexpr float kLargest = kMaxActivation / 2000.0f;
    if (n > 2) a[1] = 0.5f / 2000, a[2] = -kLargest;
    for (float& value : a) value = std::fmin(std::fmax(value, -kLargest), kLargest);
    std::vector<int16_t> expected(n, 99), actual(n, 99);
    const int64_t plain = Plain().quantize(a.data(), n, 2000.0f, expected.data());
    EXPECT_EQ(Level().quantize(a.data(), n, 2000.0f, actual.data()), plain);
    EXPECT_EQ(expected, actual) << "n " << n;
    EXPECT_EQ(plain, std::accumulate(expected.begin(), expected.end(), int64_t{0}));
  }
}

TEST_F(ActivationsTest, QuantizeBytesMatchesThePlainTwin) {
  for (const auto& [values, form] : kCases) {
    for (size_t n : {0, 32, 64, 96, 1024}) {
      std::vector<float> a = Normal(n, n);
      if (n > 32) std::fill_n(a.begin(), 32, 0.0f), a[40] = 1e30f;
      std::vector<ScaleGroup> plain(n / 32), level(n / 32);
      std::vector<int16_t> expected(n, 99), actual(n, 99);
      const double bias =
          Plain().quantize_bytes(values, form, a.data(), n, plain.data(), expected.data());
      EXPECT_EQ(Level().quantize_bytes(values, form, a.data(), n, level.data(), actual.data()),
                bias);
      EXPECT_EQ(expected, actual) << "n " << n;
      for (size_t g = 0; g < plain.size(); ++g) {
        EXPECT_EQ(level[g].scale, plain[g].scale);
        EXPECT_THAT(level[g].start, testing::ElementsAreArray(plain[g].start));
      }
    }
  }
}

TEST_F(ActivationsTest, LayOutMatchesThePlainTwin) {
  Random random(kSeed, "q");
  std::vector<int16_t> q(96);
  for (int values : {1, 2, 4}) {
    for (ActivationForm form : kForms) {
      const int most = form == ActivationForm::kWords ? kMaxActivation : kMaxByteActivation;
      for (auto& v : q) {
        const auto range = 2 * static_cast<uint64_t>(most) + 1;
        v = static_cast<int16_t>(static_cast<int>(random.NextBelow(range)) - most);
      }
      for (size_t rows : {1, 3}) {
        const size_t stride = rows * GroupBytes(form);
        const size_t bytes = q.size() / GroupColumns(values, form) * stride;
        std::vector<uint8_t> expected(bytes, 0xcc), actual(bytes, 0xcc);
        Plain().lay_out(values, form, q.data(), q.size(), expected.data(), stride);
        Level().lay_out(values, form, q.data(), q.size(), actual.data(), stride);
        EXPECT_EQ(expected, actual) << "V " << values << " form " << static_cast<int>(form);
      }
    }
  }
}

TEST_F(ActivationsTest, FinishMatchesThePlainTwin) {
  Random random(kSeed, "sums");
  for (size_t n = 0; n <= 33; ++n) {
    std::vector<int64_t> sums(n);
    for (auto& v : sums) {
      v = static_cast<int64_t>(random.NextBelow(uint64_t{1} << 52)) - (int64_t{1} << 51) + 1;
    }
    for (double bias : {0.0, -12345.5}) {
      std::vector<float> expected(n), actual(n, kNan);
      Plain().finish(sums.data(), n, bias, 0.37, expected.data());
      Level().finish(sums.data(), n, bias, 0.37, actual.data());
      ASSERT_TRUE(SameBits(expected, actual)) << "n " << n;
    }
  }
}

}  // namespace
}  // namespace tq::trellis
