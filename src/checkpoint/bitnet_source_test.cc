// Models with ternary weights, from Hugging Face directories with quantization_config and from
// GGUF's ternary types.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "../../tests/support/directory_source_fixture.h"
#include "../../tests/support/tiny_bitnet.h"
#include "checkpoint/gguf.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support
using nlohmann::json;
using ternary::Packing;
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kDataLoss = StatusCode::kDataLoss;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kNotFound = StatusCode::kNotFound;
constexpr char kUp[] = "model.layers.1.mlp.up_proj.weight";
constexpr char kQ[] = "model.layers.0.self_attn.q_proj.weight";

std::vector<float> Decoded(const TernaryMatrix& matrix) {
  std::vector<float> values(matrix.rows * matrix.cols);
  DecodeRows(matrix, 0, matrix.rows, values.data());
  return values;
}

TernaryMatrix Ternary(const ModelSource& source, std::string_view name, Packing packing) {
  return std::get<TernaryMatrix>(source.LoadCoded(name, packing)->value());
}

class BitNetSource : public DirectorySourceTest {
 protected:
  void Make(BitNetForm form, const std::string& architecture = "bitnet") {
    model_ = MakeTinyModel({.architecture = architecture, .vocab = 60});
    directory_ = MakeTinyBitNet(model_, form);
  }
};

void ExpectTheModel(const TinyModel& model, const ModelSource& source) {
  ASSERT_EQ(source.tensors().size(), model.tensors.size());
  for (const TinyTensor& tensor : model.tensors) {
    SCOPED_TRACE(tensor.name);
    ASSERT_EQ(source.Find(tensor.name)->shape, tensor.shape);
    EXPECT_EQ(Values(*source.LoadFloat(tensor.name)), tensor.values);
    EXPECT_EQ(Values(*source.LoadStored(tensor.name)), tensor.values);
    EXPECT_EQ(*source.FormOf(tensor.name) == MatrixForm::kTernary, IsTinyLinear(tensor.name));
    const uint64_t cols = tensor.shape.back();
    for (const Packing packing : ternary::kAllPackings) {
      const auto coded = *source.LoadCoded(tensor.name, packing);
      ASSERT_EQ(coded.has_value(), IsTinyLinear(tensor.name));
      if (!coded) continue;
      const auto& ternary = std::get<TernaryMatrix>(*coded);
      EXPECT_EQ(ternary.packing, packing);
      EXPECT_EQ(Decoded(ternary), tensor.values);
    }
    if (tensor.shape.size() == 1) continue;
    const std::array<int32_t, 3> rows = {7, 0, static_cast<int32_t>(tensor.shape[0] - 1)};
    std::vector<float> read(rows.size() * cols), expected;
    ASSERT_TRUE(source.LoadRows(tensor.name, rows, read.data()).ok());
    for (const int32_t row : rows) {
      const auto begin = tensor.values.begin() + static_cast<ptrdiff_t>(row * cols);
      expected.insert(expected.end(), begin, begin + static_cast<ptrdiff_t>(cols));
    }
    EXPECT_EQ(read, expected);
  }
}

TEST_F(BitNetSource, ReadsEveryForm) {
  for (const BitNetForm form : kBitNetForms) {
    for (const char* architecture : {"bitnet", "llama", "qwen2"}) {
      SCOPED_TRACE(fmt::format("{} {}", architecture, static_cast<int>(form)));
      Make(form, architecture);
      const auto source = Open();
      ASSERT_TRUE(source.ok()) << source.status().message();
      ExpectTheModel(model_, **source);
      const SourceTensorInfo& up = *(*source)->Find(kUp);
      const uint64_t weights = up.shape[0] * up.shape[1];
      EXPECT_EQ(up.bytes, form == BitNetForm::kOnline ? weights * 4 : weights / 4 + 4);
      EXPECT_EQ(up.type, form == BitNetForm::kOnline ? "F32" : "U8");
      EXPECT_FALSE(
          (*source)->LoadCoded("model.layers.9.mlp.up_proj.weight", Packing::k2Bits)->has_value());
    }
  }
}

// A `bitlinear` is packed whatever the mode, and is what absent fields mean. Factors come in 16
// bits as well.
TEST_F(BitNetSource, DefaultsAndHalfFactors) {
  Make(BitNetForm::kBitLinear);
  ASSERT_TRUE(With("quantization_mode", "online").ok());
  directory_.quantization() = {{"quant_method", "bitnet"}};
  directory_.config["auto_map"] = {{"AutoConfig", "configuration_bitnet.BitNetConfig"}};
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const uint16_t two = dtype == DType::kBF16 ? FloatToBFloat16(2) : FloatToHalf(2);
    const auto source = WithTensor(std::string(kUp) + "_scale",
                                   *Tensor::FromValues(dtype, {1}, std::span(&two, 1)));
    ASSERT_TRUE(source.ok()) << source.status().message();
    EXPECT_EQ(Ternary(**source, kUp, Packing::k2Bits).scales, std::vector{0.5f});
  }
}

TEST_F(BitNetSource, KeepsModulesByName) {
  Make(BitNetForm::kBitLinear);
  // In a prefix, an end, and a name that is only the beginning of others.
  const json names = {"lm_head", "model.layers.0.self_attn", "up_proj", "model.layers.1.mlp.gate"};
  EXPECT_THAT(With("modules_to_not_convert", names),
              Fails(kInvalid, "model.layers.0.self_attn.q_proj.weight", "[16, 64]", "[64, 64]"));
  for (const TinyTensor& tensor : model_.tensors) {
    const bool kept = tensor.name.starts_with("model.layers.0.self_attn.") ||
                      tensor.name.ends_with("up_proj.weight");
    if (!kept || !IsTinyLinear(tensor.name)) continue;
    directory_.Get(tensor.name).tensor =
        *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values);
    std::erase_if(directory_.tensors,
                  [&](const OutputTensor& t) { return t.name == tensor.name + "_scale"; });
  }
  const auto source = With("modules_to_not_convert", names);
  ASSERT_TRUE(source.ok()) << source.status().message();
  for (const TinyTensor& tensor : model_.tensors) {
    EXPECT_EQ(Values(*(*source)->LoadFloat(tensor.name)), tensor.values) << tensor.name;
  }
  EXPECT_EQ(*(*source)->FormOf(kQ), MatrixForm::kFloats);
  EXPECT_EQ(*(*source)->FormOf(kUp), MatrixForm::kFloats);
  EXPECT_EQ(*(*source)->FormOf("model.layers.1.mlp.gate_proj.weight"), MatrixForm::kTernary);
  EXPECT_EQ(*(*source)->FormOf("model.layers.1.self_attn.q_proj.weight"), MatrixForm::kTernary);
}

TEST_F(BitNetSource, RefusesWhatItDoesNotHonour) {
  Make(BitNetForm::kAutoBitLinear);
  for (const auto& [field, value] : std::vector<std::pair<const char*, json>>{
           {"use_rms_norm", true},
           {"linear_class", "bitlinear2"},
           {"linear_class", nullptr},
           {"quantization_mode", "both"},
           {"modules_to_not_convert", json::array()},
           {"modules_to_not_convert", {"mlp"}},
           {"modules_to_not_convert", "lm_head"},
           {"modules_to_not_convert", {"lm_head", 1}},
           {"modules_to_not_convert", {"lm_head", ""}},
           {"modules_to_not_convert", {"lm_head", "layers.*.mlp"}},
           {"bits", 2}}) {
    EXPECT_THAT(With(field, value),
                Fails(kUnimplemented, "config.json", "quantization_config", field));
  }
  // All others are refused as before.
  EXPECT_THAT(With("quant_method", "hqq"), Fails(kUnimplemented, "quantization_config", "hqq"));
  directory_.config["quantization_config"] = "bitnet";
  EXPECT_THAT(Open(), Fails(kUnimplemented, "quantization_config"));
}

TEST_F(BitNetSource, FactorsThatAreNone) {
  Make(BitNetForm::kBitLinear);
  const std::string name = std::string(kUp) + "_scale";
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {0.0f, -1.0f, NAN, kInf}) {
    EXPECT_THAT(WithTensor(name, *Tensor::FromValues(DType::kF32, {1}, std::span(&bad, 1))),
                Fails(kDataLoss, "model.safetensors", name, "positive"));
  }
  // Its inverse is infinite.
  const float tiny = std::numeric_limits<float>::denorm_min();
  const auto source = WithTensor(name, *Tensor::FromValues(DType::kF32, {1}, std::span(&tiny, 1)));
  ASSERT_TRUE(source.ok());
  EXPECT_THAT((*source)->LoadFloat(kUp), Fails(kDataLoss, "model.safetensors", kUp, "inverse"));
  EXPECT_THAT(WithTensor(name, *Tensor::Zeros(DType::kF32, {2})), Fails(kInvalid, name, "F32 [2]"));
  EXPECT_THAT(WithTensor(name, *Tensor::Zeros(DType::kF32, {1, 1})), Fails(kInvalid, name));
  EXPECT_THAT(WithTensor(name, *Tensor::Zeros(DType::kU8, {1})), Fails(kInvalid, name, "U8"));
  std::erase_if(directory_.tensors, [&](const OutputTensor& t) { return t.name == name; });
  EXPECT_THAT(Open(), Fails(kNotFound, "hf", name));
}

TEST_F(BitNetSource, PackedWeightsThatAreNone) {
  Make(BitNetForm::kAutoBitLinear);
  Tensor codes = *Tensor::FromBytes(
      DType::kU8, {32, 64},
      {directory_.Get(kUp).tensor.data(), directory_.Get(kUp).tensor.num_bytes()});
  codes.mutable_data()[5 * 64 + 3] |= 0x30;  // bits 4 and 5: row 2 * 32 + 5
  const auto source = WithTensor(kUp, codes);
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_THAT((*source)->LoadFloat(kUp),
              Fails(kDataLoss, "model.safetensors", kUp, "holds 3", "row 69 column 3"));
  EXPECT_THAT((*source)->LoadCoded(kUp, Packing::kBase3), Fails(kDataLoss, kUp, "row 69"));
  EXPECT_THAT(WithTensor(kUp, *Tensor::Zeros(DType::kU8, {128, 64})),
              Fails(kInvalid, kUp, "U8 [128, 64]", "U8 [32, 64]"));
  EXPECT_THAT(WithTensor(kUp, *Tensor::Zeros(DType::kI8, {32, 64})), Fails(kInvalid, kUp, "I8"));
  // Floats where codes belong.
  EXPECT_THAT(WithTensor(kUp, *Tensor::Zeros(DType::kF32, {128, 64})),
              Fails(kInvalid, kUp, "F32 [128, 64]"));
  // Codes where floats belong.
  EXPECT_THAT(With("quantization_mode", "online"), Fails(kInvalid, "q_proj.weight", "[16, 64]"));
  // And without quantization_config.
  directory_.config.erase("quantization_config");
  EXPECT_THAT(Open(), Fails(kInvalid, "q_proj.weight", "[16, 64]"));
}

TEST_F(BitNetSource, RowsThatDoNotPack) {
  Make(BitNetForm::kBitLinear);
  directory_.config["intermediate_size"] = 126;
  EXPECT_THAT(Open(), Fails(kInvalid, "gate_proj.weight", "126 rows", "4"));
}

TEST_F(BitNetSource, WeightsToRoundThatAreNotFinite) {
  Make(BitNetForm::kOnline);
  Tensor values = *Tensor::Zeros(DType::kF32, {128, 64});
  values.mutable_as<float>()[70] = NAN;
  const auto source = WithTensor(kUp, values);
  ASSERT_TRUE(source.ok());
  EXPECT_THAT((*source)->LoadFloat(kUp), Fails(kDataLoss, "model.safetensors", kUp, "nan"));
  // One that holds no weight but zeros is sound.
  const auto zeros = WithTensor(kUp, *Tensor::Zeros(DType::kF32, {128, 64}));
  EXPECT_EQ(Values(*(*zeros)->LoadFloat(kUp)), std::vector<float>(128 * 64));
}

// What changes the weights changes their fingerprint.
TEST_F(BitNetSource, FingerprintsCountAllThatWeightsDependOn) {
  Make(BitNetForm::kAutoBitLinear);
  const std::string hash = HashOf(kUp);
  EXPECT_EQ(HashOf(kUp), hash);
  directory_.quantization()["linear_class"] = "bitlinear";
  EXPECT_NE(HashOf(kUp), hash);
  directory_.quantization()["linear_class"] = "autobitlinear";
  const float other = 0.123f;
  directory_.Get(std::string(kUp) + "_scale").tensor =
      *Tensor::FromValues(DType::kF32, {1}, std::span(&other, 1));
  EXPECT_NE(HashOf(kUp), hash);
  Make(BitNetForm::kOnline);
  const std::string online = HashOf(kUp);
  directory_.config.erase("quantization_config");
  EXPECT_NE(HashOf(kUp), online);
}

class TernaryGguf : public ::testing::TestWithParam<uint32_t> {
 protected:
  // A llama of matrices that are ternary but for what `change` does; scales that halves hold.
  std::unique_ptr<ModelSource> Open(const std::function<void(TinyModel&)>& change) {
    model_ = MakeTinyModel({.hidden = 256, .intermediate = 512, .vocab = 60});
    for (TinyTensor& tensor : model_.tensors) {
      if (!IsTinyLinear(tensor.name)) continue;
      float scale;
      const auto trits = RoundTinyLinear(tensor.values, scale);
      scale = RoundTo(DType::kF16, scale);
      for (size_t i = 0; i < trits.size(); ++i) tensor.values[i] = scale * trits[i];
    }
    change(model_);
    GgufBuilder builder;
    AddConfigKeys(model_.config, builder);
    for (const TinyTensor& tensor : model_.tensors) {
      const uint32_t type = IsTinyLinear(tensor.name) ? GetParam() : uint32_t{kPackF32};
      builder.Tensor(TinyGgufName(tensor.name, model_.config), type,
                     {tensor.shape.rbegin(), tensor.shape.rend()},
                     PackGguf(type, GgufValues(tensor, model_.config)));
    }
    WriteText(folder_ / "x.gguf", builder.Build());
    auto source = ModelSource::Open(folder_ / "x.gguf");
    EXPECT_TRUE(source.ok()) << source.status().message();
    return source.ok() ? *std::move(source) : nullptr;
  }
  TempFolder folder_;
  TinyModel model_;
};

// q and k have their rows in another order there.
TEST_P(TernaryGguf, MatricesOfOneScale) {
  const auto source = Open([](TinyModel& model) {
    // A row and a block of zeros, whose scales are 0 in the file; a matrix of zeros.
    std::fill_n(model.Get(kQ).values.begin() + 256 * 3, 256, 0.0f);
    std::fill_n(model.Get(kUp).values.begin(), 256, 0.0f);
    std::ranges::fill(model.Get("model.layers.0.mlp.down_proj.weight").values, 0.0f);
  });
  ASSERT_NE(source, nullptr);
  ExpectTheModel(model_, *source);
  EXPECT_EQ(Ternary(*source, kQ, Packing::k2Bits).scales.size(), 1u);
}

TEST_P(TernaryGguf, MatricesOfOneScalePerRow) {
  const auto source = Open([](TinyModel& model) {
    std::vector<float>& values = model.Get(kQ).values;
    for (size_t i = 0; i < values.size(); ++i) values[i] *= static_cast<float>(1 << i / 256 % 3);
  });
  ASSERT_NE(source, nullptr);
  ExpectTheModel(model_, *source);
  EXPECT_EQ(Ternary(*source, kQ, Packing::kBase3).scales.size(), 256u);
}

TEST_P(TernaryGguf, RowsOfSeveralScalesAreFloats) {
  static constexpr char kDown[] = "model.layers.1.mlp.down_proj.weight";
  const auto source = Open([](TinyModel& model) {
    for (int i = 0; i < 256; ++i) model.Get(kDown).values[512 * 9 + i] *= 2;
  });
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(*source->FormOf(kDown), MatrixForm::kFloats);
  EXPECT_FALSE(source->LoadCoded(kDown, Packing::k2Bits)->has_value());
  EXPECT_EQ(Values(*source->LoadFloat(kDown)), model_.Get(kDown).values);
  EXPECT_EQ(*source->FormOf(kUp), MatrixForm::kTernary);
}

INSTANTIATE_TEST_SUITE_P(Types, TernaryGguf, ::testing::Values(kPackTQ1_0, kPackTQ2_0),
                         [](const auto& info) {
                           return info.param == kPackTQ1_0 ? "TQ1_0" : "TQ2_0";
                         });

TEST(BitNetGguf, IsRefusedByName) {
  TempFolder folder;
  for (const char* name : {"bitnet", "bitnet-25", "bitnet-b1.58"}) {
    GgufBuilder builder;
    builder.String("general.architecture", name);
    WriteText(folder / "x.gguf", builder.Build());
    EXPECT_THAT(ModelSource::Open(folder / "x.gguf"),
                Fails(kUnimplemented, "x.gguf", name, "SiLU", "squared ReLU"));
  }
}

}  // namespace
}  // namespace tq
