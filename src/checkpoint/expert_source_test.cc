// Experts of models in both kinds of file: stacked in GGUF, tensors of their own in directories.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_encode.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = StatusCode::kUnimplemented;

class ExpertSource : public ::testing::Test {
 protected:
  StatusOr<std::unique_ptr<ModelSource>> Open(const std::string& bytes) {
    WriteText(folder_ / "x.gguf", bytes);
    return ModelSource::Open(folder_ / "x.gguf");
  }
  // Where the description of a tensor has its number of dimensions, sizes of which follow.
  static size_t DimensionsAt(const std::string& file, std::string_view name) {
    return file.find(name) + name.size();
  }
  TempFolder folder_;
};

TEST_F(ExpertSource, EveryBlockTypeIsCutIntoExperts) {
  const TinyModel model = MakeTinyModel({.architecture = "mixtral", .hidden = 64});
  for (const auto& [type, tolerance] :
       {std::pair{kPackF32, 0.0}, {kPackBF16, 1e-4}, {kPackQ8_0, 1e-4}, {kPackQ4_0, 0.02}}) {
    WriteGguf(model, folder_ / "x.gguf", type);
    const auto source = ModelSource::Open(folder_ / "x.gguf");
    ASSERT_TRUE(source.ok()) << source.status().message();
    EXPECT_EQ((*source)->config().architecture, "mixtral");
    uint64_t bytes = 0;
    for (const TinyTensor& tensor : model.tensors) {
      bytes += (*source)->Find(tensor.name)->bytes;
      const Tensor loaded = *(*source)->LoadFloat(tensor.name);
      ASSERT_EQ(loaded.shape(), tensor.shape);
      double error = 0, norm = 0;
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        error += std::pow(loaded.as<float>()[i] - tensor.values[i], 2);
        norm += std::pow(tensor.values[i], 2);
      }
      EXPECT_LE(error, tolerance * norm) << tensor.name;
    }
    EXPECT_EQ((*source)->num_bytes(), bytes);
    EXPECT_LT(bytes, std::filesystem::file_size(folder_ / "x.gguf"));
  }
}

// Blocks of 256 values with scales of their own: a slice starts between them.
TEST_F(ExpertSource, ReadsOneExpertOfKQuants) {
  const TinyModel model = MakeTinyModel(
      {.architecture = "qwen3_moe", .hidden = 256, .intermediate = 512, .layers = 1, .experts = 3});
  constexpr std::string_view kStack = "blk.0.ffn_down_exps.weight";
  std::string file = BuildGguf(model).Build();
  WriteText(folder_ / "x.gguf", file);
  const GgufTensor stack = *(*GgufFile::Open(folder_ / "x.gguf"))->Find(kStack);
  ASSERT_EQ(stack.shape, (Shape{3, 256, 256}));
  const uint64_t blocks = 256, block_bytes = BlocksOf(GgufEncoding::kQ4_K).bytes;
  const auto type = static_cast<uint32_t>(GgufEncoding::kQ4_K);
  std::memcpy(&file[DimensionsAt(file, kStack) + 4 + 3 * 8], &type, sizeof(type));
  std::vector<std::vector<float>> expected;
  for (int e = 0; e < 3; ++e) {
    auto* to = reinterpret_cast<uint8_t*>(&file[stack.offset]) + e * blocks * block_bytes;
    const std::string name = fmt::format("model.layers.0.mlp.experts.{}.down_proj.weight", e);
    ASSERT_TRUE(EncodeBlocks(GgufEncoding::kQ4_K, model.Get(name).values.data(), blocks, to).ok());
    DequantizeBlocks(GgufType::kQ4_K, to, blocks, expected.emplace_back(256 * 256).data());
  }
  const auto source = Open(file);
  ASSERT_TRUE(source.ok()) << source.status().message();
  Hash128 hashes[3];
  for (int e = 0; e < 3; ++e) {
    const std::string name = fmt::format("model.layers.0.mlp.experts.{}.down_proj.weight", e);
    EXPECT_EQ((*source)->Find(name)->type, "Q4_K");
    EXPECT_EQ((*source)->Find(name)->bytes, blocks * block_bytes);
    const Tensor loaded = *(*source)->LoadFloat(name);
    EXPECT_EQ(std::memcmp(loaded.data(), expected[e].data(), loaded.num_bytes()), 0) << e;
    const int32_t rows[] = {200, 3};
    std::vector<float> some(2 * 256);
    ASSERT_TRUE((*source)->LoadRows(name, rows, some.data()).ok());
    EXPECT_TRUE(std::equal(some.begin(), some.begin() + 256, expected[e].begin() + 200 * 256));
    Hasher hasher;
    ASSERT_TRUE((*source)->HashTensor(name, hasher).ok());
    hashes[e] = hasher.Digest();
  }
  EXPECT_NE(hashes[0], hashes[1]);
  // A scale of the last expert that is no number is an error of that expert alone.
  const uint16_t nan = 0x7e00;
  std::memcpy(&file[stack.offset + (2 * blocks + 7) * block_bytes], &nan, sizeof(nan));
  const auto broken = Open(file);
  EXPECT_TRUE((*broken)->LoadFloat("model.layers.0.mlp.experts.1.down_proj.weight").ok());
  EXPECT_THAT((*broken)->LoadFloat("model.layers.0.mlp.experts.2.down_proj.weight"),
              Fails(StatusCode::kDataLoss, "experts.2.down_proj", "block 7 of Q4_K"));
}

// Robustness cases 20 and 34.
TEST_F(ExpertSource, StacksOfOtherSizesAreRefused) {
  const TinyModel model = MakeTinyModel({.architecture = "mixtral"});
  const std::string whole = BuildGguf(model).Build();
  ASSERT_TRUE(Open(whole).ok());
  constexpr std::string_view kStack = "blk.1.ffn_up_exps.weight";
  const size_t last = DimensionsAt(whole, kStack) + 4 + 2 * 8;
  const auto with = [&](uint64_t experts) {
    std::string file = whole;
    std::memcpy(&file[last], &experts, sizeof(experts));
    return Open(file);
  };
  ASSERT_TRUE(with(4).ok());
  EXPECT_THAT(with(3), Fails(kInvalid, kStack.data(), "[3, 128, 64]", "[4, 128, 64]"));
  EXPECT_FALSE(with(0).ok());
  EXPECT_FALSE(with(1'000'000).ok());
  EXPECT_FALSE(with(uint64_t{1} << 62).ok());
  EXPECT_FALSE(with(UINT64_MAX).ok());
  // Two dimensions, and the expert's tensor as dense models have it.
  std::string file = whole;
  file[last - 2 * 8 - 4] = 2;
  EXPECT_FALSE(Open(file).ok());
  GgufBuilder builder = BuildGguf(model);
  builder.Tensor("blk.0.ffn_up.weight", kPackF32, {64, 128}, std::string(64 * 128 * 4, '\0'));
  EXPECT_THAT(Open(builder.Build()), Fails(kUnimplemented, "blk.0.ffn_up.weight"));
}

// As the first files of Mixtral have them.
TEST_F(ExpertSource, ExpertsThatAreNotStackedAreRefusedByName) {
  const TinyModel model = MakeTinyModel({.architecture = "mixtral", .layers = 1});
  GgufBuilder builder;
  AddConfigKeys(model.config, builder);
  for (const TinyTensor& tensor : model.tensors) {
    std::string name = TinyGgufName(tensor.name, model.config);
    if (const auto expert = ExpertOf(tensor.name)) {
      name.replace(name.find("_exps"), 5, fmt::format(".{}", *expert));
    }
    builder.Tensor(name, kPackF32, {tensor.shape.rbegin(), tensor.shape.rend()},
                   PackGguf(kPackF32, tensor.values));
  }
  EXPECT_THAT(Open(builder.Build()), Fails(kUnimplemented, "blk.0.ffn_gate.0.weight",
                                           "not stacked in", "blk.0.ffn_gate_exps.weight"));
}

TEST_F(ExpertSource, DirectoriesMustHoldEveryExpert) {
  const TinyModel model = MakeTinyModel({.architecture = "mixtral", .layers = 1});
  const auto open = [&](uint32_t experts) {
    TinyModel other = model;
    other.config.num_experts = experts;
    std::filesystem::remove_all(folder_ / "hf");
    WriteHuggingFace(other, folder_ / "hf");
    return ModelSource::Open(folder_ / "hf");
  };
  ASSERT_TRUE(open(4).ok());
  EXPECT_THAT(open(5), Fails(kInvalid, "block_sparse_moe.gate.weight", "[4, 64]", "[5, 64]"));
  TinyModel other = model;
  other.config.num_experts = 3;
  other.Get("model.layers.0.block_sparse_moe.gate.weight").shape[0] = 3;
  other.Get("model.layers.0.block_sparse_moe.gate.weight").values.resize(3 * 64);
  WriteHuggingFace(other, folder_ / "three");
  EXPECT_THAT(ModelSource::Open(folder_ / "three"), Fails(kUnimplemented, "experts.3.w1.weight"));
}

}  // namespace
}  // namespace tq
