#include "checkpoint/rope_factors.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tq {
namespace {

constexpr auto kLlama3 = RopeScaling::Kind::kLlama3;

bool Same(const RopeScaling& a, const RopeScaling& b) {
  return a.kind == b.kind && a.factor == b.factor && a.low_freq_factor == b.low_freq_factor &&
         a.high_freq_factor == b.high_freq_factor &&
         a.original_max_position == b.original_max_position;
}

// Factors as the code beside Llama 3.1's weights has them, by wavelengths.
TEST(RopeFactors, AreThoseOfLlama3) {
  const std::vector<float> factors = RopeFactors(128, 500000, {kLlama3, 8, 1, 4, 8192});
  ASSERT_EQ(factors.size(), 64u);
  size_t kept = 0, between = 0, divided = 0;
  for (size_t i = 0; i < factors.size(); ++i) {
    const double wavelength = 2 * M_PI * std::pow(500000.0, static_cast<double>(i) / 64);
    double expected = 8;
    if (wavelength < 8192.0 / 4) {
      expected = 1;
      ++kept;
    } else if (wavelength > 8192) {
      ++divided;
    } else {
      const double smooth = (8192 / wavelength - 1) / 3;
      expected = 1 / ((1 - smooth) / 8 + smooth);
      ++between;
    }
    EXPECT_NEAR(factors[i], expected, 1e-5 * expected) << i;
  }
  EXPECT_TRUE(kept > 20 && between > 3 && divided > 20) << kept << " " << between;
}

TEST(RopeFactors, AreRecognised) {
  for (const uint32_t context : {16u, 2048u, 8192u, 131072u}) {
    for (const float factor : {2.0f, 8.0f, 32.0f}) {
      for (const float theta : {10000.0f, 500000.0f}) {
        const RopeScaling scaling = {kLlama3, factor, 1, 4, context};
        const auto read = RopeScalingOf(RopeFactors(128, theta, scaling), 128, theta);
        // Some pair must turn less than once within the original context to show the factor.
        if (context == 131072u && theta == 10000.0f) {
          EXPECT_FALSE(read && Same(*read, scaling));
          continue;
        }
        ASSERT_TRUE(read.has_value()) << context << " " << factor << " " << theta;
        EXPECT_TRUE(Same(*read, scaling)) << read->factor << " " << read->original_max_position;
      }
    }
  }
}

TEST(RopeFactors, OthersAreNot) {
  const auto recognised = [](std::vector<float> factors) {
    return RopeScalingOf(factors, 128, 500000).has_value();
  };
  std::vector<float> factors = RopeFactors(128, 500000, {kLlama3, 8, 1, 4, 8192});
  EXPECT_TRUE(recognised(factors));
  EXPECT_FALSE(recognised(RopeFactors(128, 500000, {kLlama3, 8, 1, 5, 8192})));
  EXPECT_FALSE(recognised(RopeFactors(128, 500000, {kLlama3, 8, 2, 4, 8192})));
  EXPECT_FALSE(recognised(RopeFactors(128, 500000, {RopeScaling::Kind::kLinear, 8})));
  EXPECT_FALSE(recognised({factors.begin(), factors.end() - 1}));
  EXPECT_FALSE(recognised({}));
  for (const float bad : {NAN, INFINITY, -INFINITY, -1.0f, 0.0f, 1.01f, 1e30f}) {
    std::vector<float> changed = factors;
    changed[5] = bad;
    EXPECT_FALSE(recognised(changed)) << bad;
  }
  EXPECT_FALSE(recognised(std::vector<float>(64, 0.0f)));
  EXPECT_FALSE(recognised(std::vector<float>(64, NAN)));
}

}  // namespace
}  // namespace tq
