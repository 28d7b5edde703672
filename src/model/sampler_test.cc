#include "model/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "kernels/cuda/sampling_twin_for_test.h"
#include "kernels/isa.h"

namespace tq {
namespace {

std::vector<float> RandomLogits(size_t n, uint64_t seed) {
  Random random(seed, "logits");
  std::vector<float> logits(n);
  for (float& v : logits) v = static_cast<float>(2 * random.NextNormal());
  return logits;
}

int32_t SampleOnce(const SamplerOptions& options, std::span<const float> logits,
                   std::span<const int32_t> history = {}) {
  Sampler sampler = *Sampler::Create(options);
  return *sampler.Sample(logits, history);
}

// Which ids come out, how often, in `draws` draws.
std::map<int32_t, int> Draws(const SamplerOptions& options, std::span<const float> logits,
                             int draws, std::span<const int32_t> history = {}) {
  Sampler sampler = *Sampler::Create(options);
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[*sampler.Sample(logits, history)];
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestIdOfTheLargest) {
  EXPECT_EQ(SampleOnce({}, std::vector<float>{1, 3, 2, 3}), 1);
  EXPECT_EQ(SampleOnce({}, std::vector<float>{0, 0, 0}), 0);
  EXPECT_EQ(SampleOnce({}, std::vector<float>{-5}), 0);
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  const std::vector<float> logits{0.0f, 1.0f, 2.0f, -1.0f};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    SamplerOptions options;
    options.temperature = temperature;
    options.seed = 3;
    constexpr int kDraws = 20000;
    auto counts = Draws(options, logits, kDraws);
    double sum = 0;
    for (const float l : logits) sum += std::exp(l / temperature);
    for (size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(logits[i] / temperature) / sum;
      // Five standard deviations.
      EXPECT_NEAR(counts[static_cast<int32_t>(i)], p * kDraws,
                  5 * std::sqrt(kDraws * p * (1 - p)) + 1)
          << "temperature " << temperature << " id " << i;
    }
  }
}

TEST(Sampler, TopKKeepsTheKLargest) {
  const auto logits = RandomLogits(1000, 5);
  std::vector<int32_t> order(1000);
  for (int32_t i = 0; i < 1000; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  SamplerOptions options;
  options.temperature = 50;  // nearly uniform: all that is kept comes out
  for (const uint32_t k : {1u, 2u, 7u}) {
    options.top_k = k;
    std::set<int32_t> seen;
    for (const auto& [id, count] : Draws(options, logits, 500)) seen.insert(id);
    EXPECT_EQ(seen, std::set<int32_t>(order.begin(), order.begin() + k)) << k;
  }
  options.top_k = 5000;  // more than there are: all
  EXPECT_GT(Draws(options, logits, 2000).size(), 500u);
}

TEST(Sampler, TopKTiesGoToTheLowestIds) {
  SamplerOptions options;
  options.temperature = 1;
  options.top_k = 2;
  for (const auto& [id, count] : Draws(options, std::vector<float>(50, 1.0f), 200))
    EXPECT_LT(id, 2);
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  // Probabilities 0.1, 0.4, 0.3, 0.2.
  std::vector<float> logits;
  for (const double p : {0.1, 0.4, 0.3, 0.2}) logits.push_back(static_cast<float>(std::log(p)));
  SamplerOptions options;
  options.temperature = 1;
  const std::pair<float, std::set<int32_t>> cases[] = {{0.01f, {1}},       {0.39f, {1}},
                                                       {0.41f, {1, 2}},    {0.69f, {1, 2}},
                                                       {0.75f, {1, 2, 3}}, {1.0f, {0, 1, 2, 3}}};
  for (const auto& [top_p, expected] : cases) {
    options.top_p = top_p;
    std::set<int32_t> seen;
    for (const auto& [id, count] : Draws(options, logits, 400)) seen.insert(id);
    EXPECT_EQ(seen, expected) << top_p;
  }
}

TEST(Sampler, MinPKeepsThoseNearTheFirst) {
  std::vector<float> logits;
  for (const double p : {0.1, 0.4, 0.3, 0.2}) logits.push_back(static_cast<float>(std::log(p)));
  SamplerOptions options;
  options.temperature = 1;
  const std::pair<float, std::set<int32_t>> cases[] = {
      {0.0f, {0, 1, 2, 3}}, {0.3f, {1, 2, 3}}, {0.6f, {1, 2}}, {1.0f, {1}}};
  for (const auto& [min_p, expected] : cases) {
    options.min_p = min_p;
    std::set<int32_t> seen;
    for (const auto& [id, count] : Draws(options, logits, 400)) seen.insert(id);
    EXPECT_EQ(seen, expected) << min_p;
  }
}

TEST(Sampler, RepetitionPenaltyLowersRecentTokens) {
  SamplerOptions options;
  options.repetition_penalty = 2;
  options.repetition_window = 2;
  const std::vector<float> logits{3.0f, 2.0f, -0.5f};
  EXPECT_EQ(SampleOnce(options, logits, std::vector<int32_t>{0}), 1);        // 3/2 < 2
  EXPECT_EQ(SampleOnce(options, logits, std::vector<int32_t>{0, 0, 0}), 1);  // once, not thrice
  EXPECT_EQ(SampleOnce(options, logits, std::vector<int32_t>{0, 2, 2}),
            0);  // 0 is out of the window
  EXPECT_EQ(SampleOnce(options, logits, std::vector<int32_t>{-7, 99}), 0);  // strangers
  // Negative logits fall too: -0.4 * 2 < -0.5.
  EXPECT_EQ(SampleOnce(options, std::vector<float>{-0.4f, -0.5f}, std::vector<int32_t>{0}), 1);
}

TEST(Sampler, SeedDecides) {
  const auto logits = RandomLogits(300, 6);
  const auto run = [&](uint64_t seed) {
    SamplerOptions options;
    options.temperature = 1.5f;
    options.top_k = 100;
    options.top_p = 0.95f;
    options.seed = seed;
    Sampler sampler = *Sampler::Create(options);
    std::vector<int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(*sampler.Sample(logits, ids));
    return ids;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(Sampler, ExtremeLogitsAndTemperatures) {
  SamplerOptions options;
  options.temperature = 1e-30f;
  EXPECT_EQ(SampleOnce(options, std::vector<float>{1.0f, 1.001f, -3e38f, 0.0f}), 1);
  options.temperature = 100;
  options.top_p = 0.5f;
  EXPECT_EQ(SampleOnce(options, std::vector<float>{-3e38f, 3e38f}), 1);
}

// What the kernels of a device are compared with draws what the sampler draws: bit by bit where
// exp has its bits, at levels with FMA; elsewhere rounding decides now and then.
TEST(Sampler, IsTheTwinOfDevices) {
  Random random(11, "options");
  int draws = 0, others = 0;
  for (int i = 0; i < 300; ++i) {
    const size_t n = 1 + random.NextBelow(i % 20 == 0 ? 40000 : 500);
    std::vector<float> logits = RandomLogits(n, i);
    const bool ties = random.NextBelow(3) == 0;
    for (float& logit : logits) logit = ties ? std::round(logit) : 2 * logit;
    SamplerOptions options;
    options.temperature = std::vector{0.1f, 0.7f, 1.0f, 30.0f}[random.NextBelow(4)];
    options.top_k = std::vector{0u, 1u, 5u, 40u, 1000000u}[random.NextBelow(5)];
    options.top_p = std::vector{1.0f, 0.95f, 0.5f, 1e-30f}[random.NextBelow(4)];
    options.min_p = std::vector{0.0f, 0.05f, 1.0f}[random.NextBelow(3)];
    options.repetition_penalty = std::vector{1.0f, 1.3f, 0.5f}[random.NextBelow(3)];
    options.seed = random.NextU64();
    Sampler sampler = *Sampler::Create(options);
    std::vector<int32_t> history{-3, 7, 7, 1000000};
    for (int token = 0; token < 5; ++token, ++draws) {
      const SamplingStep step = sampler.NextStep(history);
      cuda::SamplingParams params;
      params.repetition_penalty = options.repetition_penalty;
      params.temperature = options.temperature;
      params.top_k = options.top_k, params.top_p = options.top_p, params.min_p = options.min_p;
      params.uniform = step.uniform;
      const auto twin = cuda::DrawTwin(logits, params, step.recent);
      const int32_t drawn = *sampler.Sample(logits, history);
      others += static_cast<uint32_t>(drawn) != twin.token;
      history.push_back(drawn);
    }
  }
  const bool same_exp = CommonIsa(CurrentIsa()) != Isa::kReference;
  EXPECT_LE(others, same_exp ? 0 : draws / 100) << "of " << draws;
}

TEST(Sampler, StepsFinishedElsewhereCountAsDraws) {
  const auto logits = RandomLogits(50, 4);
  for (const float temperature : {1.0f, 0.0f}) {
    SamplerOptions options;
    options.temperature = temperature;
    options.repetition_penalty = 1.1f;
    Sampler one = *Sampler::Create(options), two = *Sampler::Create(options);
    const std::vector<int32_t> history{9, 3, 9};
    EXPECT_EQ(one.NextStep(history).recent, (std::vector<int32_t>{3, 9}));
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(one.Sample(logits, history).ok());
      two.FinishStep();
    }
    EXPECT_EQ(one.NextStep(history).uniform, two.NextStep(history).uniform);
    EXPECT_EQ(*one.Sample(logits, history), *two.Sample(logits, history));
  }
}

TEST(Sampler, RefusesBadInput) {
  Sampler sampler = *Sampler::Create({});
  EXPECT_FALSE(sampler.Sample({}, {}).ok());
  EXPECT_EQ(sampler.Sample(std::vector<float>{0, NAN}, {}).status().code(), StatusCode::kDataLoss);
  EXPECT_FALSE(sampler.Sample(std::vector<float>{INFINITY}, {}).ok());
  const auto refuses = [](void (*change)(SamplerOptions&)) {
    SamplerOptions options;
    change(options);
    return !Sampler::Create(options).ok();
  };
  EXPECT_TRUE(refuses([](SamplerOptions& o) { o.temperature = -1; }));
  EXPECT_TRUE(refuses([](SamplerOptions& o) { o.temperature = NAN; }));
  EXPECT_TRUE(refuses([](SamplerOptions& o) { o.temperature = INFINITY; }));
  EXPECT_TRUE(refuses([](SamplerOptions& o) { o.top_p = 0; }));
  EXPECT_TRUE(refuses([](SamplerOptions& o) { o.top_p = 1.5f; }));
  EXPECT_TRUE(refuses([](SamplerOptions& o) { o.min_p = -0.1f; }));
  EXPECT_TRUE(refuses([](SamplerOptions& o) { o.repetition_penalty = 0; }));
}

}  // namespace
}  // namespace tq
