#include "checkpoint/packed_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"
#include "codec/grouped_matrix_for_test.h"
#include "codec/grouped_rounding.h"
#include "codec/rotation.h"
#include "device/executor.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kDataLoss = StatusCode::kDataLoss;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kNotFound = StatusCode::kNotFound;

Tensor RandomBytes(uint64_t bytes, std::string_view name) {
  Random random(7, name);
  Tensor tensor = *Tensor::Zeros(DType::kU8, {bytes});
  for (uint64_t i = 0; i < bytes; ++i) {
    tensor.mutable_data()[i] = static_cast<uint8_t>(random.NextU32());
  }
  return tensor;
}

Tensor Halves(uint64_t n, float value) {
  Tensor tensor = *Tensor::Zeros(DType::kF16, {n});
  std::fill_n(tensor.mutable_as<uint16_t>(), n, FloatToHalf(value));
  return tensor;
}

// Any bytes are valid codes, so a model of random codes is a sound file.
PackedMatrix RandomMatrix(const std::string& name, uint64_t rows, uint64_t cols) {
  const bool alone = GroupName(name) == name;
  auto input = std::make_shared<InputTransform>();
  input->in_block = LargestHadamardOrder(cols, 128);
  input->in_scale = Halves(cols, 0.5f);
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.segments = MakeSegments(rows, cols, {2, 4}, {1, 3}, 64);
  for (Segment& segment : matrix.segments) segment.scale = 0.01f;
  const Segment& last = matrix.segments.back();
  matrix.codes = RandomBytes(last.byte_offset + SegmentBytes(last, cols), name);
  matrix.out_scale = Halves(rows, 1.0f);
  matrix.out_block = alone ? 1 : LargestHadamardOrder(rows, 128);
  matrix.input = std::move(input);
  return matrix;
}

PackedModelContents Contents(const TinyModel& model, const std::string& method) {
  InlineExecutor executor;
  PackedModelContents contents;
  contents.config = model.config;
  contents.method = method;
  contents.options = {{"bits", 2.5}, {"seed", int64_t{1}}, {"fast", false}, {"text", "self"}};
  contents.files = {{"tokenizer.json", TokenizerJson(model.tokenizer)}};
  std::string last_group;
  for (const TinyTensor& tensor : model.tensors) {
    if (tensor.shape.size() == 1) {
      contents.tensors.push_back(
          {tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values)});
      continue;
    }
    const std::string name = tensor.name.substr(0, tensor.name.size() - 7);
    const uint64_t rows = tensor.shape[0], cols = tensor.shape[1];
    if (method != "trellis") {
      const float* w = tensor.values.data();
      auto matrix = method == "ternary" ? QuantizeToTernary(w, rows, cols, 32, executor)
                                        : QuantizeToNearest(w, rows, cols, 3, 32, executor);
      TQ_CHECK(matrix.ok());
      TQ_CHECK(AppendMatrix(name, *std::move(matrix), &contents.tensors).ok());
      continue;
    }
    const PackedMatrix matrix = RandomMatrix(name, rows, cols);
    TQ_CHECK(AppendMatrix(name, matrix, &contents.tensors).ok());
    if (const std::string group = GroupName(name); group != last_group) {
      AppendInputScale(group, *matrix.input, &contents.tensors);
      last_group = group;
    }
  }
  return contents;
}

class GroupedModelTest : public ::testing::Test {
 protected:
  StatusOr<std::unique_ptr<PackedModel>> Write(PackedModelContents contents) {
    fs::remove_all(folder_ / "out");
    const Status status = WritePackedModel(folder_ / "out", "", std::move(contents));
    if (!status.ok()) return status;
    return PackedModel::Open(folder_ / "out");
  }
  TempFolder folder_;
  TinyModel model_ = MakeTinyModel({.hidden = 96, .tied = false});
};
class PackedModelTest : public GroupedModelTest,
                        public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, PackedModelTest, ::testing::Values("trellis", "rtn", "ternary"));

TEST_P(PackedModelTest, ReadsWhatItWrites) {
  for (const uint64_t shard_bytes : {kDefaultShardBytes, uint64_t{10'000}}) {
    PackedModelContents contents = Contents(model_, GetParam());
    contents.max_shard_bytes = shard_bytes;
    const auto opened = Write(contents);
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    const PackedModel& model = **opened;
    EXPECT_EQ(model.method(), GetParam());
    EXPECT_EQ(*DetectModelKind(folder_ / "out"), ModelKind::kPacked);
    EXPECT_EQ(ModelConfigToJson(model.config()), ModelConfigToJson(model_.config));
    EXPECT_EQ(model.matrices().size(), 2u * 7 + 2);
    uint64_t parameters = 0;
    for (const TinyTensor& tensor : model_.tensors) parameters += tensor.values.size();
    EXPECT_EQ(model.num_parameters(), parameters);
    EXPECT_TRUE(model.VerifyFiles().ok());
    const auto norm = model.LoadFloat("model.norm.weight");
    ASSERT_TRUE(norm.ok());
    EXPECT_EQ(norm->as<float>()[5], model_.Get("model.norm.weight").values[5]);
    EXPECT_THAT(model.Matrix("absent"), Fails(kNotFound, "absent"));
    for (const OutputTensor& tensor : contents.tensors) {
      if (!tensor.name.ends_with(".codes")) continue;
      const auto matrix = model.Matrix(tensor.name.substr(0, tensor.name.size() - 6));
      ASSERT_TRUE(matrix.ok());
      const Tensor& codes =
          std::visit([](const auto& m) -> const Tensor& { return m.codes; }, **matrix);
      ASSERT_EQ(codes.num_bytes(), tensor.tensor.num_bytes());
      EXPECT_EQ(std::memcmp(codes.data(), tensor.tensor.data(), codes.num_bytes()), 0);
      EXPECT_TRUE(GetParam() != "trellis" || reinterpret_cast<uintptr_t>(codes.data()) % 64 == 0);
    }
  }
}

TEST_P(PackedModelTest, TheBytesDependOnTheContentsAlone) {
  ASSERT_TRUE(Write(Contents(model_, GetParam())).ok());
  const std::string weights = ReadText(folder_ / "out/model.safetensors");
  const std::string config = ReadText(folder_ / "out/config.json");
  ASSERT_TRUE(Write(Contents(model_, GetParam())).ok());
  EXPECT_EQ(ReadText(folder_ / "out/model.safetensors"), weights);
  EXPECT_EQ(ReadText(folder_ / "out/config.json"), config);
  const auto json = nlohmann::json::parse(config);
  const auto& quantization = json["quantization_config"];
  EXPECT_EQ(quantization["quant_method"], "turboquant");
  EXPECT_EQ(quantization["format"], 1);
  EXPECT_EQ(quantization["method"], GetParam());
  EXPECT_EQ(quantization["bits"], 2.5);
  EXPECT_EQ(quantization["text"], "self");
}

TEST_P(PackedModelTest, TensorsOutOfPlace) {
  const PackedModelContents sound = Contents(model_, GetParam());
  // Each tensor missing in turn.
  for (size_t i = 0; i < sound.tensors.size(); i += 13) {
    PackedModelContents contents = sound;
    const std::string name = contents.tensors[i].name;
    contents.tensors.erase(contents.tensors.begin() + static_cast<ptrdiff_t>(i));
    EXPECT_THAT(Write(contents), Fails(kNotFound, name.c_str())) << name;
  }
  PackedModelContents extra = sound;
  extra.tensors.push_back({"model.layers.0.mlp.up_proj.bias", *Tensor::Zeros(DType::kF32, {4})});
  EXPECT_THAT(Write(extra), Fails(kInvalid, "up_proj.bias"));
  // Each tensor of another type, or with a value too many.
  for (size_t i = 0; i < sound.tensors.size(); i += 11) {
    const OutputTensor& tensor = sound.tensors[i];
    PackedModelContents contents = sound;
    contents.tensors[i].tensor = *Tensor::Zeros(DType::kI64, tensor.tensor.shape());
    EXPECT_FALSE(Write(contents).ok()) << tensor.name;
    Shape shape = tensor.tensor.shape();
    ++shape.back();
    contents.tensors[i].tensor = *Tensor::Zeros(tensor.tensor.dtype(), shape);
    EXPECT_FALSE(Write(contents).ok()) << tensor.name;
  }
}

TEST_P(PackedModelTest, BrokenLayouts) {
  ASSERT_TRUE(Write(Contents(model_, GetParam())).ok());
  const fs::path path = folder_ / "out/model.safetensors";
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  const SafetensorsEntry entry =
      (*file)->entries().find("model.layers.1.mlp.up_proj.layout")->second;
  const std::string sound = ReadText(path);
  for (uint64_t field = 0; field < entry.shape[0]; ++field) {
    for (const int32_t value : {0, -1, 7, 1 << 30, INT32_MIN, INT32_MAX}) {
      std::string bytes = sound;
      char* at = &bytes[entry.offset + field * sizeof(value)];
      if (std::memcmp(at, &value, sizeof(value)) == 0) continue;
      std::memcpy(at, &value, sizeof(value));
      WriteText(path, bytes);
      const auto result = PackedModel::Open(folder_ / "out");
      if (result.ok()) {
        // Only the bits of a segment's scale can have so many sound values.
        EXPECT_TRUE(GetParam() == "trellis" && field >= 8 && (field - 8) % 4 == 3)
            << field << " = " << value;
      } else {
        EXPECT_THAT(result.status().message(), ::testing::HasSubstr("up_proj")) << value;
      }
    }
  }
}

TEST_P(PackedModelTest, BrokenConfigs) {
  ASSERT_TRUE(Write(Contents(model_, GetParam())).ok());
  const auto sound = nlohmann::json::parse(ReadText(folder_ / "out/config.json"));
  const auto with = [&](const char* field, const nlohmann::json& value) {
    nlohmann::json config = sound;
    config["quantization_config"][field] = value;
    WriteText(folder_ / "out/config.json", config.dump());
    return PackedModel::Open(folder_ / "out").status();
  };
  EXPECT_TRUE(with("bits", 3).ok());
  EXPECT_THAT(with("format", 2), Fails(kUnimplemented, "format", "2"));
  EXPECT_THAT(with("format", "1"), Fails(kUnimplemented, "format"));
  EXPECT_THAT(with("format", nullptr), Fails(kUnimplemented, "format"));
  EXPECT_THAT(with("method", "magic"), Fails(kUnimplemented, "magic"));
  EXPECT_THAT(with("method", 7), Fails(kUnimplemented, "method"));
  EXPECT_THAT(with("method", GetParam() == "rtn" ? "trellis" : "rtn"), Fails(kInvalid, "layout"));
  EXPECT_THAT(with("quant_method", "gptq"), Fails(kInvalid, "turboquant"));
  nlohmann::json config = sound;
  config["intermediate_size"] = 64;
  WriteText(folder_ / "out/config.json", config.dump());
  EXPECT_THAT(PackedModel::Open(folder_ / "out"), Fails(kInvalid, "[128, 96]", "[64, 96]"));
  config["quantization_config"] = nullptr;
  WriteText(folder_ / "out/config.json", config.dump());
  EXPECT_THAT(PackedModel::Open(folder_ / "out"), Fails(kInvalid, "quantization_config"));
}

// Robustness case 42: the numbers of a compressed model, too, are checked when it is opened.
TEST_P(PackedModelTest, NonFiniteValues) {
  const PackedModelContents sound = Contents(model_, GetParam());
  const std::string scale = GetParam() == "rtn"       ? "lm_head.zero"
                            : GetParam() == "ternary" ? "lm_head.scale"
                                                      : "lm_head.out_scale";
  for (const std::string& name : {std::string("model.norm.weight"), scale}) {
    PackedModelContents contents = sound;
    const auto at = std::find_if(contents.tensors.begin(), contents.tensors.end(),
                                 [&](const OutputTensor& t) { return t.name == name; });
    ASSERT_NE(at, contents.tensors.end());
    std::vector<uint8_t> bytes(at->tensor.data(), at->tensor.data() + at->tensor.num_bytes());
    bytes.back() = 0x7f;  // the highest bits of the last number: NaN, as half and as float
    bytes[bytes.size() - 2] = 0xc0;
    at->tensor = *Tensor::FromBytes(at->tensor.dtype(), at->tensor.shape(), bytes);
    EXPECT_THAT(Write(contents), Fails(kDataLoss, name.substr(0, name.rfind('.')).c_str()));
  }
}

// Grouped matrices of every kind of zeros, with and without an order, are read as they were.
TEST_F(GroupedModelTest, EveryKindOfZerosAndOrder) {
  std::map<std::string, GroupedMatrix> written;
  PackedModelContents contents = Contents(model_, "rtn");
  std::erase_if(contents.tensors, [](const OutputTensor& t) {
    return t.tensor.shape().size() == 2 || t.name.ends_with(".layout");
  });
  for (const TinyTensor& tensor : model_.tensors) {
    if (tensor.shape.size() == 1) continue;
    const uint64_t i = written.size();
    const GroupedLayout layout = MakeLayout(tensor.shape[0], tensor.shape[1], 2 + i % 7, 24,
                                            static_cast<ZeroKind>(i % 3), i % 2 == 0);
    const std::string name = tensor.name.substr(0, tensor.name.size() - 7);
    written[name] = RandomGrouped(layout, i);
    ASSERT_TRUE(AppendMatrix(name, written[name], &contents.tensors).ok());
  }
  const auto opened = Write(contents);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  for (const auto& [name, matrix] : written) {
    const auto stored = (*opened)->Matrix(name);
    ASSERT_TRUE(stored.ok());
    const auto& read = std::get<GroupedMatrix>(**stored);
    EXPECT_EQ(LayoutToInts(read), LayoutToInts(matrix));
    EXPECT_EQ(Weights(read), Weights(matrix)) << name;
  }

  const auto at = std::find_if(contents.tensors.begin(), contents.tensors.end(),
                               [](const OutputTensor& t) { return t.name.ends_with(".order"); });
  ASSERT_NE(at, contents.tensors.end());
  at->tensor = *Tensor::Zeros(DType::kI32, at->tensor.shape());
  EXPECT_THAT(Write(contents), Fails(kDataLoss, "order[1] = 0, which is there twice"));
  contents.tensors.erase(at);
  EXPECT_THAT(Write(contents), Fails(kNotFound, ".order"));
}

// Robustness case 42.
TEST_F(GroupedModelTest, TernaryBytesAndScalesAreChecked) {
  const PackedModelContents sound = Contents(model_, "ternary");
  const auto with = [&](std::string_view name, uint8_t byte) {
    PackedModelContents contents = sound;
    const auto at = std::find_if(contents.tensors.begin(), contents.tensors.end(),
                                 [&](const OutputTensor& t) { return t.name == name; });
    TQ_CHECK(at != contents.tensors.end());
    std::vector<uint8_t> bytes(at->tensor.data(), at->tensor.data() + at->tensor.num_bytes());
    bytes[bytes.size() - 2] = bytes.back() = byte;
    at->tensor = *Tensor::FromBytes(at->tensor.dtype(), at->tensor.shape(), bytes);
    return Write(contents);
  };
  EXPECT_TRUE(with("model.layers.1.mlp.up_proj.codes", 128).ok());
  // Rows of 96 columns have 20 bytes.
  EXPECT_THAT(with("model.layers.1.mlp.up_proj.codes", 20),
              Fails(kDataLoss, "model.layers.1.mlp.up_proj", "byte 18 of row 127 is 0x14"));
  EXPECT_THAT(with("model.layers.1.mlp.up_proj.scale", 0),
              Fails(kDataLoss, "model.layers.1.mlp.up_proj", "row 127 group 2 is 0"));
  // The codes of another method.
  PackedModelContents contents = Contents(model_, "rtn");
  contents.method = "ternary";
  EXPECT_THAT(Write(contents), Fails(kInvalid, "code 2, method ternary has 3"));
}

// Robustness case 15, case 70.
TEST_P(PackedModelTest, DamagedFiles) {
  const auto opened = Write(Contents(model_, GetParam()));
  ASSERT_TRUE(opened.ok());
  const fs::path file = folder_ / "out/model.safetensors";
  const uint64_t size = fs::file_size(file);
  ASSERT_EQ(truncate(file.c_str(), static_cast<off_t>(size - 1)), 0);
  EXPECT_THAT((*opened)->VerifyFiles(), Fails(kDataLoss, "model.safetensors"));
  EXPECT_THAT((*opened)->LoadFloat("model.norm.weight"), ::testing::Truly([](const auto& result) {
                return result.ok() || result.status().code() == kDataLoss;
              }));
  EXPECT_THAT(PackedModel::Open(folder_ / "out"), Fails(kDataLoss, "truncated"));
}

TEST(GroupNameTest, JoinsMatricesWithOneInput) {
  EXPECT_EQ(GroupName("model.layers.3.self_attn.k_proj"), "model.layers.3.self_attn.qkv");
  EXPECT_EQ(GroupName("model.layers.3.self_attn.o_proj"), "model.layers.3.self_attn.o");
  EXPECT_EQ(GroupName("model.layers.3.mlp.gate_proj"), "model.layers.3.mlp.gate_up");
  EXPECT_EQ(GroupName("model.layers.3.mlp.down_proj"), "model.layers.3.mlp.down");
  EXPECT_EQ(GroupName("model.embed_tokens"), "model.embed_tokens");
  EXPECT_EQ(GroupName("lm_head"), "lm_head");
}

}  // namespace
}  // namespace tq
