// Packed models against dense ones of the same weights, through the files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/packed_model.h"
#include "codec/rotation.h"
#include "device/thread_pool.h"
#include "model/packed_twins_for_test.h"
#include "model/transformer.h"

namespace tq {
namespace {

using ::testing::HasSubstr;
using testing::TempFolder;

class PackedTransformer : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(PackedTransformer, IsTheDenseModelOfItsWeights) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", PackedConfig(tied), method);
  auto packed = *Transformer::FromPacked(twins.packed);
  auto dense = *Transformer::FromSource(twins.dense);
  const auto tokens = SomeTokens(40);
  const auto expected = AllLogits(*dense, tokens, MatmulPath::kFast);
  EXPECT_LT(RelativeError(AllLogits(*packed, tokens, MatmulPath::kReference), expected), 1e-3);
  const double fast = RelativeError(AllLogits(*packed, tokens, MatmulPath::kFast), expected);
  if (std::string_view(method) == "trellis") {
    // 14-bit noise: a product's relative error is about max|x'| / (8159 sqrt(12) rms x'), some
    // 1.5e-4; twelve products one after the other, the head and the fp16 cache add up to 1e-3.
    EXPECT_LT(fast, 2e-3);
    EXPECT_GT(fast, 1e-6);
  } else {
    // 8-bit noise: half a percent per product.
    EXPECT_LT(fast, 5e-2);
    EXPECT_GT(fast, 1e-3);
  }
}

TEST_P(PackedTransformer, ThreadsAndBatchesDoNotChangeABit) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", PackedConfig(tied), method);
  auto model = *Transformer::FromPacked(twins.packed);
  const auto tokens = SomeTokens(40);
  const auto at_once = AllLogits(*model, tokens, MatmulPath::kFast);
  auto pool = *ThreadPool::Create(2);
  EXPECT_EQ(at_once, AllLogits(*model, tokens, MatmulPath::kFast, *pool));
  EXPECT_EQ(at_once, LogitsInRuns(*model, tokens, 8, inline_executor));
  EXPECT_EQ(at_once, LogitsInRuns(*model, tokens, 2, *pool));
}

// Token by token, activations of trellis codes have 8 bits: a relative error of half a percent per
// product.
TEST_P(PackedTransformer, SingleTokensDifferByTheirActivationsAlone) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", PackedConfig(tied), method);
  auto model = *Transformer::FromPacked(twins.packed);
  const auto tokens = SomeTokens(40);
  const auto single = LogitsInRuns(*model, tokens, 1, inline_executor);
  EXPECT_EQ(single, LogitsInRuns(*model, tokens, 1, **ThreadPool::Create(2)));
  const double error = RelativeError(single, AllLogits(*model, tokens, MatmulPath::kFast));
  if (std::string_view(method) == "trellis") {
    EXPECT_LT(error, 5e-2);
    EXPECT_GT(error, 1e-3);
  } else {
    EXPECT_EQ(error, 0);
  }
}

TEST_P(PackedTransformer, CountsTheBytesOfAToken) {
  const auto& [method, tied] = GetParam();
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", PackedConfig(tied), method);
  auto model = *Transformer::FromPacked(twins.packed);
  // All of the file but its header and, with a separate head, most of the embedding.
  EXPECT_LT(model->BytesPerToken(), twins.packed->num_bytes());
  if (tied) {
    EXPECT_GT(model->BytesPerToken(), twins.packed->num_bytes() * 9 / 10 - 12000);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackedTransformer,
                         ::testing::Combine(::testing::Values("trellis", "rtn", "ternary"),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "_tied" : "_separate");
                         });

// Robustness case 15: a file that shrinks under a running model is an error, not a SIGBUS.
TEST(PackedTransformerFiles, ATruncatedFileIsNoticed) {
  TempFolder folder;
  const Twins twins = MakeTwins(folder / "model", PackedConfig(true), "trellis");
  auto model = *Transformer::FromPacked(twins.packed);
  KvCache cache = *KvCache::Create(model->config(), 4);
  const ForwardContext context{&inline_executor, MatmulPath::kFast};
  const std::vector<int32_t> tokens{1};
  ASSERT_TRUE(model->Forward(context, cache, tokens, Logits::kNone, nullptr).ok());
  for (const auto& entry : std::filesystem::directory_iterator(folder / "model")) {
    if (entry.path().extension() == ".safetensors") {
      std::filesystem::resize_file(entry.path(), entry.file_size() - 1);
    }
  }
  const Status status = model->Forward(context, cache, tokens, Logits::kNone, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(cache.length(), 1u);
}

// The same weights, one model: as a Hugging Face directory and as GGUF, whose q and k rows
// lie in another order.
TEST(TransformerFiles, GgufAndHuggingFaceAgree) {
  TempFolder folder;
  const testing::TinyModel tiny = testing::MakeTinyModel({.layers = 3, .tied = false});
  WriteHuggingFace(tiny, folder / "hf");
  WriteGguf(tiny, folder / "tiny.gguf", testing::kPackF32);
  auto a = Transformer::Load(folder / "hf"), b = Transformer::Load(folder / "tiny.gguf");
  ASSERT_TRUE(a.ok()) << a.status().message();
  ASSERT_TRUE(b.ok()) << b.status().message();
  const auto tokens = SomeTokens(30);
  EXPECT_EQ(AllLogits(**a, tokens, MatmulPath::kFast), AllLogits(**b, tokens, MatmulPath::kFast));
}

TEST(TransformerFiles, LoadNamesWhatIsWrong) {
  TempFolder folder;
  EXPECT_FALSE(Transformer::Load(folder / "nothing").ok());
  const testing::TinyModel tiny = testing::MakeTinyModel();
  WriteHuggingFace(tiny, folder / "hf");
  testing::WriteText(folder.path() / "hf" / "config.json", "{\"model_type\": \"llama\"}");
  const auto model = Transformer::Load(folder / "hf");
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.status().message(), HasSubstr("config.json"));
}

}  // namespace
}  // namespace tq
