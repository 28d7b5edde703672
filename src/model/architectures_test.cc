// Every architecture against its equations, unquantised and packed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/architectures/architecture.h"
#include "checkpoint/safetensors.h"
#include "device/thread_pool.h"
#include "model/memory_source_for_test.h"
#include "model/packed_twins_for_test.h"
#include "model/reference_forward_for_test.h"
#include "model/transformer.h"

namespace tq {
namespace {

std::vector<int32_t> Tokens(uint64_t n, uint32_t vocab) {
  Random random(4, "tokens");
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.NextBelow(vocab));
  return tokens;
}

std::vector<float> Expected(const MemorySource& source, const std::vector<int32_t>& tokens) {
  std::vector<float> logits;
  for (const auto& row : ReferenceForward(source).Run(tokens)) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

std::vector<float> Logits(const MemorySource& source, const std::vector<int32_t>& tokens,
                          uint64_t run) {
  auto model = Transformer::FromSource(source);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return LogitsInRuns(**model, tokens, run, inline_executor);
}

class ArchitectureTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ArchitectureTest, AgreesWithTheEquations) {
  const ModelConfig config = SmallConfig(GetParam());
  const MemorySource source = RandomSource(config, 1);
  const std::vector<int32_t> tokens = Tokens(40, config.vocab_size);
  const std::vector<float> expected = Expected(source, tokens);
  EXPECT_LT(RelativeError(Logits(source, tokens, 40), expected), 1e-4);
  EXPECT_LT(RelativeError(Logits(source, tokens, 7), expected), 1e-4);
  // On the processor a token's logits do not depend on its company.
  EXPECT_EQ(Logits(source, tokens, 40), Logits(source, tokens, 1));
}

TEST_P(ArchitectureTest, PackedAgreesWithItsWeights) {
  ModelConfig config = SmallConfig(GetParam());
  const ModelConfig sizes = PackedConfig(true);
  config.vocab_size = sizes.vocab_size;
  config.hidden_size = sizes.hidden_size;
  config.intermediate_size = sizes.intermediate_size;
  config.head_dim = sizes.head_dim;
  config.max_position = sizes.max_position;
  if (config.expert_size != 0) config.expert_size = 120;
  const testing::TempFolder folder;
  const Twins twins = MakeTwins(folder.path() / "packed", config, "trellis");
  auto packed = Transformer::FromPacked(twins.packed);
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  EXPECT_EQ((*packed)->config().architecture, GetParam());
  const std::vector<int32_t> tokens = SomeTokens(30);
  const std::vector<float> expected = Expected(twins.dense, tokens);
  EXPECT_LT(RelativeError(AllLogits(**packed, tokens, MatmulPath::kReference), expected), 1e-3);
  EXPECT_LT(RelativeError(AllLogits(**packed, tokens, MatmulPath::kFast), expected), 0.02);
}

// Nor where a few positions, or one, go to an expert.
TEST_P(ArchitectureTest, PiecesOfPackedDoNotChangeABit) {
  ModelConfig config = SmallConfig(GetParam());
  config.vocab_size = PackedConfig(true).vocab_size;
  config.max_position = 64;
  const testing::TempFolder folder;
  const Twins twins = MakeTwins(folder.path() / "packed", config, "trellis");
  auto packed = Transformer::FromPacked(twins.packed);
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  const std::vector<int32_t> tokens = SomeTokens(30);
  const std::vector<float> whole = AllLogits(**packed, tokens, MatmulPath::kFast);
  for (const uint64_t run : {2, 3, 10}) {
    EXPECT_EQ(LogitsInRuns(**packed, tokens, run, inline_executor), whole) << run;
  }
}

TEST_P(ArchitectureTest, ThreadsDoNotChangeABit) {
  const ModelConfig config = SmallConfig(GetParam());
  const MemorySource source = RandomSource(config, 1);
  const std::vector<int32_t> tokens = Tokens(30, config.vocab_size);
  auto model = Transformer::FromSource(source);
  ASSERT_TRUE(model.ok()) << model.status().message();
  auto pool = *ThreadPool::Create(3);
  EXPECT_EQ(LogitsInRuns(**model, tokens, 30, *pool), Logits(source, tokens, 30));
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const Architecture* architecture : Architectures())
    names.push_back(architecture->model_type);
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, ArchitectureTest, ::testing::ValuesIn(Names()),
                         [](const auto& info) { return info.param; });

// Against Hugging Face's transformers: benchmarks/oracles/forward_oracle.py wrote models and
// logits.
class ForwardGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(ForwardGolden, AgreesWithTransformers) {
  const std::filesystem::path folder =
      std::filesystem::path(TQ_GOLDEN_DIR) / "forward" / GetParam();
  auto model = Transformer::Load(folder);
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto expected = SafetensorsFile::Open(folder / "expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  const Tensor ids = *(*expected)->Copy("tokens"), logits = *(*expected)->Copy("logits");
  const std::vector<int32_t> tokens(ids.as<int32_t>(), ids.as<int32_t>() + ids.num_elements());
  const std::vector<float> theirs(logits.as<float>(), logits.as<float>() + logits.num_elements());
  const double error =
      RelativeError(LogitsInRuns(**model, tokens, tokens.size(), inline_executor), theirs);
  EXPECT_LT(error, 1e-4);
  RecordProperty("relative_error", fmt::format("{:.1e}", error));
}

INSTANTIATE_TEST_SUITE_P(All, ForwardGolden,
                         ::testing::Values("llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2",
                                           "gemma3", "bitnet", "bitnet_bitlinear",
                                           "bitnet_autobitlinear", "bitnet_online", "mixtral",
                                           "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

// Embedding and head that are stored in bfloat16 stay so, and nothing else changes.
TEST(Architecture, TablesInBFloat16GiveTheBitsOfTheirFloats) {
  for (const bool tied : {true, false}) {
    const testing::TempFolder folder;
    const testing::TinyModel model =
        testing::MakeTinyModel({.vocab = 60, .tied = tied, .dtype = DType::kBF16});
    MemorySource floats(model.config);
    for (const testing::TinyTensor& tensor : model.tensors) {
      floats.Set(tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values));
    }
    WriteHuggingFace(model, folder / "hf");
    auto narrow = Transformer::Load(folder / "hf");
    ASSERT_TRUE(narrow.ok()) << narrow.status().message();
    const std::vector<int32_t> tokens = Tokens(20, model.config.vocab_size);
    for (const uint64_t run : {1, 20}) {
      EXPECT_EQ(LogitsInRuns(**narrow, tokens, run, inline_executor), Logits(floats, tokens, run));
    }
    const uint64_t values = uint64_t{model.config.hidden_size} * (model.config.vocab_size + 1);
    EXPECT_EQ((*narrow)->BytesPerToken() + 2 * values,
              (*Transformer::FromSource(floats))->BytesPerToken());
  }
}

TEST(Architecture, ScaledRotaryEmbeddings) {
  for (const auto kind : {RopeScaling::Kind::kLinear, RopeScaling::Kind::kLlama3}) {
    ModelConfig config = SmallConfig();
    config.head_dim = 16;
    config.rope_scaling = {kind, 8, 1, 4, 16};
    const MemorySource source = RandomSource(config, 1);
    const std::vector<int32_t> tokens = Tokens(60, config.vocab_size);
    const std::vector<float> expected = Expected(source, tokens);
    EXPECT_LT(RelativeError(Logits(source, tokens, 60), expected), 1e-4);
    config.rope_scaling = {};
    EXPECT_GT(RelativeError(Logits(RandomSource(config, 1), tokens, 60), expected), 1e-3);
  }
}

// Each of what an architecture does changes logits by more than the tolerance above: none could be
// left out unnoticed.
using Changes = std::vector<std::pair<const char*, std::function<void(ModelConfig&)>>>;
void ExpectEachMatters(const ModelConfig& config, const Changes& changes) {
  const MemorySource source = RandomSource(config, 1);
  const std::vector<int32_t> tokens = Tokens(40, config.vocab_size);
  const std::vector<float> whole = Logits(source, tokens, 40);
  EXPECT_LT(RelativeError(whole, Expected(source, tokens)), 1e-4);
  for (const auto& [name, change] : changes) {
    ModelConfig other = config;
    change(other);
    MemorySource changed(other);
    ForEachTensor(config, [&](const std::string& tensor, const Shape&) {
      changed.Set(tensor, source.Get(tensor));
    });
    EXPECT_GT(RelativeError(Logits(changed, tokens, 40), whole), 1e-3) << name;
  }
}

TEST(Architecture, EveryTraitMatters) {
  const Changes changes = {
      {"activation", [](ModelConfig& c) { c.activation = Activation::kSilu; }},
      {"norm_plus_one", [](ModelConfig& c) { c.norm_plus_one = false; }},
      {"scaled_embedding", [](ModelConfig& c) { c.scaled_embedding = false; }},
      {"query_scalar", [](ModelConfig& c) { c.query_scalar = 0; }},
      {"attention_softcap", [](ModelConfig& c) { c.attention_softcap = 0; }},
      {"logit_softcap", [](ModelConfig& c) { c.logit_softcap = 0; }},
      {"sliding_window", [](ModelConfig& c) { c.sliding_window = 10; }},
      {"full_attention_every", [](ModelConfig& c) { c.full_attention_every = 3; }},
      {"qk_norm", [](ModelConfig& c) { c.qk_norm = false; }},
      {"rope_local_theta", [](ModelConfig& c) { c.rope_local_theta = 0; }}};
  ModelConfig config = SmallConfig("gemma3_text");
  config.attention_softcap = 2;
  config.logit_softcap = 3;
  config.full_attention_every = 2;
  ExpectEachMatters(config, changes);
}

TEST(Architecture, EveryTraitOfExpertsMatters) {
  ExpectEachMatters(SmallConfig("qwen3_moe"),
                    {{"renormalise", [](ModelConfig& c) { c.renormalise_experts = true; }},
                     {"experts per token", [](ModelConfig& c) { c.experts_per_token = 3; }},
                     {"qk_norm", [](ModelConfig& c) { c.qk_norm = false; }}});
  ExpectEachMatters(SmallConfig("mixtral"),
                    {{"renormalise", [](ModelConfig& c) { c.renormalise_experts = false; }},
                     {"experts per token", [](ModelConfig& c) { c.experts_per_token = 1; }}});
}

}  // namespace
}  // namespace tq
