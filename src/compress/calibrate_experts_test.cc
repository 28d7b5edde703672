// Calibrating MLPs of experts, one expert at a time.
#include "compress/calibrate_experts.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

#include "../../tests/support/temp_folder.h"
#include "compress/calibrate.h"
#include "compress/testing.h"
#include "device/thread_pool.h"
#include "model/memory_source_for_test.h"
#include "model/transformer_ops.h"

namespace tq {
namespace {

constexpr uint32_t kExperts = 5;

CalibrationTokens SomeTokens(uint64_t windows) {
  CalibrationTokens tokens;
  tokens.context = 50;
  Random random(3, "tokens");
  for (uint64_t i = 0; i < windows * tokens.context; ++i) {
    tokens.ids.push_back(static_cast<int32_t>(random.NextBelow(61)));
  }
  return tokens;
}

std::string Group(uint32_t layer, uint32_t expert, const char* suffix) {
  return fmt::format("model.layers.{}.mlp.experts.{}.{}", layer, expert, suffix);
}

std::set<std::string> AllGroups(uint32_t layer) {
  std::set<std::string> names = {fmt::format("model.layers.{}.self_attn.qkv", layer),
                                 fmt::format("model.layers.{}.self_attn.o", layer)};
  for (uint32_t e = 0; e < kExperts; ++e) {
    for (const char* suffix : {"gate_up", "down"}) names.insert(Group(layer, e, suffix));
  }
  return names;
}

class ExpertCalibrationTest : public ::testing::Test {
 protected:
  CalibrationStream Stream(const CalibrationTokens& tokens, uint64_t limit = 1 << 30) {
    return *CalibrationStream::Create(source_, tokens, limit, folder_.path());
  }
  // The residual stream behind all layers, by the model that everybody runs.
  std::vector<float> Run(const CalibrationTokens& tokens, uint32_t layers) {
    const ModelConfig& c = source_.config();
    ForwardContext context;
    context.executor = &executor_;
    std::vector<float> states(tokens.ids.size() * c.hidden_size);
    EXPECT_TRUE(source_.LoadRows("model.embed_tokens.weight", tokens.ids, states.data()).ok());
    for (uint32_t i = 0; i < layers; ++i) {
      const auto layer = *LoadFloatLayer(source_, i);
      for (uint64_t w = 0; w < tokens.windows(); ++w) {
        KvCache cache = *KvCache::Create(c, 1, tokens.context);
        EXPECT_TRUE(layer
                        ->Forward(context, cache, 0,
                                  states.data() + w * tokens.context * c.hidden_size,
                                  tokens.context)
                        .ok());
      }
    }
    return states;
  }

  testing::TempFolder folder_;
  InlineExecutor executor_;
  MemorySource source_ = RandomSource(SmallConfig("qwen3_moe"), 1);
};

// Streaming experts changes no bit of what the layer computes.
TEST_F(ExpertCalibrationTest, RunsTheLayersOfTheModel) {
  const CalibrationTokens tokens = SomeTokens(4);
  for (const uint64_t limit : {uint64_t{1} << 30, uint64_t{1}}) {  // in memory, and spilled
    CalibrationStream stream = Stream(tokens, limit);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      ASSERT_TRUE(stream.RunLayer({}, executor_).ok());
      const std::vector<float> want = Run(tokens, layer + 1);
      const uint64_t size = want.size() / tokens.windows();
      for (uint64_t w = 0; w < tokens.windows(); ++w) {
        EXPECT_EQ(std::memcmp(stream.States(w), want.data() + w * size, size * sizeof(float)), 0);
      }
    }
  }
}

// By the formula at kPoolRows, from the layer's own inputs.
TEST_F(ExpertCalibrationTest, HessiansAreOverRoutedRowsAndThePool) {
  const ModelConfig& c = source_.config();
  const CalibrationTokens tokens = SomeTokens(20);
  ASSERT_GT(tokens.ids.size(), kPoolRows);
  // The inputs of the MLP of layer 0.
  std::vector<float> x(tokens.ids.size() * c.hidden_size);
  ASSERT_TRUE(source_.LoadRows("model.embed_tokens.weight", tokens.ids, x.data()).ok());
  const auto attention = *LoadFloatLayer(source_, 0, nullptr, LayerPart::kAttention);
  ForwardContext context;
  context.executor = &executor_;
  for (uint64_t w = 0; w < tokens.windows(); ++w) {
    KvCache cache = *KvCache::Create(c, 1, tokens.context);
    ASSERT_TRUE(attention
                    ->Forward(context, cache, 0, x.data() + w * tokens.context * c.hidden_size,
                              tokens.context)
                    .ok());
  }
  const MlpVectors vectors = *LoadMlpVectors(c, 0, VectorsOf(source_));
  RmsNormRows(x.data(), vectors.norm.as<float>(), tokens.ids.size(), c.hidden_size, c.rms_norm_eps,
              executor_, x.data());
  Routing routing(c);
  routing.Add(vectors.router, x.data(), tokens.ids.size(), executor_);

  CalibrationStream stream = Stream(tokens);
  std::map<std::string, HessianSum> sums;
  const auto keep = [&](HessianSum sum) {
    std::string name = sum.name();
    sums.emplace(std::move(name), std::move(sum));
    return OkStatus();
  };
  ASSERT_TRUE(stream.RunLayer(AllGroups(0), keep, executor_).ok());
  ASSERT_EQ(sums.size(), AllGroups(0).size());
  uint64_t routed = 0;
  for (uint32_t e = 0; e < kExperts; ++e) {
    const auto own = routing.Of(e);
    routed += own.size();
    EXPECT_EQ(stream.expert_rows(e), own.size());
    std::vector<float> rows;
    const auto add = [&](uint64_t token) {
      rows.insert(rows.end(), x.begin() + static_cast<ptrdiff_t>(token * c.hidden_size),
                  x.begin() + static_cast<ptrdiff_t>((token + 1) * c.hidden_size));
    };
    for (const RoutedToken& t : own) add(t.token);
    for (uint64_t i = 0; i < kPoolRows; ++i) add(i * tokens.ids.size() / kPoolRows);
    HessianSum& gate_up = sums.at(Group(0, e, "gate_up"));
    EXPECT_EQ(gate_up.count(), own.size() + kPoolRows);
    EXPECT_EQ(sums.at(Group(0, e, "down")).count(), own.size() + kPoolRows);
    const Tensor want = testing::Gram(rows, c.hidden_size);
    const Tensor got = *std::move(gate_up).Finish(executor_);
    for (uint64_t i = 0; i < want.num_elements(); ++i) {
      ASSERT_NEAR(got.as<float>()[i], want.as<float>()[i], 1e-4) << e;
    }
  }
  EXPECT_EQ(routed, tokens.ids.size() * c.experts_per_token);
}

// Nobody needs the Hessians of two experts at once, nor weights beside them.
TEST_F(ExpertCalibrationTest, SumsComeOneExpertAtATime) {
  CalibrationStream stream = Stream(SomeTokens(4));
  std::vector<std::string> names;
  const auto note = [&](HessianSum sum) {
    names.push_back(sum.name());
    return OkStatus();
  };
  ASSERT_TRUE(stream.RunLayer(AllGroups(0), note, executor_).ok());
  std::vector<std::string> want = {"model.layers.0.self_attn.qkv", "model.layers.0.self_attn.o"};
  for (uint32_t e = 0; e < kExperts; ++e) {
    want.push_back(Group(0, e, "gate_up"));
    want.push_back(Group(0, e, "down"));
  }
  EXPECT_EQ(names, want);
  // What is not wanted is not summed; what the caller finds wrong ends the layer.
  names.clear();
  ASSERT_TRUE(stream.RunLayer({Group(1, 3, "down")}, note, executor_).ok());
  EXPECT_EQ(names, (std::vector<std::string>{Group(1, 3, "down")}));
  const auto refuse = [](HessianSum) { return DataLoss("no"); };
  EXPECT_EQ(stream.RunLayer(AllGroups(2), refuse, executor_).code(), StatusCode::kDataLoss);
}

// An expert that no token reaches has the pool's Hessian and a small share.
TEST_F(ExpertCalibrationTest, NeverReachedExpertsHaveThePool) {
  const ModelConfig& c = source_.config();
  // Every input has the same first feature: the router's weight of it is a bias of expert 2.
  float* router = source_.Mutable("model.layers.0.mlp.gate.weight");
  float* norm = source_.Mutable("model.layers.0.post_attention_layernorm.weight");
  float* embedding = source_.Mutable("model.embed_tokens.weight");
  for (uint32_t i = 0; i < c.vocab_size; ++i) embedding[i * c.hidden_size] = 30;
  norm[0] = 1;
  source_.Mutable("model.layers.0.input_layernorm.weight")[0] = 0;
  for (uint32_t e = 0; e < kExperts; ++e) router[e * c.hidden_size] = e == 2 ? -100 : 0;
  const CalibrationTokens tokens = SomeTokens(20);
  CalibrationStream stream = Stream(tokens);
  std::map<std::string, uint64_t> counts;
  const auto note = [&](HessianSum sum) {
    counts[sum.name()] = sum.count();
    return std::move(sum).Finish(executor_).status();
  };
  ASSERT_TRUE(stream.RunLayer(AllGroups(0), note, executor_).ok());
  EXPECT_EQ(stream.expert_rows(2), 0u);
  EXPECT_EQ(counts[Group(0, 2, "gate_up")], kPoolRows);
  EXPECT_EQ(counts[Group(0, 2, "down")], kPoolRows);
  double mean = 0;
  for (uint32_t e = 0; e < kExperts; ++e) {
    if (stream.expert_rows(e) > 0) mean += stream.expert_share(e) / kExperts;
  }
  EXPECT_GT(mean, 0);
  EXPECT_NEAR(stream.expert_share(2), CalibrationStream::kLeastShare * mean, 1e-6 * mean);
}

// Robustness case 48.
TEST_F(ExpertCalibrationTest, NonFiniteActivationsNameTheExpert) {
  for (const char* name : {"gate_proj", "up_proj"}) {
    float* w = source_.Mutable(fmt::format("model.layers.1.mlp.experts.3.{}.weight", name));
    for (int i = 0; i < 100; ++i) w[i] *= 1e25f;
  }
  CalibrationStream stream = Stream(SomeTokens(4));
  ASSERT_TRUE(stream.RunLayer({}, executor_).ok());
  const auto sums = stream.RunLayer(AllGroups(1), executor_);
  ASSERT_FALSE(sums.ok());
  EXPECT_EQ(sums.status().code(), StatusCode::kDataLoss);
  EXPECT_NE(sums.status().message().find("model.layers.1.mlp.experts.3.down"), std::string::npos)
      << sums.status().message();
}

}  // namespace
}  // namespace tq
