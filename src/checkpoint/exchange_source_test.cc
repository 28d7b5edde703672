// Models in the layouts of AutoGPTQ, GPTQModel and AutoAWQ, from Hugging Face directories.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "../../tests/support/directory_source_fixture.h"
#include "../../tests/support/tiny_exchange.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support
using nlohmann::json;
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kDataLoss = StatusCode::kDataLoss;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kNotFound = StatusCode::kNotFound;
constexpr auto kAnyPacking = ternary::Packing::k2Bits;
constexpr auto kAwq = ExchangeFormat::kAwq;
constexpr auto kGptqV2 = ExchangeFormat::kGptqV2;
constexpr char kUp[] = "model.layers.1.mlp.up_proj.weight";

std::string Part(std::string_view weight, std::string_view part) {
  return fmt::format("{}{}", weight.substr(0, weight.size() - 6), part);
}

class ExchangeSource : public DirectorySourceTest {
 protected:
  void Make(const TinyExchangeOptions& options, const std::string& architecture = "llama") {
    model_ = MakeTinyModel({.architecture = architecture, .vocab = 60});
    directory_ = MakeTinyExchange(model_, options);
  }
  StatusOr<std::unique_ptr<ModelSource>> WithPart(const char* part, Tensor tensor) {
    return WithTensor(Part(kUp, part), std::move(tensor));
  }
  // A copy of a part of kUp, to be changed.
  Tensor CopyOf(const char* part) {
    const Tensor& tensor = directory_.Get(Part(kUp, part)).tensor;
    return *Tensor::FromBytes(tensor.dtype(), tensor.shape(), {tensor.data(), tensor.num_bytes()});
  }
};

void ExpectTheModel(const TinyModel& model, const ModelSource& source) {
  ASSERT_EQ(source.tensors().size(), model.tensors.size());
  for (const TinyTensor& tensor : model.tensors) {
    SCOPED_TRACE(tensor.name);
    ASSERT_EQ(source.Find(tensor.name)->shape, tensor.shape);
    EXPECT_EQ(Values(*source.LoadFloat(tensor.name)), tensor.values);
    EXPECT_EQ(Values(*source.LoadStored(tensor.name)), tensor.values);
    const bool linear = IsTinyLinear(tensor.name);
    EXPECT_EQ(*source.FormOf(tensor.name), linear ? MatrixForm::kGrouped : MatrixForm::kFloats);
    const auto coded = *source.LoadCoded(tensor.name, kAnyPacking);
    ASSERT_EQ(coded.has_value(), linear);
    if (linear) {
      const auto& matrix = std::get<GroupedMatrix>(*coded);
      std::vector<float> decoded(matrix.rows * matrix.cols);
      DecodeRows(matrix, 0, matrix.rows, decoded.data());
      EXPECT_EQ(decoded, tensor.values);
    }
    if (tensor.shape.size() == 1) continue;
    const uint64_t cols = tensor.shape.back();
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

TEST_F(ExchangeSource, ReadsEveryForm) {
  for (const TinyExchangeOptions& options :
       std::vector<TinyExchangeOptions>{{},
                                        {.format = kGptqV2},
                                        {.bits = 2, .group_size = 16},
                                        {.format = kGptqV2, .bits = 3, .group_size = 64},
                                        {.bits = 8, .group_size = -1},
                                        {.ordered = true},
                                        {.format = kGptqV2, .ordered = true, .symmetric = true},
                                        {.format = kAwq},
                                        {.format = kAwq, .symmetric = true},
                                        {.format = kAwq, .group_size = 64},
                                        {.format = kAwq, .group_size = -1}}) {
    SCOPED_TRACE(fmt::format("{} {} bits / {} {}", NameOf(options.format), options.bits,
                             options.group_size, options.ordered));
    Make(options);
    const auto source = Open();
    ASSERT_TRUE(source.ok()) << source.status().message();
    ExpectTheModel(model_, **source);
    const SourceTensorInfo& up = *(*source)->Find(kUp);
    const uint64_t size = options.group_size < 0 ? 64 : static_cast<uint64_t>(options.group_size);
    EXPECT_EQ(up.type, fmt::format("{} {} bits / {}", NameOf(options.format), options.bits, size));
    const uint64_t groups = 64 / size, order = options.format == kAwq ? 0 : 64 * 4;
    EXPECT_EQ(up.bytes, 128 * (64 + groups) * options.bits / 8 + 128 * groups * 2 + order);
    EXPECT_FALSE(
        (*source)->LoadCoded("model.layers.9.mlp.up_proj.weight", kAnyPacking)->has_value());
  }
}

// Biases of q, k and v, and other architectures.
TEST_F(ExchangeSource, ReadsOtherArchitectures) {
  for (const char* architecture : {"qwen2", "qwen3", "gemma2", "mistral"}) {
    SCOPED_TRACE(architecture);
    Make({.format = kAwq}, architecture);
    const auto source = Open();
    ASSERT_TRUE(source.ok()) << source.status().message();
    ExpectTheModel(model_, **source);
  }
}

// As transformers, AutoGPTQ, GPTQModel and AutoAWQ write the field.
TEST_F(ExchangeSource, FieldsOfOtherTools) {
  Make({.ordered = true});
  json& fields = directory_.quantization();
  const json sound = fields;
  fields.erase("checkpoint_format");
  fields.erase("desc_act");
  EXPECT_TRUE(Open().ok());
  fields = sound;
  for (const char* field :
       {"dataset", "tokenizer", "dynamic", "exllama_config", "rotation", "adapter"}) {
    fields[field] = nullptr;
  }
  fields.update({{"damp_percent", 0.1},
                 {"static_groups", true},
                 {"true_sequential", true},
                 {"use_exllama", true},
                 {"meta", {{"quantizer", {"gptqmodel:2.0.0"}}}},
                 {"modules_in_block_to_quantize", {{"self_attn.q_proj"}}},
                 {"lm_head", false},
                 {"pack_dtype", "int32"},
                 {"format", "gptq"},
                 {"method", "gptq"},
                 {"is_marlin_format", false},
                 {"dynamic", {{"-:.*lm_head.*", json::object()}, {"-:visual", json::object()}}},
                 {"backend", "auto"},
                 {"autoround_version", "0.5.1"},
                 {"iters", 200},
                 {"enable_quanted_input", true},
                 {"low_gpu_mem_usage", false},
                 {"to_quant_block_names", "model.layers"},
                 {"scale_dtype", "torch.float16"},
                 {"data_type", "int"}});
  const auto source = Open();
  ASSERT_TRUE(source.ok()) << source.status().message();
  ExpectTheModel(model_, **source);
  // One name of the format's second version is enough, and both must agree.
  fields.erase("checkpoint_format");
  fields["format"] = "gptq_v2";
  EXPECT_EQ((*Open())->Find(kUp)->type, "gptq_v2 4 bits / 32");
  EXPECT_THAT(With("checkpoint_format", "gptq"), Fails(kInvalid, "contradicts"));

  Make({.format = kAwq});
  directory_.quantization() = {{"quant_method", "awq"},
                               {"zero_point", true},
                               {"q_group_size", 32},
                               {"w_bit", 4},
                               {"version", "GEMM"},
                               {"modules_to_not_convert", {"lm_head"}},
                               {"do_fuse", false},
                               {"backend", "autoawq"},
                               {"sym", true}};
  ASSERT_TRUE(Open().ok()) << Open().status().message();
  ExpectTheModel(model_, **Open());
  EXPECT_TRUE(With("bits", 4).ok());
  EXPECT_THAT(With("group_size", 64), Fails(kInvalid, "q_group_size", "contradicts"));
}

TEST_F(ExchangeSource, RefusesWhatItDoesNotHonour) {
  Make({});
  const std::vector<std::pair<const char*, json>> refused = {
      {"bits", 5},
      {"bits", "4"},
      {"bits", 4.0},
      {"checkpoint_format", "marlin"},
      {"checkpoint_format", "gptq_v3"},
      {"checkpoint_format", 1},
      {"format", "exllama"},
      {"version", "gemm"},
      {"is_marlin_format", true},
      {"lm_head", true},
      {"pack_dtype", "int8"},
      {"desc_act", 1},
      {"sym", "yes"},
      {"dynamic", {{"+:.*up_proj.*", {{"bits", 8}}}}},
      {"dynamic", {{"-:visual", json::object()}, {".*up_proj.*", {{"bits", 8}}}}},
      {"dynamic", {"-:visual"}},
      {"data_type", "fp8"},
      {"backend", "LLM-AWQ"},
      {"backend", 1},
      {"rotation", "hadamard"},
      {"method", "awq"},
      {"zero_point", true},
      {"grid", 7}};
  for (const auto& [field, value] : refused) {
    EXPECT_THAT(With(field, value),
                Fails(kUnimplemented, "config.json", "quantization_config", field));
  }
  for (const json& size : json{0, -2, 2147483648, 18446744073709551615u, 32.5, "32", true}) {
    EXPECT_THAT(With("group_size", size), Fails(kInvalid, "config.json", "group_size", "-1 and 1"));
  }
  EXPECT_THAT(With("bits", nullptr), Fails(kInvalid, "'bits' is missing"));
  EXPECT_THAT(With("group_size", nullptr), Fails(kInvalid, "'group_size' is missing"));
  Make({.format = kAwq});
  const std::vector<std::pair<const char*, json>> refused_awq = {{"bits", 3},
                                                                 {"version", "gemv"},
                                                                 {"version", "gemv_fast"},
                                                                 {"version", "marlin"},
                                                                 {"version", "exllama"},
                                                                 {"zero_point", 0},
                                                                 {"backend", "llm-awq"},
                                                                 {"desc_act", true},
                                                                 {"checkpoint_format", "gptq"}};
  for (const auto& [field, value] : refused_awq) {
    EXPECT_THAT(With(field, value),
                Fails(kUnimplemented, "config.json", "quantization_config", field));
  }
}

// sym and zero_point say what all zeros are: a matrix that has others was misunderstood.
TEST_F(ExchangeSource, ClaimsOfSymmetryAreChecked) {
  Make({.format = kGptqV2, .symmetric = true});
  EXPECT_TRUE((*Open())->LoadFloat(kUp).ok());
  const auto off_by_one = With("checkpoint_format", "gptq");
  ASSERT_TRUE(off_by_one.ok()) << off_by_one.status().message();
  EXPECT_THAT((*off_by_one)->LoadFloat(kUp),
              Fails(kUnimplemented, "model.safetensors", kUp, "zeros are not", "'sym' is true"));
  EXPECT_THAT((*off_by_one)->LoadCoded(kUp, kAnyPacking), Fails(kUnimplemented, kUp, "'sym'"));
  for (const json& nothing : {json(false), json(nullptr)}) {
    directory_.quantization()["checkpoint_format"] = "gptq";
    EXPECT_TRUE((*With("sym", nothing))->LoadFloat(kUp).ok());
  }
  Make({.format = kAwq});
  EXPECT_THAT((*With("zero_point", false))->LoadFloat(kUp),
              Fails(kUnimplemented, kUp, "zeros are not", "'zero_point' is false"));
}

TEST_F(ExchangeSource, ModulesThatStayFloats) {
  const TinyModel floats = MakeTinyModel({.vocab = 60});
  Make({});
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    directory_.Remove(Part(kUp, part));
  }
  const TinyTensor& up = floats.Get(kUp);
  directory_.tensors.push_back({kUp, *Tensor::FromValues<float>(DType::kF32, up.shape, up.values)});
  const auto source = Open();
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_EQ(Values(*(*source)->LoadFloat(kUp)), up.values);
  EXPECT_EQ(*(*source)->FormOf(kUp), MatrixForm::kFloats);
  EXPECT_EQ(*(*source)->FormOf("model.layers.0.mlp.up_proj.weight"), MatrixForm::kGrouped);
  // Codes and floats of one weight.
  directory_.tensors.push_back({Part(kUp, "qweight"), *Tensor::Zeros(DType::kI32, {8, 128})});
  EXPECT_THAT(Open(), Fails(kNotFound, "hf", Part(kUp, "qzeros")));
}

TEST_F(ExchangeSource, BiasesOfZerosAreNone) {
  Make({});
  const std::string bias = Part(kUp, "bias");
  Tensor zeros = *Tensor::Zeros(DType::kF16, {128});
  directory_.tensors.push_back({bias, zeros});
  const auto source = Open();
  ASSERT_TRUE(source.ok()) << source.status().message();
  ExpectTheModel(model_, **source);
  zeros.mutable_as<uint16_t>()[99] = 0x3C00;
  EXPECT_THAT(WithTensor(bias, zeros),
              Fails(kUnimplemented, "model.safetensors", bias, "no place"));
  EXPECT_THAT(WithTensor(bias, *Tensor::Zeros(DType::kF16, {127})), Fails(kUnimplemented, bias));
  EXPECT_THAT(WithTensor(bias, *Tensor::Zeros(DType::kI32, {128})), Fails(kUnimplemented, bias));
  directory_.Get(bias).name = "model.layers.1.mlp.bias";
  EXPECT_THAT(Open(), Fails(kUnimplemented, "model.layers.1.mlp.bias"));
}

// Robustness cases 8, 45.
TEST_F(ExchangeSource, TensorsOfOtherShapesAndTypes) {
  Make({});
  const std::vector<std::tuple<const char*, DType, Shape, const char*>> wrong = {
      {"qweight", DType::kI32, {8, 127}, "I32 [8, 128]"},
      {"qweight", DType::kI32, {128, 8}, "I32 [8, 128]"},
      {"qweight", DType::kU8, {32, 128}, "I32 [8, 128]"},
      {"qweight", DType::kF32, {8, 128}, "I32 [8, 128]"},
      {"qzeros", DType::kI32, {1, 16}, "I32 [2, 16]"},
      {"qzeros", DType::kI32, {2, 128}, "I32 [2, 16]"},
      {"scales", DType::kF16, {128, 2}, "F16 [2, 128]"},
      {"scales", DType::kF32, {2, 128}, "F16 [2, 128]"},
      {"scales", DType::kBF16, {128, 2}, "BF16 or F16 [2, 128]"},
      {"g_idx", DType::kI32, {63}, "I32 [64]"},
      {"g_idx", DType::kI64, {64}, "I32 [64]"},
      {"g_idx", DType::kI32, {0}, "I32 [64]"}};
  for (const auto& [part, dtype, shape, must] : wrong) {
    EXPECT_THAT(WithPart(part, *Tensor::Zeros(dtype, shape)),
                Fails(kInvalid, "model.safetensors", Part(kUp, part), ShapeToString(shape), must));
  }
  // Sizes in config.json that are not those of the tensors.
  EXPECT_THAT(With("bits", 8), Fails(kInvalid, "q_proj.qweight", "I32 [8, 64]", "I32 [16, 64]"));
  EXPECT_THAT(With("group_size", 64), Fails(kInvalid, "q_proj.qzeros", "I32 [2, 8]", "I32 [1, 8]"));
  EXPECT_THAT(With("group_size", -1), Fails(kInvalid, "q_proj.qzeros", "I32 [1, 8]"));
  Make({.format = kAwq});
  EXPECT_THAT(WithPart("qweight", *Tensor::Zeros(DType::kI32, {8, 128})),
              Fails(kInvalid, Part(kUp, "qweight"), "I32 [64, 16]"));
  // An order has no place there.
  directory_.tensors.push_back({Part(kUp, "g_idx"), *Tensor::Zeros(DType::kI32, {64})});
  EXPECT_THAT(Open(), Fails(kUnimplemented, "model.safetensors", Part(kUp, "g_idx")));
}

TEST_F(ExchangeSource, MissingTensors) {
  Make({.ordered = true});
  const TinyDirectory sound = directory_;
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    directory_ = sound;
    directory_.Remove(Part(kUp, part));
    EXPECT_THAT(Open(), Fails(kNotFound, "hf", Part(kUp, part), "missing"));
  }
  // Inputs that are in order need none.
  Make({});
  directory_.Remove(Part(kUp, "g_idx"));
  EXPECT_TRUE(Open().ok());
  // Neither has a head or an embedding codes.
  directory_.tensors.push_back({"lm_head.qweight", *Tensor::Zeros(DType::kI32, {8, 60})});
  EXPECT_THAT(Open(), Fails(kUnimplemented, "lm_head.qweight"));
}

// Robustness cases 6, 7, 9: headers that lie.
TEST_F(ExchangeSource, HeadersThatLie) {
  Make({});
  ASSERT_TRUE(Open().ok());
  const std::filesystem::path path = folder_ / "hf/model.safetensors";
  const std::string file = ReadText(path);
  uint64_t length;
  std::memcpy(&length, file.data(), sizeof(length));
  const std::string header = file.substr(8, length), data = file.substr(8 + length);
  const std::string name = Part(kUp, "qweight");
  const auto with = [&](const std::string& field, const std::string& value) {
    json object = json::parse(header);
    object[name][field] = "SET";
    std::string text = object.dump();
    text.replace(text.find("\"SET\""), 5, value);
    const uint64_t size = text.size();
    WriteText(path, std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text + data);
    return ModelSource::Open(folder_ / "hf");
  };
  EXPECT_THAT(with("shape", "[4294967296,4294967296,4294967296]"), Fails(kInvalid, name));
  EXPECT_THAT(with("shape", "[8,129]"), Fails(kInvalid, name));
  for (const char* shape : {"[-8,128]", "[8.0,128]", "[1e400,128]", "[8,18446744073709551616]"}) {
    EXPECT_FALSE(with("shape", shape).ok()) << shape;
  }
  EXPECT_FALSE(with("data_offsets", "[0,4096]").ok());
  EXPECT_FALSE(with("data_offsets", "[4096,0]").ok());
  EXPECT_FALSE(with("dtype", "\"I4\"").ok());
}

// Robustness cases 42, 43, 44.
TEST_F(ExchangeSource, ScalesThatAreNone) {
  Make({});
  const auto with_scale = [&](uint16_t half) {
    Tensor scales = CopyOf("scales");
    scales.mutable_as<uint16_t>()[128 + 5] = half;
    const auto source = WithPart("scales", scales);
    EXPECT_TRUE(source.ok());
    return (*source)->LoadFloat(kUp);
  };
  // Zeros make zeros.
  for (const uint16_t half : {0x0000, 0x8000}) {
    const auto weights = with_scale(half);
    ASSERT_TRUE(weights.ok()) << weights.status().message();
    std::vector<float> expected = model_.Get(kUp).values;
    std::fill_n(expected.begin() + 5 * 64 + 32, 32, 0.0f);
    EXPECT_EQ(Values(*weights), expected);
  }
  for (const uint16_t half : {0x7C00, 0xFC00, 0x7E00}) {
    EXPECT_THAT(with_scale(half),
                Fails(kDataLoss, "model.safetensors", kUp, "row 5 group 1", "finite"));
  }
  // The smallest and the largest, and a negative one.
  for (const uint16_t half : {0x0001, 0x7BFF, 0xBC00}) EXPECT_TRUE(with_scale(half).ok());
  // Nothing is computed from such a matrix by any other way either.
  Tensor scales = CopyOf("scales");
  scales.mutable_as<uint16_t>()[0] = 0x7C00;
  const auto source = WithPart("scales", scales);
  const int32_t row = 3;
  std::vector<float> out(64);
  EXPECT_THAT((*source)->LoadRows(kUp, {&row, 1}, out.data()), Fails(kDataLoss, kUp));
  EXPECT_THAT((*source)->LoadCoded(kUp, kAnyPacking), Fails(kDataLoss, kUp));
  EXPECT_THAT((*source)->LoadStored(kUp), Fails(kDataLoss, kUp));
}

TEST_F(ExchangeSource, ScalesOfBfloat16) {
  Make({});
  Tensor scales = *Tensor::Zeros(DType::kBF16, {2, 128});
  std::fill_n(scales.mutable_as<uint16_t>(), 256, FloatToBFloat16(0.5f));
  Tensor halves = *Tensor::Zeros(DType::kF16, {2, 128});
  std::fill_n(halves.mutable_as<uint16_t>(), 256, FloatToHalf(0.5f));
  const std::vector<float> expected = Values(*(*WithPart("scales", halves))->LoadFloat(kUp));
  const auto source = WithPart("scales", scales);
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_EQ(Values(*(*source)->LoadFloat(kUp)), expected);
  scales.mutable_as<uint16_t>()[128 + 5] = FloatToBFloat16(1e5f);
  EXPECT_THAT((*WithPart("scales", scales))->LoadFloat(kUp),
              Fails(kInvalid, "model.safetensors", kUp, "scales[1, 5] is", "65504"));
}

TEST_F(ExchangeSource, GroupsThatAreNone) {
  Make({});
  const auto with_group = [&](int32_t group) {
    Tensor g_idx = CopyOf("g_idx");
    g_idx.mutable_as<int32_t>()[3] = group;
    const auto source = WithPart("g_idx", g_idx);
    EXPECT_TRUE(source.ok());
    return (*source)->LoadFloat(kUp);
  };
  EXPECT_THAT(with_group(2), Fails(kDataLoss, "model.safetensors", kUp, "g_idx[3] = 2", "0 to 1"));
  EXPECT_THAT(with_group(-1), Fails(kDataLoss, kUp, "g_idx[3] = -1"));
  EXPECT_THAT(with_group(1), Fails(kUnimplemented, kUp, "group 0 31 inputs", "32"));
  // What kernels would disagree about.
  Make({.ordered = true});
  const auto source = With("desc_act", false);
  ASSERT_TRUE(source.ok());
  EXPECT_THAT((*source)->LoadFloat(kUp), Fails(kUnimplemented, kUp, "g_idx", "desc_act"));
}

// Robustness case 46.
TEST_F(ExchangeSource, SizesThatWordsDoNotDivide) {
  Make({});
  directory_.config["intermediate_size"] = 124;
  EXPECT_THAT(Open(), Fails(kInvalid, "hf", "gate_proj", "124 outputs"));
  Make({.format = kAwq});
  directory_.config["intermediate_size"] = 124;
  EXPECT_THAT(Open(), Fails(kInvalid, "hf", "gate_proj", "124 outputs"));
}

TEST_F(ExchangeSource, ExpertsAreRefused) {
  Make({}, "mixtral");
  EXPECT_THAT(Open(), Fails(kUnimplemented, "config.json", "quantization_config", "gate.weight"));
}

// What changes the weights changes their fingerprint.
TEST_F(ExchangeSource, FingerprintsCountAllThatWeightsDependOn) {
  Make({});
  const std::string hash = HashOf(kUp);
  EXPECT_EQ(HashOf(kUp), hash);
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    const TinyDirectory sound = directory_;
    Tensor changed = CopyOf(part);
    changed.mutable_data()[9] ^= 1;
    directory_.Get(Part(kUp, part)).tensor = changed;
    EXPECT_NE(HashOf(kUp), hash) << part;
    directory_ = sound;
  }
  directory_.quantization()["checkpoint_format"] = "gptq_v2";
  EXPECT_NE(HashOf(kUp), hash);
}

}  // namespace
}  // namespace tq
