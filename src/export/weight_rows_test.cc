#include "export/weight_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../tests/support/tiny_model.h"
#include "base/cancel.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support

// All values of a tensor as ForEachRowBlock gives them, 10 KiB at a time; blocks begin at multiples
// of `unit` rows.
StatusOr<std::vector<float>> Gather(const WeightRows& weights, const TensorSpec& spec,
                                    uint64_t unit, int* blocks = nullptr) {
  InlineExecutor executor;
  std::vector<float> all;
  const uint64_t cols = ExtentOf(spec).cols;
  const auto consume = [&](const float* rows, uint64_t begin, uint64_t end) {
    EXPECT_EQ(begin * cols, all.size());
    EXPECT_EQ(begin % unit, 0u);
    all.insert(all.end(), rows, rows + (end - begin) * cols);
    if (blocks != nullptr) ++*blocks;
    return OkStatus();
  };
  TQ_RETURN_IF_ERROR(ForEachRowBlock(weights, spec, unit, executor, consume, 10 << 10));
  return all;
}

TEST(WeightRows, SourcesGiveAllRowsInOrder) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel();
  WriteHuggingFace(model, folder / "hf");
  WriteGguf(model, folder / "x.gguf");
  for (const char* name : {"hf", "x.gguf"}) {
    const auto weights = WeightRows::Open(folder / name);
    ASSERT_TRUE(weights.ok()) << weights.status().message();
    EXPECT_EQ((*weights)->gguf() != nullptr, std::string_view(name) == "x.gguf");
    uint64_t parameters = 0;
    int blocks = 0;
    for (const TinyTensor& tensor : model.tensors) {
      const bool heads = tensor.name.ends_with("q_proj.weight");
      const auto rows = Gather(**weights, {tensor.name, tensor.shape},
                               heads ? model.config.head_dim : 1, &blocks);
      ASSERT_TRUE(rows.ok()) << rows.status().message();
      EXPECT_EQ(*rows, tensor.values) << name << " " << tensor.name;
      parameters += tensor.values.size();
    }
    // 40 rows of 64 at a time: the embedding's 300 in 8 blocks; heads of 16 rows 32 at a time.
    EXPECT_EQ(blocks, 8 + 2 * (1 + 2 + 1 + 1 + 2 + 1 + 4 + 4 + 4) + 1);
    EXPECT_EQ(NumParameters((*weights)->config()), parameters);
  }
}

TEST(WeightRows, StopsWhenAskedTo) {
  TempFolder folder;
  WriteHuggingFace(MakeTinyModel(), folder / "hf");
  const auto weights = WeightRows::Open(folder / "hf");
  ASSERT_TRUE(weights.ok());
  RequestCancel();
  const Status status = Gather(**weights, ModelTensors((*weights)->config())[0], 1).status();
  ClearCancel();
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
}

// Robustness case 42.
TEST(WeightRows, NonFiniteWeightsAreNamed) {
  TempFolder folder;
  TinyModel model = MakeTinyModel();
  model.Get("model.layers.1.mlp.up_proj.weight").values[70] = INFINITY;
  WriteHuggingFace(model, folder / "hf");
  const auto weights = WeightRows::Open(folder / "hf");
  ASSERT_TRUE(weights.ok());
  EXPECT_THAT(Gather(**weights, {"model.layers.1.mlp.up_proj.weight", {128, 64}}, 1).status(),
              Fails(StatusCode::kDataLoss, "up_proj.weight", "row 1", "element 6"));
}

}  // namespace
}  // namespace tq
