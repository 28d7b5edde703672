// Every level's activations of ternary products against the plain twin, bit for bit, and the twin
// against the rule.
#include "kernels/ternary_matmul/ternary_activations.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"

namespace tq::ternary {
namespace {

constexpr uint64_t kSeed = 127;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> Normal(size_t n) {
  Random random(kSeed, "x", n);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  return x;
}

TEST(TernaryActivationsTest, RoundsToTheLargestMagnitude) {
  const std::vector<float> x = {-2, 1, 0.5f, 2.0f / 127 * 3.5f, 2.0f / 127 * 4.5f, -0.001f};
  std::vector<int8_t> a(x.size(), 99);
  const ActivationRow row = reference::Quantize(x.data(), x.size(), a.data());
  EXPECT_EQ(row.scale, 2.0f / 127);
  EXPECT_EQ(a, (std::vector<int8_t>{-127, 64, 32, 4, 4, 0}));  // halves go to even
  EXPECT_EQ(row.sum, -127 + 64 + 32 + 4 + 4);
}

TEST(TernaryActivationsTest, EveryLevelMatchesThePlainTwin) {
  for (Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    for (size_t n : {0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 4096}) {
      for (float factor : {1.0f, 1e-30f, 1e30f, 0.0f}) {
        SCOPED_TRACE(fmt::format("{} n {} factor {} seed {}", IsaName(isa), n, factor, kSeed));
        std::vector<float> x = Normal(n);
        for (float& value : x) value *= factor;
        std::vector<int8_t> expected(n + 1, 99), actual(n + 1, 99);
        const ActivationRow plain = reference::Quantize(x.data(), n, expected.data());
        const ActivationRow row = FindQuantize(isa)(x.data(), n, actual.data());
        ASSERT_EQ(std::bit_cast<uint32_t>(row.scale), std::bit_cast<uint32_t>(plain.scale));
        ASSERT_EQ(row.sum, plain.sum);
        ASSERT_EQ(actual, expected);
        EXPECT_EQ(actual[n], 99) << "written past the end";
        EXPECT_EQ(row.sum, std::accumulate(actual.begin(), actual.end() - 1, int32_t{0}));
      }
    }
  }
}

TEST(TernaryActivationsTest, AnythingNotFiniteShowsInTheScale) {
  for (Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    for (float bad : {kNan, -kNan, kInf, -kInf}) {
      for (size_t at : {0, 37, 99}) {
        std::vector<float> x = Normal(100);
        x[at] = bad;
        std::vector<int8_t> a(x.size(), 99);
        const ActivationRow row = FindQuantize(isa)(x.data(), x.size(), a.data());
        EXPECT_TRUE(std::isnan(row.scale)) << IsaName(isa) << " at " << at;
        EXPECT_EQ(row.sum, 0);
        EXPECT_EQ(a, std::vector<int8_t>(x.size(), 0));
      }
    }
  }
}

}  // namespace
}  // namespace tq::ternary
