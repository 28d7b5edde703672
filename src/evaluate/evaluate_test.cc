#include "evaluate/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/cancel.h"
#include "device/thread_pool.h"
#include "model/memory_source_for_test.h"
#include "model/reference_forward_for_test.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

InlineExecutor inline_executor;
const ForwardContext kContext{&inline_executor, MatmulPath::kFast};

std::vector<int32_t> RandomTokens(uint64_t n, uint64_t seed) {
  Random random(seed, "tokens");
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.NextBelow(61));
  return tokens;
}

std::unique_ptr<Transformer> Model(const MemorySource& source) {
  return *Transformer::FromSource(source);
}

StatusOr<EvaluateResult> RunEvaluate(Transformer& model, Transformer* reference,
                                     std::span<const int32_t> tokens,
                                     const EvaluateOptions& options,
                                     const ForwardContext& context = kContext) {
  NullProgress progress;
  return Evaluate(model, reference, tokens, options, context, progress);
}

TEST(Evaluate, AUniformModelHasThePerplexityOfItsVocabulary) {
  ModelConfig config = SmallConfig();
  config.tie_embeddings = false;
  MemorySource source = RandomSource(config, 1);
  source.Set("lm_head.weight", *Tensor::Zeros(DType::kF32, {61, 24}));
  auto model = Model(source);
  const auto result = RunEvaluate(*model, nullptr, RandomTokens(100, 2), {.context = 16});
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_NEAR(result->perplexity, 61, 1e-9);
  EXPECT_NEAR(result->perplexity_stderr, 0, 1e-6);
  EXPECT_EQ(result->windows, 6u);     // 100 / 16, the tail dropped
  EXPECT_EQ(result->tokens, 6u * 7);  // tokens 9 .. 15 of each
  EXPECT_FALSE(result->kl.has_value());
}

// Windows, BOS, the scored half and both means, against the equations and plain code.
TEST(Evaluate, AgreesWithTheEquations) {
  const MemorySource source = RandomSource(SmallConfig(), 3),
                     other = RandomSource(SmallConfig(), 4);
  auto model = Model(source), reference = Model(other);
  const auto tokens = RandomTokens(50, 5);
  for (const uint64_t context : {uint64_t{15}, uint64_t{16}}) {
    const EvaluateOptions options{.context = context, .bos = 60};
    const auto result = RunEvaluate(*model, reference.get(), tokens, options);
    ASSERT_TRUE(result.ok()) << result.status().message();
    std::vector<double> nll, kl;
    double agree = 0;
    const auto log_softmax = [](ReferenceForward::Vector v) {
      double sum = 0;
      for (const double x : v) sum += std::exp(x);
      for (double& x : v) x -= std::log(sum);
      return v;
    };
    for (uint64_t w = 0; w < 3; ++w) {
      std::vector<int32_t> window(tokens.begin() + w * context, tokens.begin() + (w + 1) * context);
      window[0] = 60;
      const auto a = ReferenceForward(source).Run(window), b = ReferenceForward(other).Run(window);
      for (uint64_t i = context / 2; i + 1 < context; ++i) {
        const auto q = log_softmax(a[i]), p = log_softmax(b[i]);
        nll.push_back(-q[window[i + 1]]);
        kl.push_back(0);
        for (size_t t = 0; t < p.size(); ++t) kl.back() += std::exp(p[t]) * (p[t] - q[t]);
        agree += std::max_element(p.begin(), p.end()) - p.begin() ==
                 std::max_element(q.begin(), q.end()) - q.begin();
      }
    }
    const double n = static_cast<double>(nll.size());
    const auto mean = [n](const std::vector<double>& v) {
      double sum = 0;
      for (const double x : v) sum += x;
      return sum / n;
    };
    // The standard error of a mean, from the mean of squares.
    const auto error = [&](std::vector<double> v) {
      const double m = mean(v);
      for (double& x : v) x *= x;
      return std::sqrt((mean(v) - m * m) / (n - 1));
    };
    ASSERT_EQ(result->tokens, nll.size());
    EXPECT_EQ(result->windows, 3u);
    EXPECT_NEAR(result->perplexity / std::exp(mean(nll)), 1, 1e-4);
    EXPECT_NEAR(result->perplexity_stderr / (error(nll) * std::exp(mean(nll))), 1, 1e-3);
    ASSERT_TRUE(result->kl.has_value());
    EXPECT_NEAR(result->kl->mean / mean(kl), 1, 1e-3);
    EXPECT_NEAR(result->kl->stderr_ / error(kl), 1, 1e-3);
    EXPECT_NEAR(result->kl->top1_agreement, agree / n, 1.01 / n);
    std::sort(kl.begin(), kl.end());
    EXPECT_GE(result->kl->p99, kl[kl.size() - 2] * 0.999);
    EXPECT_LE(result->kl->p99, kl.back() * 1.001);
  }
}

TEST(Evaluate, NothingBetweenAModelAndItself) {
  auto model = Model(RandomSource(SmallConfig(), 6)), same = Model(RandomSource(SmallConfig(), 6));
  const auto result = RunEvaluate(*model, same.get(), RandomTokens(64, 7), {.context = 32});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->kl->mean, 0);
  EXPECT_EQ(result->kl->p99, 0);
  EXPECT_EQ(result->kl->top1_agreement, 1);
}

TEST(Evaluate, TheModelItselfMayBeTheReference) {
  auto model = Model(RandomSource(SmallConfig(), 6));
  const auto result = RunEvaluate(*model, model.get(), RandomTokens(64, 7), {.context = 32});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->kl->mean, 0);
}

TEST(Evaluate, BosReplacesTheFirstToken) {
  auto model = Model(RandomSource(SmallConfig(), 8));
  auto tokens = RandomTokens(64, 9);
  const auto kept = RunEvaluate(*model, nullptr, tokens, {.context = 32});
  const auto replaced = RunEvaluate(*model, nullptr, tokens, {.context = 32, .bos = 5});
  tokens[0] = tokens[32] = 5;
  const auto by_hand = RunEvaluate(*model, nullptr, tokens, {.context = 32});
  EXPECT_NE(kept->perplexity, replaced->perplexity);
  EXPECT_EQ(by_hand->perplexity, replaced->perplexity);
}

TEST(Evaluate, ThreadsAndReferenceDoNotChangePerplexity) {
  auto model = Model(RandomSource(SmallConfig(), 10)),
       other = Model(RandomSource(SmallConfig(), 11));
  const auto tokens = RandomTokens(200, 12);
  const auto one = RunEvaluate(*model, nullptr, tokens, {.context = 64});
  auto pool = *ThreadPool::Create(2);
  const auto two =
      RunEvaluate(*model, other.get(), tokens, {.context = 64}, {pool.get(), MatmulPath::kFast});
  const auto kl = RunEvaluate(*model, other.get(), tokens, {.context = 64});
  EXPECT_EQ(one->perplexity, two->perplexity);
  EXPECT_EQ(one->perplexity_stderr, two->perplexity_stderr);
  EXPECT_EQ(kl->kl->mean, two->kl->mean);
}

// In float nothing but the order of sums changes.
TEST(Evaluate, SingleTokensGiveTheSameUpToRounding) {
  const MemorySource source = RandomSource(SmallConfig(), 3);
  auto model = Model(source), reference = Model(source);
  const auto tokens = RandomTokens(64, 5);
  const auto result =
      RunEvaluate(*model, reference.get(), tokens, {.context = 16, .single_tokens = true});
  ASSERT_TRUE(result.ok()) << result.status().message();
  const auto together = RunEvaluate(*model, reference.get(), tokens, {.context = 16});
  EXPECT_EQ(result->tokens, together->tokens);
  EXPECT_NEAR(result->perplexity, together->perplexity, 1e-4 * together->perplexity);
  EXPECT_NEAR(result->kl->mean, 0, 1e-6);
}

TEST(Evaluate, MaxWindows) {
  auto model = Model(RandomSource(SmallConfig(), 10));
  auto tokens = RandomTokens(200, 12);
  const auto two = RunEvaluate(*model, nullptr, tokens, {.context = 32, .max_windows = 2});
  EXPECT_EQ(two->windows, 2u);
  tokens.resize(70);
  EXPECT_EQ(RunEvaluate(*model, nullptr, tokens, {.context = 32})->perplexity, two->perplexity);
}

TEST(Evaluate, RefusesBadInput) {
  auto model = Model(RandomSource(SmallConfig(), 13));
  const auto message = [&](uint64_t n, const EvaluateOptions& options, Transformer* reference) {
    const auto result = RunEvaluate(*model, reference, RandomTokens(n, 14), options);
    EXPECT_FALSE(result.ok());
    return result.status().message();
  };
  EXPECT_THAT(message(63, {.context = 32}, nullptr), HasSubstr("fewer than two windows of 32"));
  EXPECT_THAT(message(0, {.context = 32}, nullptr), HasSubstr("0 tokens"));
  EXPECT_THAT(message(64, {.context = 0}, nullptr), HasSubstr("context 0"));
  EXPECT_THAT(message(64, {.context = 3}, nullptr), HasSubstr("context 3"));
  EXPECT_THAT(message(300, {.context = 97}, nullptr), HasSubstr("96 positions"));
  EXPECT_THAT(message(64, {.context = 32, .bos = 61}, nullptr), HasSubstr("bos 61"));
  EXPECT_THAT(message(64, {.context = 32, .bos = -2}, nullptr), HasSubstr("bos -2"));
  ModelConfig config = SmallConfig();
  config.vocab_size = 60;
  auto other = Model(RandomSource(config, 1));
  EXPECT_THAT(message(64, {.context = 32}, other.get()), HasSubstr("60 tokens"));
  config = SmallConfig();
  config.max_position = 31;
  other = Model(RandomSource(config, 1));
  EXPECT_THAT(message(64, {.context = 32}, other.get()), HasSubstr("31 positions"));
  auto tokens = RandomTokens(64, 15);
  tokens[40] = 61;
  const auto result = RunEvaluate(*model, nullptr, tokens, {.context = 32});
  EXPECT_THAT(result.status().message(), HasSubstr("window 1"));
}

TEST(Evaluate, StopsWhenCancelled) {
  auto model = Model(RandomSource(SmallConfig(), 13));
  RequestCancel();
  const auto result = RunEvaluate(*model, nullptr, RandomTokens(64, 14), {.context = 32});
  ClearCancel();
  EXPECT_EQ(result.status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace tq
