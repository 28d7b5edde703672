#include "model/transformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "device/thread_pool.h"
#include "model/layer_tensors.h"
#include "model/memory_source_for_test.h"
#include "model/reference_forward_for_test.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

InlineExecutor inline_executor;
const ForwardContext kContext{&inline_executor, MatmulPath::kFast};

std::vector<int32_t> RandomTokens(uint64_t n, uint32_t vocab, uint64_t seed) {
  Random random(seed, "tokens");
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.NextBelow(vocab));
  return tokens;
}

std::unique_ptr<Transformer> Build(const MemorySource& source) {
  auto model = Transformer::FromSource(source);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return *std::move(model);
}

std::vector<float> AllLogits(Transformer& model, std::span<const int32_t> tokens,
                             const ForwardContext& context = kContext) {
  KvCache cache = *KvCache::Create(model.config(), tokens.size());
  std::vector<float> logits(tokens.size() * model.config().vocab_size);
  const Status status = model.Forward(context, cache, tokens, Logits::kAll, logits.data());
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(cache.length(), tokens.size());
  return logits;
}

// ||a - b|| / ||b||.
double RelativeError(std::span<const float> a, const std::vector<ReferenceForward::Vector>& b) {
  double difference = 0, norm = 0;
  size_t at = 0;
  for (const auto& row : b) {
    for (const double v : row) {
      difference += (a[at] - v) * (a[at] - v);
      norm += v * v;
      ++at;
    }
  }
  EXPECT_EQ(at, a.size());
  return std::sqrt(difference / norm);
}

struct Variant {
  const char* name;
  void (*change)(ModelConfig&);
};

class TransformerVariants : public ::testing::TestWithParam<Variant> {};

// The tolerance: float against double through three layers gives about 1e-6; a key or value
// near a rounding boundary of half moves by 5e-4 of itself, diluted by the others.
TEST_P(TransformerVariants, AgreesWithTheEquations) {
  ModelConfig config = SmallConfig();
  GetParam().change(config);
  const MemorySource source = RandomSource(config, 1);
  auto model = Build(source);
  const auto tokens = RandomTokens(40, config.vocab_size, 2);
  const auto logits = AllLogits(*model, tokens);
  EXPECT_LT(RelativeError(logits, ReferenceForward(source).Run(tokens)), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    All, TransformerVariants,
    ::testing::Values(Variant{"grouped", [](ModelConfig&) {}},
                      Variant{"every_head_its_own",
                              [](ModelConfig& c) { c.num_kv_heads = c.num_heads; }},
                      Variant{"one_kv_head", [](ModelConfig& c) { c.num_kv_heads = 1; }},
                      Variant{"separate_head", [](ModelConfig& c) { c.tie_embeddings = false; }},
                      Variant{"wide_heads", [](ModelConfig& c) { c.head_dim = 64; }},
                      Variant{"odd_sizes",
                              [](ModelConfig& c) {
                                c.hidden_size = 17;
                                c.intermediate_size = 33;
                                c.vocab_size = 3;
                              }},
                      Variant{"theta", [](ModelConfig& c) { c.rope_theta = 100; }},
                      Variant{"large_epsilon", [](ModelConfig& c) { c.rms_norm_eps = 0.5f; }}),
    [](const auto& info) { return info.param.name; });

// The reference must notice what it is there for: another pairing of RoPE, another
// assignment of query heads, a missing norm.
TEST(Transformer, TheReferenceIsSharp) {
  const MemorySource source = RandomSource(SmallConfig(), 1);
  const auto tokens = RandomTokens(20, 61, 2);
  const auto logits = AllLogits(*Build(source), tokens);
  ModelConfig other = SmallConfig();
  other.rope_theta = 9000;
  MemorySource changed = RandomSource(other, 1);
  EXPECT_GT(RelativeError(logits, ReferenceForward(changed).Run(tokens)), 1e-3);
  changed = RandomSource(SmallConfig(), 1);
  float* norm = changed.Mutable("model.layers.2.input_layernorm.weight");
  norm[3] += 0.1f;
  EXPECT_GT(RelativeError(logits, ReferenceForward(changed).Run(tokens)), 1e-3);
}

TEST(Transformer, TokenByTokenEqualsAtOnce) {
  const auto tokens = RandomTokens(50, 61, 3);
  auto model = Build(RandomSource(SmallConfig(), 4));
  const auto at_once = AllLogits(*model, tokens);
  KvCache cache = *KvCache::Create(model->config(), tokens.size());
  std::vector<float> logits(61);
  for (size_t i = 0; i < tokens.size(); ++i) {
    ASSERT_TRUE(
        model->Forward(kContext, cache, {&tokens[i], 1}, Logits::kLast, logits.data()).ok());
    // Dense products have one order of summation, so not a bit differs.
    ASSERT_EQ(0, std::memcmp(logits.data(), at_once.data() + i * 61, 61 * sizeof(float))) << i;
  }
}

// Longer than a chunk, so that attention crosses chunks of one call.
TEST(Transformer, LongPromptsRunInChunks) {
  ModelConfig config = SmallConfig();
  config.max_position = 700;
  auto model = Build(RandomSource(config, 5));
  const auto tokens = RandomTokens(600, 61, 6);
  ASSERT_LT(LayerWorkspace(config, LayerWorkspace::kRunBytes).chunk(), tokens.size());
  const auto at_once = AllLogits(*model, tokens);
  KvCache cache = *KvCache::Create(config, tokens.size());
  std::vector<float> logits(61);
  const std::span<const int32_t> all(tokens);
  ASSERT_TRUE(model->Forward(kContext, cache, all.first(13), Logits::kNone, nullptr).ok());
  ASSERT_TRUE(model->Forward(kContext, cache, all.subspan(13), Logits::kLast, logits.data()).ok());
  EXPECT_EQ(0, std::memcmp(logits.data(), at_once.data() + 599 * 61, 61 * sizeof(float)));
}

TEST(Transformer, ThreadsDoNotChangeABit) {
  const auto tokens = RandomTokens(70, 61, 7);
  auto model = Build(RandomSource(SmallConfig(), 8));
  const auto one = AllLogits(*model, tokens);
  for (const size_t threads : {2, 3}) {
    auto pool = *ThreadPool::Create(threads);
    EXPECT_EQ(one, AllLogits(*model, tokens, {pool.get(), MatmulPath::kFast})) << threads;
  }
}

TEST(Transformer, BlocksGiveTheSameLogits) {
  const auto tokens = RandomTokens(60, 61, 9);
  auto model = Build(RandomSource(SmallConfig(), 10));
  const auto all = AllLogits(*model, tokens);
  for (const uint64_t first : {0, 1, 37, 59, 60}) {
    KvCache cache = *KvCache::Create(model->config(), tokens.size());
    uint64_t next = first;
    const Status status = model->ForwardBlocks(
        kContext, cache, tokens, first, [&](uint64_t begin, uint64_t count, const float* logits) {
          EXPECT_EQ(begin, next);
          EXPECT_EQ(0, std::memcmp(logits, all.data() + begin * 61, count * 61 * sizeof(float)));
          next = begin + count;
          return OkStatus();
        });
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(next, tokens.size());
    EXPECT_EQ(cache.length(), tokens.size());
  }
}

TEST(Transformer, AConsumersErrorEndsTheRun) {
  auto model = Build(RandomSource(SmallConfig(), 10));
  KvCache cache = *KvCache::Create(model->config(), 8);
  const Status status =
      model->ForwardBlocks(kContext, cache, RandomTokens(8, 61, 1), 0,
                           [](uint64_t, uint64_t, const float*) { return Cancelled("enough"); });
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_EQ(cache.length(), 0u);
}

TEST(Transformer, TruncatedCacheForgets) {
  auto model = Build(RandomSource(SmallConfig(), 11));
  const auto tokens = RandomTokens(20, 61, 12), other = RandomTokens(20, 61, 13);
  KvCache cache = *KvCache::Create(model->config(), 20);
  std::vector<float> logits(61);
  ASSERT_TRUE(model->Forward(kContext, cache, other, Logits::kNone, nullptr).ok());
  cache.Truncate(0);
  ASSERT_TRUE(model->Forward(kContext, cache, tokens, Logits::kLast, logits.data()).ok());
  const auto fresh = AllLogits(*model, tokens);
  EXPECT_EQ(0, std::memcmp(logits.data(), fresh.data() + 19 * 61, 61 * sizeof(float)));
}

TEST(Transformer, RefusesBadTokensAndPositions) {
  auto model = Build(RandomSource(SmallConfig(), 14));
  KvCache cache = *KvCache::Create(model->config(), 4);
  std::vector<float> logits(61);
  const auto forward = [&](std::vector<int32_t> tokens) {
    return model->Forward(kContext, cache, tokens, Logits::kLast, logits.data());
  };
  EXPECT_THAT(forward({1, 61}).message(), HasSubstr("token 61 at position 1"));
  EXPECT_THAT(forward({-1}).message(), HasSubstr("token -1"));
  EXPECT_EQ(forward({2147483647}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(forward({}).code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(forward({1, 2, 3, 4, 5}).message(), HasSubstr("holds only 4"));
  EXPECT_EQ(cache.length(), 0u);
  ASSERT_TRUE(forward({1, 2, 3, 4}).ok());
  EXPECT_EQ(forward({1}).code(), StatusCode::kInvalidArgument);
}

TEST(Transformer, NamesTheLayerOfTheFirstNaN) {
  const auto message = [](const std::string& tensor, float value) {
    MemorySource source = RandomSource(SmallConfig(), 15);
    source.Mutable(tensor)[5] = value;
    auto model = Build(source);
    KvCache cache = *KvCache::Create(model->config(), 8);
    std::vector<float> logits(61);
    const std::vector<int32_t> tokens{1, 2, 3};
    const Status status = model->Forward(kContext, cache, tokens, Logits::kLast, logits.data());
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_EQ(cache.length(), 0u);
    return status.message();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_THAT(message("model.layers.1.mlp.down_proj.weight", nan),
              HasSubstr("layer 1: after its MLP"));
  EXPECT_THAT(message("model.layers.2.self_attn.v_proj.weight", inf),
              HasSubstr("layer 2: after its attention"));
  EXPECT_THAT(message("model.layers.0.self_attn.k_proj.weight", nan), HasSubstr("layer 0"));
  EXPECT_THAT(message("model.norm.weight", nan), HasSubstr("head"));
}

TEST(Transformer, RefusesImpossibleConfigs) {
  const std::pair<const char*, void (*)(ModelConfig&)> cases[] = {
      {"hidden_size", [](ModelConfig& c) { c.hidden_size = 0; }},
      {"num_layers", [](ModelConfig& c) { c.num_layers = 0; }},
      {"num_layers", [](ModelConfig& c) { c.num_layers = 4000000000u; }},
      {"KV heads", [](ModelConfig& c) { c.num_kv_heads = 3; }},
      {"head_dim", [](ModelConfig& c) { c.head_dim = 5; }},
      {"rope_theta", [](ModelConfig& c) { c.rope_theta = 0; }},
      {"rope_theta", [](ModelConfig& c) { c.rope_theta = NAN; }},
      {"rms_norm_eps", [](ModelConfig& c) { c.rms_norm_eps = -1; }},
      {"architecture", [](ModelConfig& c) { c.architecture = "mamba"; }},
      {"head_dim 258", [](ModelConfig& c) { c.head_dim = 258; }},
  };
  const MemorySource good = RandomSource(SmallConfig(), 1);
  for (const auto& [text, change] : cases) {
    ModelConfig config = SmallConfig();
    change(config);
    const auto model = Transformer::FromSource(MemorySource(config));
    ASSERT_FALSE(model.ok()) << text;
    EXPECT_THAT(model.status().message(), HasSubstr(text));
  }
}

TEST(Transformer, RefusesTensorsOfAnotherShape) {
  MemorySource source = RandomSource(SmallConfig(), 1);
  source.Set("model.layers.1.mlp.up_proj.weight", *Tensor::Zeros(DType::kF32, {40, 23}));
  const auto model = Transformer::FromSource(source);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.status().message(), HasSubstr("model.layers.1.mlp.up_proj.weight"));
  EXPECT_THAT(model.status().message(), HasSubstr("[40, 23]"));
}

TEST(Transformer, CountsTheBytesAndWeightsOfAToken) {
  const ModelConfig config = SmallConfig();
  uint64_t expected = 0;
  ForEachTensor(config, [&](const std::string&, const Shape& shape) {
    expected += 4 * *NumElements(shape);  // the tied matrix serves as the head
  });
  expected += 4 * config.hidden_size;
  const auto model = Build(RandomSource(config, 1));
  EXPECT_EQ(model->BytesPerToken(), expected);
  // The embedding's row and norms are no products.
  const uint64_t norms = config.hidden_size * (2 * config.num_layers + 1);
  EXPECT_EQ(model->WeightsPerToken(), expected / 4 - config.hidden_size - norms);
}

// A layer alone, as calibration runs it: observers see each group's input, and layers with
// caches of their own give what the whole model gives.
TEST(DecoderLayer, RunsAloneWithObservers) {
  const MemorySource source = RandomSource(SmallConfig(), 16);
  const ModelConfig& c = source.config();
  const auto tokens = RandomTokens(11, c.vocab_size, 17);
  std::vector<float> hidden;
  for (const int32_t token : tokens) {
    const float* row = source.Get("model.embed_tokens.weight").as<float>() + token * c.hidden_size;
    hidden.insert(hidden.end(), row, row + c.hidden_size);
  }
  const std::vector<float> embedded = hidden;
  std::map<GroupRole, uint64_t> seen;
  for (uint32_t i = 0; i < c.num_layers; ++i) {
    auto layer = *LoadFloatLayer(source, i);
    KvCache cache = *KvCache::Create(c, 1, tokens.size());
    const Status status = layer->Forward(
        kContext, cache, 0, hidden.data(), tokens.size(),
        [&](GroupRole role, const float* x, uint64_t n, uint64_t features) {
          seen[role] += n * features;
          if (i == 0 && role == GroupRole::kQkv) {
            // RMSNorm of the embedding, by hand at one place.
            double squares = 0;
            for (uint64_t j = 0; j < features; ++j) {
              squares += double{embedded[j]} * embedded[j];
            }
            const float weight = source.Get("model.layers.0.input_layernorm.weight").as<float>()[7];
            EXPECT_NEAR(x[7], embedded[7] / std::sqrt(squares / features + 1e-5) * weight, 1e-5);
          }
        });
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_FALSE(layer->Forward(kContext, cache, 1, hidden.data(), 1).ok());
    EXPECT_FALSE(layer->Forward(kContext, cache, 0, hidden.data(), tokens.size() + 1).ok());
  }
  const uint64_t positions = c.num_layers * tokens.size();
  EXPECT_EQ(seen[GroupRole::kQkv], positions * c.hidden_size);
  EXPECT_EQ(seen[GroupRole::kO], positions * c.q_size());
  EXPECT_EQ(seen[GroupRole::kGateUp], positions * c.hidden_size);
  EXPECT_EQ(seen[GroupRole::kDown], positions * c.intermediate_size);

  // Final norm and head of the layers' result against the model.
  const auto logits = AllLogits(*Build(source), tokens);
  const float* last = hidden.data() + (tokens.size() - 1) * c.hidden_size;
  double squares = 0;
  for (uint32_t j = 0; j < c.hidden_size; ++j) squares += double{last[j]} * last[j];
  const double rms = std::sqrt(squares / c.hidden_size + c.rms_norm_eps);
  for (uint32_t token = 0; token < c.vocab_size; ++token) {
    double dot = 0;
    for (uint32_t j = 0; j < c.hidden_size; ++j) {
      dot += last[j] / rms * source.Get("model.norm.weight").as<float>()[j] *
             source.Get("model.embed_tokens.weight").as<float>()[token * c.hidden_size + j];
    }
    EXPECT_NEAR(dot, logits[(tokens.size() - 1) * c.vocab_size + token], 1e-4);
  }
}

TEST(DecoderLayer, HalvesOneAfterTheOtherGiveTheWhole) {
  const MemorySource source = RandomSource(SmallConfig(), 18);
  const ModelConfig& c = source.config();
  constexpr uint64_t kPositions = 9;
  Random random(19, "hidden");
  std::vector<float> whole(kPositions * c.hidden_size);
  for (float& value : whole) value = static_cast<float>(random.NextNormal());
  std::vector<float> halves = whole;
  KvCache cache = *KvCache::Create(c, 1, kPositions);
  uint64_t bytes = 0;
  for (const LayerPart part : {LayerPart::kAttention, LayerPart::kMlp}) {
    auto layer = *LoadFloatLayer(source, 1, nullptr, part);
    ASSERT_TRUE(layer->Forward(kContext, cache, 0, halves.data(), kPositions).ok());
    bytes += layer->weight_bytes();
  }
  auto layer = *LoadFloatLayer(source, 1);
  ASSERT_TRUE(layer->Forward(kContext, cache, 0, whole.data(), kPositions).ok());
  EXPECT_EQ(halves, whole);
  EXPECT_EQ(bytes, layer->weight_bytes());
}

TEST(DecoderLayer, RefusesALayerThatIsNotThere) {
  EXPECT_FALSE(LoadFloatLayer(RandomSource(SmallConfig(), 1), 3).ok());
}

}  // namespace
}  // namespace tq
