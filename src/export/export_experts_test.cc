// Models with experts: written to Hugging Face directories, not to GGUF.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "checkpoint/status_matcher_for_test.h"
#include "codec/grouped_matrix.h"
#include "codec/grouped_rounding.h"
#include "device/executor.h"
#include "export/export.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support

class ExportExpertsTest : public ::testing::TestWithParam<const char*> {
 protected:
  void ExpectSame(const std::filesystem::path& path, const TinyModel& model) {
    const auto source = ModelSource::Open(path);
    ASSERT_TRUE(source.ok()) << source.status().message();
    EXPECT_EQ(ModelConfigToJson((*source)->config()), ModelConfigToJson(model.config));
    for (const TinyTensor& tensor : model.tensors) {
      const Tensor read = *(*source)->LoadFloat(tensor.name);
      ASSERT_EQ(read.shape(), tensor.shape);
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        ASSERT_NEAR(read.as<float>()[i], tensor.values[i], 0.004 * std::abs(tensor.values[i]))
            << tensor.name;
      }
    }
  }
  TempFolder folder_;
  InlineExecutor executor_;
  NullProgress progress_;
};

TEST_P(ExportExpertsTest, FloatModels) {
  const TinyModel model = MakeTinyModel({.architecture = GetParam(), .dtype = DType::kBF16});
  WriteHuggingFace(model, folder_ / "hf");
  WriteGguf(model, folder_ / "x.gguf");
  for (const char* from : {"hf", "x.gguf"}) {
    const auto report = ExportHuggingFace({folder_ / from, folder_ / "out"}, executor_, progress_);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(report->tensors, model.tensors.size());
    ExpectSame(folder_ / "out", model);
    std::filesystem::remove_all(folder_ / "out");
    EXPECT_THAT(ExportGguf({folder_ / from, folder_ / "y.gguf"}, executor_, progress_),
                Fails(StatusCode::kUnimplemented, from, "experts"));
  }
}

// A packed model's matrices, decoded; what chooses experts as it is.
TEST_P(ExportExpertsTest, PackedModels) {
  TinyModel model = MakeTinyModel({.architecture = GetParam(), .layers = 1});
  PackedModelContents contents;
  contents.config = model.config;
  contents.method = "rtn";
  contents.files = {{"tokenizer.json", TokenizerJson(model.tokenizer)},
                    {"tokenizer_config.json", TokenizerConfigJson(model.tokenizer)}};
  const std::vector<TensorSpec> specs = ModelTensors(model.config);
  for (size_t i = 0; i < specs.size(); ++i) {
    TinyTensor& tensor = model.tensors[i];
    if (!specs[i].is_coded()) {
      contents.tensors.push_back(
          {tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values)});
      continue;
    }
    const GroupedMatrix matrix = *QuantizeToNearest(tensor.values.data(), tensor.shape[0],
                                                    tensor.shape[1], 4, 32, executor_);
    DecodeRows(matrix, 0, tensor.shape[0], tensor.values.data());
    ASSERT_TRUE(
        AppendMatrix(tensor.name.substr(0, tensor.name.size() - 7), matrix, &contents.tensors)
            .ok());
  }
  ASSERT_TRUE(WritePackedModel(folder_ / "packed", "", std::move(contents)).ok());
  const auto report =
      ExportHuggingFace({folder_ / "packed", folder_ / "out"}, executor_, progress_);
  ASSERT_TRUE(report.ok()) << report.status().message();
  ExpectSame(folder_ / "out", model);
}

INSTANTIATE_TEST_SUITE_P(All, ExportExpertsTest, ::testing::Values("mixtral", "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tq
