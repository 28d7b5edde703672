#include "kernels/transformer/logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/isa.h"

namespace tq::transformer {
namespace {

constexpr size_t kSizes[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 4915};
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class LogitsTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam())) GTEST_SKIP() << IsaName(GetParam()) << " is not supported here";
  }
};

INSTANTIATE_TEST_SUITE_P(Levels, LogitsTest,
                         testing::Values(Isa::kReference, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& param_info) {
                           return std::string(IsaName(param_info.param));
                         });

std::vector<float> RandomLogits(size_t n, uint64_t seed, double sigma) {
  Random random(seed, "logits_test");
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(sigma * random.NextNormal());
  return values;
}

TEST_P(LogitsTest, RowStats) {
  for (size_t n : kSizes) {
    for (double sigma : {0.1, 4.0, 300.0}) {
      const std::vector<float> x = RandomLogits(n, n, sigma);
      const LogitStats stats = RowStats(x.data(), n, GetParam());
      const auto top = std::max_element(x.begin(), x.end());
      EXPECT_EQ(stats.max, *top);
      EXPECT_EQ(stats.argmax, static_cast<size_t>(top - x.begin()));
      long double sum = 0;
      for (float v : x) sum += std::exp(static_cast<long double>(v) - *top);
      EXPECT_NEAR(stats.log_sum_exp, static_cast<double>(*top + std::log(sum)),
                  1e-13 + std::abs(*top) * 0x1p-52)
          << n;
    }
  }
}

TEST_P(LogitsTest, ArgmaxTakesTheLowestOfEquals) {
  std::vector<float> x(100, -3.0f);
  x[41] = x[42] = x[77] = 5.0f;
  EXPECT_EQ(RowStats(x.data(), x.size(), GetParam()).argmax, 41u);
  x[3] = kInf;
  EXPECT_EQ(RowStats(x.data(), x.size(), GetParam()).argmax, 3u);
}

TEST_P(LogitsTest, NonFiniteLogits) {
  std::vector<float> x = RandomLogits(50, 1, 1);
  x[20] = -kInf;
  EXPECT_TRUE(std::isfinite(RowStats(x.data(), 50, GetParam()).log_sum_exp));
  x[30] = kNan;
  EXPECT_TRUE(std::isnan(RowStats(x.data(), 50, GetParam()).log_sum_exp));
  x[30] = kInf;
  EXPECT_TRUE(std::isnan(RowStats(x.data(), 50, GetParam()).log_sum_exp));
  std::vector<float> none(50, -kInf);
  EXPECT_TRUE(std::isnan(RowStats(none.data(), 50, GetParam()).log_sum_exp));
}

TEST_P(LogitsTest, Divergence) {
  for (size_t n : kSizes) {
    for (double noise : {1e-4, 0.1, 3.0}) {
      const std::vector<float> p = RandomLogits(n, n, 4);
      std::vector<float> q = RandomLogits(n, n + 1, noise);
      for (size_t i = 0; i < n; ++i) q[i] += p[i];
      long double p_sum = 0, q_sum = 0, exact = 0;
      for (size_t i = 0; i < n; ++i) {
        p_sum += std::exp(static_cast<long double>(p[i]));
        q_sum += std::exp(static_cast<long double>(q[i]));
      }
      for (size_t i = 0; i < n; ++i) {
        const long double log_p = p[i] - std::log(p_sum), log_q = q[i] - std::log(q_sum);
        exact += std::exp(log_p) * (log_p - log_q);
      }
      const Divergence result = RowDivergence(p.data(), q.data(), n, GetParam());
      EXPECT_NEAR(result.kl, static_cast<double>(exact), 1e-12 * (1 + 6 * noise)) << n;
      EXPECT_EQ(result.same_top1(), std::max_element(p.begin(), p.end()) - p.begin() ==
                                        std::max_element(q.begin(), q.end()) - q.begin());
    }
  }
}

TEST_P(LogitsTest, DivergenceOfAbsentTokens) {
  const std::vector<float> p = {1, -kInf, 2, 0}, q = {1, -kInf, 2, 0.5f}, r = {1, 3, 2, -kInf};
  EXPECT_GT(RowDivergence(p.data(), q.data(), 4, GetParam()).kl, 0);
  EXPECT_EQ(RowDivergence(p.data(), r.data(), 4, GetParam()).kl, HUGE_VAL);
  EXPECT_TRUE(std::isfinite(RowDivergence(r.data(), q.data(), 3, GetParam()).kl) == false);
  EXPECT_EQ(RowDivergence(p.data(), p.data(), 4, GetParam()).kl, 0);
  const std::vector<float> far = {0, -5000, -300}, near = {0, -1, -1};
  const double kl = RowDivergence(far.data(), near.data(), 3, GetParam()).kl;
  EXPECT_NEAR(kl, std::log(1 + 2 * std::exp(-1.0)), 1e-12);
}

}  // namespace
}  // namespace tq::transformer
