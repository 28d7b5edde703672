// Broken and unusual models: each is refused with one clear line, or read exactly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kDataLoss = StatusCode::kDataLoss;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;
constexpr auto kNotFound = StatusCode::kNotFound;
constexpr char kUp[] = "model.layers.1.mlp.up_proj.weight";

class HostileSource : public ::testing::Test {
 protected:
  // The tiny model's tensors, to be changed and written.
  void SetUp() override {
    for (const TinyTensor& tensor : model_.tensors) {
      tensors_.push_back(
          {tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values)});
    }
  }
  OutputTensor& Stored(std::string_view name) {
    for (OutputTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    tq::internal::CheckFailed(__FILE__, __LINE__, name);
  }
  StatusOr<std::unique_ptr<ModelSource>> Open() {
    const fs::path folder = folder_ / "hf";
    fs::create_directories(folder);
    WriteText(folder / "config.json", ModelConfigToJson(model_.config));
    TQ_CHECK(WriteSafetensors(folder / "model.safetensors", tensors_).ok());
    return ModelSource::Open(folder);
  }
  StatusOr<std::unique_ptr<ModelSource>> OpenGguf(uint32_t type = kPackF32) {
    WriteGguf(model_, folder_ / "x.gguf", type);
    return ModelSource::Open(folder_ / "x.gguf");
  }

  TempFolder folder_;
  TinyModel model_ = MakeTinyModel({.layers = 2});
  std::vector<OutputTensor> tensors_;
};

// Robustness case 34: a config.json that does not fit the tensors, among others.
TEST_F(HostileSource, MissingExtraAndMisshapenTensors) {
  ASSERT_TRUE(Open().ok());
  tensors_.push_back({"model.layers.0.self_attn.q_proj.bias", *Tensor::Zeros(DType::kF32, {64})});
  EXPECT_THAT(Open(), Fails(kUnimplemented, "q_proj.bias"));
  // Neither changes the result of a tied model; Hugging Face leaves them out, too.
  tensors_.back() = {"lm_head.weight", *Tensor::Zeros(DType::kF32, {300, 64})};
  tensors_.push_back(
      {"model.layers.0.self_attn.rotary_emb.inv_freq", *Tensor::Zeros(DType::kF32, {8})});
  ASSERT_TRUE(Open().ok());
  EXPECT_FALSE((*Open())->Has("lm_head.weight"));
  Stored(kUp).tensor = *Tensor::Zeros(DType::kF32, {64, 128});
  EXPECT_THAT(Open(), Fails(kInvalid, kUp, "[64, 128]", "[128, 64]"));
  model_.config.head_dim = 32;
  EXPECT_THAT(Open(), Fails(kInvalid, "self_attn.q_proj.weight", "[64, 64]", "[128, 64]"));
  model_.config.head_dim = 16;
  std::erase_if(tensors_, [](const OutputTensor& t) { return t.name == kUp; });
  EXPECT_THAT(Open(), Fails(kNotFound, kUp));
}

TEST_F(HostileSource, GgufTensorsOutOfPlace) {
  for (const char* name : {"rope_freqs.weight", "blk.0.attn_q.bias", "blk.2.attn_q.weight"}) {
    GgufBuilder builder = BuildGguf(model_);
    builder.Tensor(name, kPackF32, {8}, std::string(32, '\0'));
    WriteText(folder_ / "x.gguf", builder.Build());
    EXPECT_THAT(ModelSource::Open(folder_ / "x.gguf"), Fails(kUnimplemented, name));
  }
  model_.config.num_layers = 3;
  WriteGguf(model_, folder_ / "x.gguf");
  EXPECT_THAT(ModelSource::Open(folder_ / "x.gguf"), Fails(kNotFound, "blk.2.attn_norm.weight"));
  model_.config.num_layers = 2;
  model_.config.intermediate_size = 96;
  WriteGguf(model_, folder_ / "x.gguf");
  EXPECT_THAT(ModelSource::Open(folder_ / "x.gguf"),
              Fails(kInvalid, "blk.0.ffn_gate.weight", "[128, 64]", "[96, 64]"));
}

// Robustness case 36.
TEST_F(HostileSource, Pickle) {
  for (const char* name : {"m.bin", "m.pt", "m.pth", "m.ckpt", "m.pkl"}) {
    WriteText(folder_ / name, "anything");
    EXPECT_THAT(ModelSource::Open(folder_ / name), Fails(kUnimplemented, name, "pickle"));
  }
  for (const std::string magic : {"\x80\x02}q", "\x80\x05\x95", "PK\x03\x04"}) {
    WriteText(folder_ / "model", magic);
    EXPECT_THAT(ModelSource::Open(folder_ / "model"), Fails(kUnimplemented, "pickle"));
  }
  fs::create_directory(folder_ / "hf");
  WriteText(folder_ / "hf/config.json", ModelConfigToJson(model_.config));
  EXPECT_THAT(ModelSource::Open(folder_ / "hf"), Fails(kNotFound, "model.safetensors"));
  WriteText(folder_ / "hf/pytorch_model.bin", "anything");
  EXPECT_THAT(ModelSource::Open(folder_ / "hf"), Fails(kUnimplemented, "pytorch_model.bin"));
}

TEST_F(HostileSource, PathsThatAreNoModels) {
  EXPECT_THAT(ModelSource::Open(folder_ / "absent"), Fails(kNotFound, "absent"));
  EXPECT_THAT(ModelSource::Open(folder_.path()), Fails(kNotFound, "config.json"));
  WriteText(folder_ / "text", "hello");
  EXPECT_THAT(ModelSource::Open(folder_ / "text"), Fails(kInvalid, "text"));
  WriteText(folder_ / "empty", "");
  EXPECT_THAT(ModelSource::Open(folder_ / "empty"), Fails(kDataLoss, "empty"));
  WriteText(folder_ / "m.safetensors", "hello");
  EXPECT_THAT(ModelSource::Open(folder_ / "m.safetensors"), Fails(kInvalid, "folder"));
  EXPECT_THAT(ModelSource::Open("/dev/zero"), Fails(kInvalid, "not a regular file"));
  ASSERT_EQ(mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(ModelSource::Open(folder_ / "fifo"), Fails(kInvalid, "not a regular file"));
  fs::create_directory(folder_ / "packed");
  WriteText(folder_ / "packed/config.json",
            R"({"quantization_config": {"quant_method": "turboquant"}})");
  EXPECT_EQ(*DetectModelKind(folder_ / "packed"), ModelKind::kPacked);
  EXPECT_THAT(ModelSource::Open(folder_ / "packed"), Fails(kInvalid, "compressed already"));
  fs::create_directory(folder_ / "deep");
  WriteText(folder_ / "deep/config.json", std::string(1'000'000, '['));
  EXPECT_THAT(ModelSource::Open(folder_ / "deep"), Fails(kInvalid, "levels deep"));
}

// Robustness case 42.
TEST_F(HostileSource, NonFiniteWeights) {
  const float bad[] = {NAN, INFINITY, -INFINITY, std::bit_cast<float>(0x7f800001u)};
  const size_t places[] = {0, 4097, 128 * 64 - 1};
  for (const float value : bad) {
    for (const size_t place : places) {
      std::vector<float> values = model_.Get(kUp).values;
      values[place] = value;
      Stored(kUp).tensor = *Tensor::FromValues<float>(DType::kF32, {128, 64}, values);
      const auto source = Open();
      ASSERT_TRUE(source.ok());
      EXPECT_THAT((*source)->LoadFloat(kUp),
                  Fails(kDataLoss, "model.safetensors", kUp, "element " + std::to_string(place)));
      std::vector<float> row((*source)->Find(kUp)->shape[1]);
      const auto bad = static_cast<int32_t>(place / row.size());
      EXPECT_THAT((*source)->LoadRows(kUp, {&bad, 1}, row.data()),
                  Fails(kDataLoss, "model.safetensors", kUp, "row " + std::to_string(bad)));
      EXPECT_THAT((*source)->LoadStored(kUp), Fails(kDataLoss, kUp));
      EXPECT_TRUE((*source)->LoadFloat("model.norm.weight").ok());
    }
  }
}

// Robustness case 42.
TEST_F(HostileSource, NonFiniteGguf) {
  model_.Get(kUp).values[1000] = NAN;
  for (const uint32_t type : {kPackF32, kPackF16, kPackBF16}) {
    const auto source = OpenGguf(type);
    ASSERT_TRUE(source.ok());
    EXPECT_THAT((*source)->LoadFloat(kUp), Fails(kDataLoss, "x.gguf", kUp, "element 1000"));
  }
}

// Robustness case 26.
TEST_F(HostileSource, BlocksWithNonFiniteScales) {
  // A block type and where in a block it has a scale or an offset.
  const std::pair<GgufType, size_t> places[] = {
      {GgufType::kQ4_0, 0},   {GgufType::kQ4_1, 0},   {GgufType::kQ4_1, 2},
      {GgufType::kQ5_0, 0},   {GgufType::kQ5_1, 0},   {GgufType::kQ5_1, 2},
      {GgufType::kQ8_0, 0},   {GgufType::kQ2_K, 80},  {GgufType::kQ2_K, 82},
      {GgufType::kQ3_K, 108}, {GgufType::kQ4_K, 0},   {GgufType::kQ4_K, 2},
      {GgufType::kQ5_K, 0},   {GgufType::kQ5_K, 2},   {GgufType::kQ6_K, 208},
      {GgufType::kIQ4_NL, 0}, {GgufType::kIQ4_XS, 0}, {GgufType::kTQ1_0, 52},
      {GgufType::kTQ2_0, 64}};
  model_ = MakeTinyModel({.hidden = 256, .intermediate = 256, .layers = 1});
  const fs::path path = folder_ / "x.gguf";
  WriteGguf(model_, path, kPackF32);
  const std::string whole = ReadText(path);
  // q_proj's rows change places on reading; the error has the block as the file counts it.
  for (const auto& [ours, theirs] :
       {std::pair{"model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"},
        {"model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"}}) {
    const uint64_t offset = (*GgufFile::Open(path))->Find(theirs)->offset;
    // Of a tensor's description: the name, the number of dimensions, two of these, the type.
    const size_t type_at = whole.find(theirs) + std::string_view(theirs).size() + 4 + 2 * 8;
    for (const auto& [type, place] : places) {
      const GgufBlocks format = *GgufBlockFormat(static_cast<uint32_t>(type));
      std::string sound = whole;
      std::memcpy(&sound[type_at], &type, sizeof(uint32_t));
      std::memset(&sound[offset], 0, 256 * 256 / format.values * format.bytes);
      WriteText(folder_ / "y.gguf", sound);
      ASSERT_TRUE((*ModelSource::Open(folder_ / "y.gguf"))->LoadFloat(ours).ok());
      const uint64_t block = 21 * (256 / format.values);  // the first of row 21
      for (const uint16_t half : {0x7e00, 0x7c00, 0xfc00}) {
        std::string bytes = sound;
        std::memcpy(&bytes[offset + block * format.bytes + place], &half, sizeof(half));
        WriteText(folder_ / "y.gguf", bytes);
        const auto source = ModelSource::Open(folder_ / "y.gguf");
        ASSERT_TRUE(source.ok()) << source.status().message();
        EXPECT_THAT(
            (*source)->LoadFloat(ours),
            Fails(kDataLoss, "y.gguf", ours,
                  fmt::format("block {} of {}", block, GgufTypeName(static_cast<uint32_t>(type))),
                  "element 5376"));
      }
    }
  }
}

// Robustness case 43, case 44.
TEST_F(HostileSource, UnusualValues) {
  std::vector<float>& values = model_.Get(kUp).values;
  std::fill(values.begin(), values.begin() + 64, 0.0f);  // a row of zeros
  const float unusual[] = {1e38f,
                           -1e38f,
                           std::numeric_limits<float>::denorm_min(),
                           1e-40f,
                           std::numeric_limits<float>::max(),
                           -0.0f};
  std::copy(std::begin(unusual), std::end(unusual), values.begin() + 64);
  Stored(kUp).tensor = *Tensor::FromValues<float>(DType::kF32, {128, 64}, values);
  for (const bool gguf : {false, true}) {
    const auto source = gguf ? OpenGguf() : Open();
    ASSERT_TRUE(source.ok());
    const auto loaded = (*source)->LoadFloat(kUp);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    EXPECT_EQ(std::memcmp(loaded->data(), values.data(), values.size() * sizeof(float)), 0);
  }
}

// Robustness case 45.
TEST_F(HostileSource, OtherWeightTypes) {
  for (const DType dtype : {DType::kF64, DType::kI8, DType::kU8, DType::kI32, DType::kBool}) {
    Stored(kUp).tensor = *Tensor::Zeros(dtype, {128, 64});
    EXPECT_THAT(Open(), Fails(kUnimplemented, kUp, std::string(DTypeName(dtype)).c_str()));
  }
}

// Robustness case 45: a model in 8-bit floats, as its header says.
TEST_F(HostileSource, NarrowFloats) {
  ASSERT_TRUE(Open().ok());
  std::string header = fmt::format(
      R"({{"{}":{{"dtype":"F8_E4M3","shape":[128,64],"data_offsets":[0,8192]}}}})", kUp);
  std::string file;
  PutRaw<uint64_t>(file, header.size());
  WriteText(folder_ / "hf/model.safetensors", file + header + std::string(8192, '\0'));
  EXPECT_THAT(ModelSource::Open(folder_ / "hf"),
              Fails(kUnimplemented, "model.safetensors", kUp, "F8_E4M3", "convert"));
}

// Robustness case 15.
TEST_F(HostileSource, FilesShrinkWhileRead) {
  const auto folder = Open();
  ASSERT_TRUE(folder.ok());
  ASSERT_EQ(truncate((folder_ / "hf/model.safetensors").c_str(), 5000), 0);
  EXPECT_THAT((*folder)->LoadFloat(kUp), Fails(kDataLoss, "model.safetensors"));
  Hasher hasher;
  EXPECT_THAT((*folder)->HashTensor(kUp, hasher), Fails(kDataLoss, "model.safetensors"));
  const auto gguf = OpenGguf();
  ASSERT_TRUE(gguf.ok());
  ASSERT_EQ(truncate((folder_ / "x.gguf").c_str(), 5000), 0);
  EXPECT_THAT((*gguf)->LoadFloat(kUp), Fails(kDataLoss, "x.gguf"));
  EXPECT_THAT((*gguf)->LoadFloat("absent"), Fails(kNotFound, "absent"));
}

}  // namespace
}  // namespace tq
