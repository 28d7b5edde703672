#include "model/mlp.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "model/decoder_layer.h"
#include "model/layer_tensors.h"
#include "model/memory_source_for_test.h"

namespace tq {
namespace {

ModelConfig SomeExperts(uint32_t experts, uint32_t used, bool renormalise = true) {
  ModelConfig config = SmallConfig("qwen3_moe");
  config.num_experts = experts;
  config.experts_per_token = used;
  config.renormalise_experts = renormalise;
  return config;
}

Tensor Router(const std::vector<float>& values, uint64_t experts) {
  return *Tensor::FromValues<float>(DType::kF32, {experts, values.size() / experts}, values);
}

std::vector<uint32_t> TokensOf(const Routing& routing, uint32_t expert) {
  std::vector<uint32_t> tokens;
  for (const RoutedToken& t : routing.Of(expert)) tokens.push_back(t.token);
  return tokens;
}

TEST(RoutingTest, ChoosesTheLargestAndWeighsThem) {
  InlineExecutor executor;
  // Logits 0, ln 2, ln 4, ln 1 of a token 1; its double has them squared.
  const float l = std::log(2.0f);
  const Tensor router = Router({0, l, 2 * l, 0}, 4);
  const float x[] = {1, 2};
  for (const bool renormalise : {true, false}) {
    Routing routing(SomeExperts(4, 2, renormalise));
    routing.Add(router, x, 2, executor);
    EXPECT_EQ(routing.tokens(), 2u);
    EXPECT_TRUE(routing.Of(0).empty() && routing.Of(3).empty());
    ASSERT_EQ(TokensOf(routing, 1), (std::vector<uint32_t>{0, 1}));
    ASSERT_EQ(TokensOf(routing, 2), (std::vector<uint32_t>{0, 1}));
    EXPECT_NEAR(routing.Of(1)[0].weight, renormalise ? 2.0 / 6 : 2.0 / 8, 1e-6);
    EXPECT_NEAR(routing.Of(2)[0].weight, renormalise ? 4.0 / 6 : 4.0 / 8, 1e-6);
    EXPECT_NEAR(routing.Of(2)[1].weight, renormalise ? 16.0 / 20 : 16.0 / 22, 1e-6);
  }
}

TEST(RoutingTest, EqualOnesGoToLowerNumbers) {
  InlineExecutor executor;
  Routing routing(SomeExperts(5, 3));
  const float x[] = {1};
  routing.Add(Router({0, 1, 0, 1, 0}, 5), x, 1, executor);
  EXPECT_EQ(TokensOf(routing, 0).size(), 1u);
  EXPECT_EQ(TokensOf(routing, 1).size(), 1u);
  EXPECT_EQ(TokensOf(routing, 2).size(), 0u);
  EXPECT_EQ(TokensOf(routing, 3).size(), 1u);
  EXPECT_EQ(TokensOf(routing, 4).size(), 0u);
}

TEST(RoutingTest, CountsTokensOverCallsUntilItIsCleared) {
  InlineExecutor executor;
  Routing routing(SomeExperts(2, 1));
  const Tensor router = Router({1, -1}, 2);
  const float x[] = {1, -1, -2}, more[] = {3, -4};
  routing.Add(router, x, 3, executor);
  routing.Add(router, more, 2, executor);
  EXPECT_EQ(TokensOf(routing, 0), (std::vector<uint32_t>{0, 3}));
  EXPECT_EQ(TokensOf(routing, 1), (std::vector<uint32_t>{1, 2, 4}));
  routing.Clear();
  EXPECT_TRUE(routing.Of(0).empty() && routing.tokens() == 0);
}

// Every token has its experts whatever the numbers, and what is wrong shows in their weights.
TEST(RoutingTest, ValuesThatAreNotFiniteStayVisible) {
  InlineExecutor executor;
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Routing routing(SomeExperts(4, 2));
    const float x[] = {bad};
    routing.Add(Router({1, -1, 2, 0.5f}, 4), x, 1, executor);
    size_t chosen = 0;
    for (uint32_t e = 0; e < 4; ++e) {
      chosen += routing.Of(e).size();
      for (const RoutedToken& t : routing.Of(e)) EXPECT_FALSE(std::isfinite(t.weight)) << bad;
    }
    EXPECT_EQ(chosen, 2u);
  }
}

TEST(RoutingTest, RowsGoOutAndComeBackWeighted) {
  InlineExecutor executor;
  const float x[] = {1, 2, 3, 4, 5, 6};
  const RoutedToken tokens[] = {{0, 0.5f}, {2, 2}};
  float rows[4], sum[] = {10, 10, 10, 10, 10, 10};
  GatherRows(x, 2, tokens, executor, rows);
  EXPECT_TRUE(std::ranges::equal(rows, std::vector<float>{1, 2, 5, 6}));
  AddWeightedRows(rows, 2, tokens, executor, sum);
  EXPECT_TRUE(std::ranges::equal(sum, std::vector<float>{10.5f, 11, 10, 10, 20, 22}));
}

// An expert that sees nothing is not run: its weights are of no account.
TEST(SparseMlpTest, OnlyChosenExpertsCount) {
  const ModelConfig config = SomeExperts(5, 2);
  InlineExecutor executor;
  ForwardContext context;
  context.executor = &executor;
  std::vector<float> x(2 * config.hidden_size);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i % config.hidden_size));
  const auto output = [&](bool spoil, std::set<uint32_t>* seen) {
    MemorySource source = RandomSource(config, 1);
    LayerTensors tensors = *LoadLayerTensors(source, 0, LayerPart::kMlp);
    Routing routing(config);
    routing.Add(tensors.mlp.router, x.data(), 2, executor);
    for (uint32_t e = 0; e < config.num_experts; ++e) {
      if (!routing.Of(e).empty()) {
        seen->insert(e);
      } else if (spoil) {
        tensors.experts[e].down.mutable_as<float>()[0] = NAN;
      }
    }
    MlpWeights weights;
    weights.vectors = tensors.mlp;
    for (const MlpTensors& expert : tensors.experts) {
      weights.experts.push_back(*MakeFloatMlp(expert, nullptr));
    }
    SparseBuffers buffers{std::vector<float>(x.size()), std::vector<float>(x.size()),
                          Routing(config)};
    std::vector<float> inner(4 * config.mlp_size());
    EXPECT_TRUE(RunExperts(context, config, weights, x.data(), 2, inner.data(), buffers).ok());
    return buffers.sum;
  };
  std::set<uint32_t> seen;
  const std::vector<float> sum = output(false, &seen);
  EXPECT_EQ(seen.size(), 2u);  // both tokens are the same
  EXPECT_TRUE(
      std::equal(sum.begin(), sum.begin() + config.hidden_size, sum.begin() + config.hidden_size));
  EXPECT_EQ(output(true, &seen), sum);
  EXPECT_TRUE(std::ranges::any_of(sum, [](float v) { return v != 0; }));
}

TEST(SparseMlpTest, ATokenReadsAsManyExpertsAsSeeIt) {
  const ModelConfig config = SomeExperts(5, 2);
  const MemorySource source = RandomSource(config, 1);
  const uint64_t bytes = (*LoadFloatLayer(source, 0, nullptr, LayerPart::kMlp))->weight_bytes();
  const uint64_t vectors = uint64_t{config.hidden_size} * (1 + 5);
  EXPECT_EQ(bytes, sizeof(float) * (vectors + 2 * 3 * 20 * config.hidden_size));
  EXPECT_EQ(FloatLayerBytes(config, LayerPart::kMlp),
            sizeof(float) * 5 * 3 * 20 * config.hidden_size);
}

}  // namespace
}  // namespace tq
