// Models with ternary weights, from files of every form, against their equations in double.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../../tests/support/tiny_bitnet.h"
#include "../../tests/support/tiny_transformer.h"
#include "device/thread_pool.h"
#include "model/packed_twins_for_test.h"
#include "model/reference_forward_for_test.h"
#include "model/running_layer.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support

struct ExpectedLogits {
  std::vector<float> logits;
  double margin;
};

// The equations' logits behind every token, where matrices of these names see inputs of 8 bits.
ExpectedLogits Expected(const TinyModel& model, const std::vector<int32_t>& tokens,
                        const ReferenceForward::Names& rounds) {
  const MemorySource source = InMemory(model);
  const ReferenceForward reference(source, rounds);
  ExpectedLogits result;
  for (const auto& row : reference.Run(tokens)) {
    result.logits.insert(result.logits.end(), row.begin(), row.end());
  }
  result.margin = reference.smallest_margin();
  return result;
}

const std::vector<int32_t> kTokens = {3, 17, 58, 0, 21, 21, 9, 44, 30, 5};

// A model, its files, and what it computes. No rounding of activations is so close that errors of
// float, which are 1e-4 steps at most, could turn it: one seed in five gives such a model.
struct Case {
  TinyModel model;
  TinyDirectory files;
  std::vector<float> expected;
};
Case MakeCase(BitNetForm form, const ReferenceForward::Names& rounds,
              const std::string& architecture = "bitnet") {
  constexpr double kMargin = 3e-4;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Case c;
    c.model = MakeTinyModel({.architecture = architecture,
                             .hidden = 32,
                             .intermediate = 48,
                             .vocab = 60,
                             .seed = seed});
    c.files = MakeTinyBitNet(c.model, form);
    ExpectedLogits expected = Expected(c.model, kTokens, rounds);
    if (expected.margin < kMargin) continue;
    c.expected = std::move(expected.logits);
    return c;
  }
  ADD_FAILURE() << "no seed gives a model with such margins";
  return {};
}

bool IsLinear(std::string_view name) { return IsTinyLinear(name); }

class BitNetTest : public ::testing::TestWithParam<BitNetForm> {};

TEST_P(BitNetTest, AgreesWithTheEquations) {
  for (const char* architecture : {"bitnet", "llama", "qwen2"}) {
    SCOPED_TRACE(architecture);
    const Case c = MakeCase(GetParam(), IsLinear, architecture);
    const auto model = LoadDirectory(c.files);
    ASSERT_NE(model, nullptr);
    const std::vector<float> logits = LogitsInRuns(*model, kTokens, 10, inline_executor);
    EXPECT_LT(RelativeError(logits, c.expected), 1e-5);
    // A token's logits depend neither on its company nor on the number of threads.
    EXPECT_EQ(LogitsInRuns(*model, kTokens, 1, inline_executor), logits);
    EXPECT_EQ(LogitsInRuns(*model, kTokens, 3, inline_executor), logits);
    auto pool = *ThreadPool::Create(3);
    EXPECT_EQ(LogitsInRuns(*model, kTokens, 10, *pool), logits);
    // The rounding of activations is part of the model; the reference path has none.
    const std::vector<float> unrounded = Expected(c.model, kTokens, nullptr).logits;
    EXPECT_GT(RelativeError(logits, unrounded), 1e-3);
    const auto floats = LogitsInRuns(*model, kTokens, 10, inline_executor, MatmulPath::kReference);
    EXPECT_LT(RelativeError(floats, unrounded), 1e-5);
  }
}

// Matrices stay packed: what a token reads, and what the file holds.
TEST_P(BitNetTest, CountsBytes) {
  const Case c = MakeCase(GetParam(), IsLinear);
  const auto model = LoadDirectory(c.files);
  ASSERT_NE(model, nullptr);
  const ModelConfig& config = c.model.config;
  uint64_t stored = 0, packed = 0, floats = 0, parameters = 0;
  for (const OutputTensor& tensor : c.files.tensors) stored += tensor.tensor.num_bytes();
  for (const TinyTensor& tensor : c.model.tensors) {
    parameters += tensor.values.size();
    if (IsTinyLinear(tensor.name)) {
      packed += TernaryBytes(ternary::Packing::k2Bits, tensor.shape[0], tensor.shape[1]);
      packed += sizeof(float);
    } else {
      floats += tensor.values.size() * sizeof(float);  // norms, and the table that is the head too
    }
  }
  EXPECT_EQ(model->file_bytes(), stored);
  EXPECT_EQ(model->num_parameters(), parameters);
  EXPECT_EQ(model->BytesPerToken(), packed + floats + config.hidden_size * sizeof(float));
}

INSTANTIATE_TEST_SUITE_P(Forms, BitNetTest, ::testing::ValuesIn(kBitNetForms),
                         [](const auto& info) {
                           return info.param == BitNetForm::kBitLinear       ? "bitlinear"
                                  : info.param == BitNetForm::kAutoBitLinear ? "autobitlinear"
                                                                             : "online";
                         });

// Of one group, some matrices see 8 bits and others floats.
TEST(BitNetModel, ModulesThatStayFloats) {
  const auto is_kept = [](std::string_view name) {
    return name.ends_with("k_proj.weight") || name.ends_with("1.mlp.down_proj.weight") ||
           name.ends_with("0.self_attn.o_proj.weight");
  };
  const auto rounds = [&](std::string_view name) { return IsTinyLinear(name) && !is_kept(name); };
  Case c = MakeCase(BitNetForm::kBitLinear, rounds);
  for (const TinyTensor& tensor : c.model.tensors) {
    if (!is_kept(tensor.name)) continue;
    c.files.Get(tensor.name).tensor =
        *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values);
    std::erase_if(c.files.tensors,
                  [&](const OutputTensor& t) { return t.name == tensor.name + "_scale"; });
  }
  c.files.quantization()["modules_to_not_convert"] = {
      "lm_head", "k_proj", "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"};
  const auto model = LoadDirectory(c.files);
  ASSERT_NE(model, nullptr);
  EXPECT_LT(RelativeError(LogitsInRuns(*model, kTokens, 4, inline_executor), c.expected), 1e-5);
}

// GGUF's ternary types, of a llama whose q and k have their rows in another order there.
TEST(BitNetModel, RunsTernaryTypesOfGguf) {
  for (const uint32_t type : {kPackTQ1_0, kPackTQ2_0}) {
    const TempFolder folder;
    std::optional<ExpectedLogits> expected;
    for (uint64_t seed = 1; seed <= 200; ++seed) {
      TinyModel model = MakeTinyModel(
          {.hidden = 256, .intermediate = 256, .layers = 1, .vocab = 60, .seed = seed});
      for (TinyTensor& tensor : model.tensors) {
        if (!IsTinyLinear(tensor.name)) continue;
        float scale;
        const auto trits = RoundTinyLinear(tensor.values, scale);
        scale = RoundTo(DType::kF16, scale);
        for (size_t i = 0; i < trits.size(); ++i) tensor.values[i] = scale * trits[i];
      }
      expected = Expected(model, {3, 17}, IsLinear);
      if (expected->margin < 3e-4) continue;
      GgufBuilder builder;
      AddConfigKeys(model.config, builder);
      for (const TinyTensor& tensor : model.tensors) {
        const uint32_t stored = IsTinyLinear(tensor.name) ? type : uint32_t{kPackF32};
        builder.Tensor(TinyGgufName(tensor.name, model.config), stored,
                       {tensor.shape.rbegin(), tensor.shape.rend()},
                       PackGguf(stored, GgufValues(tensor, model.config)));
      }
      WriteText(folder / "x.gguf", builder.Build());
      break;
    }
    auto model = Transformer::Load(folder / "x.gguf");
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_LT(RelativeError(LogitsInRuns(**model, std::vector{3, 17}, 2, inline_executor),
                            expected->logits),
              1e-5);
  }
}

// A source that breaks its promise of shapes is stopped before kernels rely on them.
TEST(BitNetModel, RefusesMatricesOfOtherShapes) {
  class Wrong final : public ModelSource {
   public:
    explicit Wrong(const MemorySource& source) : source_(source) { config_ = source.config(); }
    ModelKind kind() const override { return ModelKind::kHuggingFace; }
    StatusOr<Tensor> LoadFloat(std::string_view name) const override {
      return source_.LoadFloat(name);
    }
    StatusOr<Tensor> LoadStored(std::string_view name) const override { return LoadFloat(name); }
    Status HashTensor(std::string_view, Hasher&) const override { return OkStatus(); }
    StatusOr<std::optional<CodedMatrix>> LoadCoded(std::string_view name,
                                                   ternary::Packing packing) const override {
      if (!name.ends_with("1.mlp.up_proj.weight")) return std::optional<CodedMatrix>();
      const std::vector<float> weights(48 * 31);
      return std::optional<CodedMatrix>(
          *TernaryMatrixFromFloats(packing, weights.data(), 48, 31, inline_executor));
    }

   private:
    const MemorySource& source_;
  };
  const MemorySource source = InMemory(
      MakeTinyModel({.architecture = "bitnet", .hidden = 32, .intermediate = 48, .vocab = 60}));
  const auto model = Transformer::FromSource(Wrong(source));
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.status().message(), ::testing::HasSubstr("model.layers.1.mlp.up_proj.weight"));
  EXPECT_THAT(model.status().message(), ::testing::HasSubstr("[48, 31], not [48, 32]"));
}

TEST(BitNetModel, LargeModelsTakeFewerBits) {
  ModelConfig config = FindArchitecture("bitnet")->defaults;
  config.hidden_size = 2560, config.intermediate_size = 6912, config.num_layers = 30;
  config.num_heads = 20, config.num_kv_heads = 5, config.head_dim = 128;
  EXPECT_EQ(TernaryPackingFor(config), ternary::Packing::kBase3);
  config.num_layers = 1;  // 69 million weights, 17 MB
  EXPECT_EQ(TernaryPackingFor(config), ternary::Packing::k2Bits);
}

}  // namespace
}  // namespace tq
