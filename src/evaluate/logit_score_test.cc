#include "evaluate/logit_score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"

namespace tq {
namespace {

TEST(LogitScore, KnownProbabilities) {
  std::vector<float> logits, reference;
  for (const double p : {0.5, 0.25, 0.25}) logits.push_back(static_cast<float>(std::log(p)) + 7);
  for (const double p : {0.25, 0.5, 0.25}) reference.push_back(static_cast<float>(std::log(p)) - 3);
  const LogitScore alone = ScoreLogits(logits.data(), nullptr, 3, 1);
  EXPECT_NEAR(alone.nll, std::log(4.0), 1e-6);
  EXPECT_EQ(alone.kl, 0);
  const LogitScore both = ScoreLogits(logits.data(), reference.data(), 3, 1);
  EXPECT_EQ(both.nll, alone.nll);
  // .25 log(.25/.5) + .5 log(.5/.25) + 0
  EXPECT_NEAR(both.kl, 0.25 * std::log(2.0), 1e-6);
  EXPECT_FALSE(both.top1);
}

TEST(LogitScore, NothingBetweenAModelAndItself) {
  Random random(1, "logits");
  std::vector<float> logits(1000);
  for (float& v : logits) v = static_cast<float>(5 * random.NextNormal());
  const LogitScore score = ScoreLogits(logits.data(), logits.data(), 1000, 3);
  EXPECT_EQ(score.kl, 0);
  EXPECT_TRUE(score.top1);
}

TEST(LogitScore, NeverNegativeAndAgainstLongDouble) {
  Random random(2, "logits");
  for (int round = 0; round < 20; ++round) {
    std::vector<float> a(300), b(300);
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = static_cast<float>(4 * random.NextNormal());
      b[i] = a[i] + static_cast<float>(1e-4 * random.NextNormal());
    }
    long double za = 0, zb = 0, kl = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      za += std::exp(static_cast<long double>(a[i]));
      zb += std::exp(static_cast<long double>(b[i]));
    }
    for (size_t i = 0; i < a.size(); ++i) {
      kl += std::exp(static_cast<long double>(b[i])) / zb *
            (static_cast<long double>(b[i]) - a[i] - std::log(zb) + std::log(za));
    }
    const LogitScore score = ScoreLogits(a.data(), b.data(), a.size(), 0);
    EXPECT_GE(score.kl, 0);
    EXPECT_NEAR(score.kl, static_cast<double>(kl), 1e-14);  // of about 5e-9
  }
}

TEST(LogitScore, LargeLogits) {
  const std::vector<float> logits{3e38f, -3e38f, 0};
  EXPECT_EQ(ScoreLogits(logits.data(), logits.data(), 3, 0).nll, 0);
  EXPECT_EQ(ScoreLogits(logits.data(), logits.data(), 3, 0).kl, 0);
}

}  // namespace
}  // namespace tq
