// Packed models on a CUDA device against the processor. Needs a device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "../../tests/support/tiny_model.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/fused_steps.h"
#include "kernels/isa.h"
#include "model/backend.h"
#include "model/packed_twins_for_test.h"
#include "model/sampler.h"

namespace tq {
namespace {

using ::testing::HasSubstr;
using testing::TempFolder;

CudaOptions WithFuse(CudaOptions::Fuse fuse) {
  CudaOptions options;
  options.fuse = fuse;
  return options;
}

class CudaBackendDeviceTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { TQ_SKIP_WITHOUT_DEVICE(); }

  TempFolder folder_;
};

// Norms, attention and SiLU differ by rounding, the products have the same bits. Through the
// integers of x and the cache in half precision rounding grows: to 3.6e-4 between the processor's
// portable level and AVX-512.
TEST_P(CudaBackendDeviceTest, IsTheModelOfTheProcessor) {
  const Twins twins = MakeTwins(folder_ / "model", PackedConfig(GetParam()), "trellis");
  auto cpu = *Transformer::FromPacked(twins.packed);
  auto cuda = Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  ASSERT_TRUE(cuda.ok()) << cuda.status().message();
  EXPECT_EQ((*cuda)->BytesPerToken(), cpu->BytesPerToken());
  // More than a block of attention, no multiple of a chunk.
  const auto tokens = SomeTokens(299);
  const double error = RelativeError(AllLogits(**cuda, tokens, MatmulPath::kFast),
                                     AllLogits(*cpu, tokens, MatmulPath::kFast));
  EXPECT_LT(error, 1e-3);
  RecordProperty("error", fmt::format("{}", error));
}

TEST_P(CudaBackendDeviceTest, RunsDoNotChangeABit) {
  const Twins twins = MakeTwins(folder_ / "model", PackedConfig(GetParam()), "trellis");
  auto model = *Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  const auto tokens = SomeTokens(270);
  const auto at_once = AllLogits(*model, tokens, MatmulPath::kFast);
  for (uint64_t run : {1, 3, 16, 50}) {
    EXPECT_EQ(at_once, LogitsInRuns(*model, tokens, run, inline_executor)) << "run " << run;
  }
}

TEST_P(CudaBackendDeviceTest, NextTokenIsTheLikeliest) {
  const Twins twins = MakeTwins(folder_ / "model", PackedConfig(GetParam()), "trellis");
  auto model = *Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  const ForwardContext context{&inline_executor, MatmulPath::kFast};
  KvCache one = *model->NewCache(90), two = *model->NewCache(90);
  std::vector<float> logits(300);
  auto tokens = SomeTokens(3);
  for (uint32_t limit : {300u, 100u}) {
    for (int i = 0; i < 40; ++i) {
      ASSERT_TRUE(model->Forward(context, one, tokens, Logits::kLast, logits.data()).ok());
      const auto best = std::max_element(logits.begin(), logits.begin() + limit) - logits.begin();
      const StatusOr<int32_t> next = model->NextToken(context, two, tokens, {limit});
      ASSERT_TRUE(next.ok()) << next.status().message();
      ASSERT_EQ(*next, best);
      ASSERT_EQ(two.length(), one.length());
      tokens = {*next};
    }
  }
}

// Drawn on the device they are those that the processor draws from the same logits.
TEST_P(CudaBackendDeviceTest, TokensDrawnAreTheSamplers) {
  if (CommonIsa(CurrentIsa()) == Isa::kReference) GTEST_SKIP() << "exp differs by rounding";
  const Twins twins = MakeTwins(folder_ / "model", PackedConfig(GetParam()), "trellis");
  auto model = *Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  const ForwardContext context{&inline_executor, MatmulPath::kFast};
  std::vector<float> logits(300);
  // Every combination of steps; without a penalty, a temperature of 0 is the likeliest token.
  for (uint32_t steps = 0; steps < 32; ++steps) {
    SamplerOptions options;
    options.temperature = steps & 1 ? 1.5f : 0;
    options.repetition_penalty = steps & 2 ? 1.3f : 1;
    options.top_k = steps & 4 ? 40 : 0;
    options.top_p = steps & 8 ? 0.9f : 1;
    options.min_p = steps & 16 ? 0.02f : 0;
    options.seed = steps;
    Sampler on_host = *Sampler::Create(options), on_device = *Sampler::Create(options);
    KvCache one = *model->NewCache(40), two = *model->NewCache(40);
    auto history = SomeTokens(1);
    for (int i = 0; i < 30; ++i) {
      const auto last = std::span<const int32_t>(history).last(1);
      const uint32_t limit = i < 15 ? 300 : 100;
      ASSERT_TRUE(model->Forward(context, one, last, Logits::kLast, logits.data()).ok());
      const auto expected = on_host.Sample(std::span(logits).first(limit), history);
      const auto drawn = model->NextToken(context, two, last, {limit, &on_device, history});
      ASSERT_TRUE(drawn.ok()) << drawn.status().message();
      ASSERT_EQ(*drawn, *expected) << "steps " << steps << " token " << i;
      history.push_back(*drawn);
    }
  }
}

TEST_P(CudaBackendDeviceTest, TwoCachesAreTwoConversations) {
  const Twins twins = MakeTwins(folder_ / "model", PackedConfig(GetParam()), "trellis");
  auto model = *Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  const ForwardContext context{&inline_executor, MatmulPath::kFast};
  const auto tokens = SomeTokens(40);
  const auto expected = LogitsInRuns(*model, tokens, 1, inline_executor);
  KvCache one = *model->NewCache(40), two = *model->NewCache(512);
  std::vector<float> logits(300), other(300);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto token = std::span(tokens).subspan(i, 1);
    ASSERT_TRUE(model->Forward(context, one, token, Logits::kLast, logits.data()).ok());
    ASSERT_TRUE(model->Forward(context, two, token, Logits::kLast, other.data()).ok());
    ASSERT_EQ(logits, other);
    ASSERT_TRUE(std::equal(logits.begin(), logits.end(), expected.begin() + 300 * i));
  }
}

TEST_P(CudaBackendDeviceTest, ValuesThatAreNotFiniteNameTheirLayer) {
  // A packed model holds finite numbers, whose products overflow.
  const ModelConfig config = PackedConfig(GetParam());
  const Twins twins = MakeTwins(folder_ / "model", config, "trellis", [&](MemorySource& source) {
    float* norm = source.Mutable("model.layers.1.post_attention_layernorm.weight");
    std::fill_n(norm, config.hidden_size, 3e38f);
  });
  for (uint64_t n : {1, 5}) {
    auto model = *Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
    KvCache cache = *model->NewCache(8);
    const Status status = model->Forward({&inline_executor, MatmulPath::kFast}, cache,
                                         SomeTokens(n), Logits::kNone, nullptr);
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr("layer 1: after its MLP"));
    EXPECT_EQ(cache.length(), 0u);
  }
}

// Sizes whose transforms have 128 values.
ModelConfig FusableConfig(bool tied) {
  ModelConfig config = PackedConfig(tied);
  config.hidden_size = 256;
  config.intermediate_size = 384;
  config.head_dim = 64;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  return config;
}

TEST_P(CudaBackendDeviceTest, FusedStepsDoNotChangeABit) {
  if (!cuda::DeviceCanFuse()) GTEST_SKIP() << "NOT TESTED: the device has no clusters";
  const ModelConfig config = FusableConfig(GetParam());
  const Twins twins = MakeTwins(folder_ / "model", config, "trellis");
  std::vector<std::unique_ptr<Backend>> backends;
  for (const auto fuse : {CudaOptions::Fuse::kMust, CudaOptions::Fuse::kNever}) {
    auto backend = MakeCudaBackend(twins.packed, WithFuse(fuse));
    ASSERT_TRUE(backend.ok()) << backend.status().message();
    backends.push_back(*std::move(backend));
  }
  const ForwardContext context{&inline_executor, MatmulPath::kFast};
  const auto tokens = SomeTokens(300);
  KvCache caches[] = {*backends[0]->NewCache(300), *backends[1]->NewCache(300)};
  for (size_t at = 0, n = 1; at < tokens.size(); at += n, n = n % 16 + 1) {
    n = std::min(n, tokens.size() - at);
    std::vector<float> logits[2];
    for (int i : {0, 1}) {
      logits[i].resize(n * config.vocab_size);
      const auto part = std::span(tokens).subspan(at, n);
      ASSERT_TRUE(backends[i]->RunLayers(context, caches[i], part).ok());
      caches[i].Advance(n);
      ASSERT_TRUE(backends[i]->Head(context, 0, n, at, logits[i].data()).ok());
    }
    ASSERT_EQ(logits[0], logits[1]) << "from " << at << " on";
  }
}

TEST_P(CudaBackendDeviceTest, FusedIsTheModelOfTheProcessorAndNamesLayers) {
  if (!cuda::DeviceCanFuse()) GTEST_SKIP() << "NOT TESTED: the device has no clusters";
  const ModelConfig config = FusableConfig(GetParam());
  const Twins twins = MakeTwins(folder_ / "model", config, "trellis");
  auto cpu = *Transformer::FromPacked(twins.packed);
  auto cuda = *Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  const auto tokens = SomeTokens(299);
  EXPECT_LT(RelativeError(LogitsInRuns(*cuda, tokens, 16, inline_executor),
                          AllLogits(*cpu, tokens, MatmulPath::kFast)),
            1e-3);
  const Twins infinite = MakeTwins(folder_ / "infinite", config, "trellis", [&](auto& source) {
    float* norm = source.Mutable("model.layers.2.input_layernorm.weight");
    std::fill_n(norm, config.hidden_size, 3e38f);
  });
  auto model = *Transformer::FromPacked(infinite.packed, {DeviceKind::kCuda});
  KvCache cache = *model->NewCache(8);
  const Status status = model->Forward({&inline_executor, MatmulPath::kFast}, cache, SomeTokens(3),
                                       Logits::kNone, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("layer 2: after its attention"));
}

// Prompts in half precision, in registers and through memory, in one piece and in several.
TEST_P(CudaBackendDeviceTest, PromptsAtOnceAreNearTheModelOfTheProcessor) {
  ModelConfig any = FusableConfig(GetParam());
  any.hidden_size = 192;
  any.intermediate_size = 240;
  for (const ModelConfig& config : {FusableConfig(GetParam()), any}) {
    const Twins twins = MakeTwins(folder_ / std::to_string(config.hidden_size), config, "trellis");
    auto cpu = *Transformer::FromPacked(twins.packed);
    const auto tokens = SomeTokens(299);
    const auto expected = AllLogits(*cpu, tokens, MatmulPath::kFast);
    for (const uint64_t rows : {2048, 128}) {
      CudaOptions options;
      options.prefill_rows = rows;
      auto backend = *MakeCudaBackend(twins.packed, options);
      const uint64_t at_once = backend->Chunk(UINT64_MAX);
      if (at_once != rows) GTEST_SKIP() << "NOT TESTED: " << at_once << " rows";
      KvCache cache = *backend->NewCache(tokens.size() + 1);
      std::vector<float> logits(expected.size());
      const ForwardContext context{&inline_executor, MatmulPath::kFast};
      for (size_t at = 0, n = 0; at < tokens.size(); at += n) {
        n = backend->Chunk(tokens.size() - at);
        ASSERT_TRUE(backend->RunLayers(context, cache, std::span(tokens).subspan(at, n)).ok());
        cache.Advance(n);
        ASSERT_TRUE(backend->Head(context, 0, n, at, &logits[at * config.vocab_size]).ok());
      }
      const double error = RelativeError(logits, expected);
      EXPECT_LT(error, 3e-3) << config.hidden_size << " columns, " << rows << " rows";
      RecordProperty(fmt::format("error_{}_{}", config.hidden_size, rows),
                     fmt::format("{}", error));
      // A token behind them goes through its own kernels.
      const auto next = backend->NextToken(context, cache, 7, {config.vocab_size});
      ASSERT_TRUE(next.ok()) << next.status().message();
      cache.Truncate(tokens.size());
      ASSERT_TRUE(backend->RunLayers(context, cache, SomeTokens(1)).ok());
      std::vector<float> one(config.vocab_size);
      EXPECT_TRUE(backend->Head(context, 0, 1, tokens.size(), one.data()).ok());
    }
  }
}

TEST_P(CudaBackendDeviceTest, PromptsAtOnceNameTheirLayer) {
  const ModelConfig config = FusableConfig(GetParam());
  const Twins twins = MakeTwins(folder_ / "model", config, "trellis", [&](auto& source) {
    float* norm = source.Mutable("model.layers.1.post_attention_layernorm.weight");
    std::fill_n(norm, config.hidden_size, 3e38f);
  });
  auto model = *Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  KvCache cache = *model->NewCache(100);
  const Status status = model->Forward({&inline_executor, MatmulPath::kFast}, cache,
                                       SomeTokens(100), Logits::kNone, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("layer 1: after its MLP"));
}

TEST_P(CudaBackendDeviceTest, LayersThatDoNotFitRunOnTheProcessor) {
  const ModelConfig config = FusableConfig(GetParam());
  const Twins twins = MakeTwins(folder_ / "model", config, "trellis");
  auto cpu = *Transformer::FromPacked(twins.packed);
  const auto tokens = SomeTokens(150);
  const auto expected = AllLogits(*cpu, tokens, MatmulPath::kFast);
  std::vector<std::string> names;
  // Every allocation counts 2 MiB at least.
  for (uint64_t megabytes = 2; names.empty() || names.back().find(" of ") != std::string::npos;
       megabytes += 2) {
    ASSERT_LT(megabytes, 256u);
    auto model = Transformer::FromPacked(twins.packed, {DeviceKind::kCuda, megabytes << 20, 151});
    if (!model.ok()) {
      EXPECT_EQ(model.status().code(), StatusCode::kResourceExhausted);
      EXPECT_THAT(model.status().message(), HasSubstr("--gpu-memory"));
      EXPECT_TRUE(names.empty());
      continue;
    }
    if (!names.empty() && names.back() == (*model)->device_name()) continue;
    names.push_back((*model)->device_name());
    EXPECT_EQ((*model)->BytesPerToken(), cpu->BytesPerToken());
    EXPECT_LT(RelativeError(LogitsInRuns(**model, tokens, 16, inline_executor), expected), 1e-3)
        << names.back();
    EXPECT_LT(RelativeError(AllLogits(**model, tokens, MatmulPath::kFast), expected), 3e-3)
        << names.back();
    KvCache cache = *(*model)->NewCache(151), same = *(*model)->NewCache(151);
    const ForwardContext context{&inline_executor, MatmulPath::kFast};
    std::vector<float> logits(config.vocab_size);
    for (const auto& part : {tokens, SomeTokens(1)}) {
      const auto next = (*model)->NextToken(context, cache, part, {config.vocab_size});
      ASSERT_TRUE(next.ok()) << next.status().message();
      ASSERT_TRUE((*model)->Forward(context, same, part, Logits::kLast, logits.data()).ok());
      EXPECT_EQ(*next, LikeliestToken(logits));
    }
  }
  // One layer, two, three, and with the head.
  EXPECT_EQ(names.size(), config.num_layers + 1) << ::testing::PrintToString(names);
}

TEST_P(CudaBackendDeviceTest, GroupedModelsAreRefusedByName) {
  const Twins twins = MakeTwins(folder_ / "model", PackedConfig(GetParam()), "rtn");
  const auto model = Transformer::FromPacked(twins.packed, {DeviceKind::kCuda});
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), StatusCode::kUnimplemented);
  EXPECT_THAT(model.status().message(), HasSubstr("self_attn.qkv"));
}

INSTANTIATE_TEST_SUITE_P(Tied, CudaBackendDeviceTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? std::string("tied") : std::string("separate");
});

}  // namespace
}  // namespace tq
