#include "checkpoint/model_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/architectures/architecture.h"
#include "checkpoint/gguf.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support

std::vector<float> Values(const Tensor& tensor) {
  return {tensor.as<float>(), tensor.as<float>() + tensor.num_elements()};
}

std::unique_ptr<ModelSource> OpenOrDie(const fs::path& path) {
  auto source = ModelSource::Open(path);
  EXPECT_TRUE(source.ok()) << source.status().message();
  return source.ok() ? *std::move(source) : nullptr;
}

void ExpectSameModel(const TinyModel& model, const ModelSource& source, double tolerance = 0) {
  EXPECT_EQ(source.config().vocab_size, model.config.vocab_size);
  EXPECT_EQ(source.config().head_dim, model.config.head_dim);
  EXPECT_EQ(source.config().tie_embeddings, model.config.tie_embeddings);
  EXPECT_EQ(source.config().rms_norm_eps, model.config.rms_norm_eps);
  EXPECT_EQ(source.config().rope_theta, model.config.rope_theta);
  EXPECT_EQ(source.config().bos_id, 0);
  EXPECT_EQ(source.config().eos_id, 1);
  ASSERT_EQ(source.tensors().size(), model.tensors.size());
  for (const TinyTensor& tensor : model.tensors) {
    auto loaded = source.LoadFloat(tensor.name);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    ASSERT_EQ(loaded->shape(), tensor.shape) << tensor.name;
    const std::vector<float> values = Values(*loaded);
    if (tolerance == 0 || tensor.shape.size() == 1) {
      EXPECT_EQ(values, tensor.values) << tensor.name;
      continue;
    }
    double error = 0, norm = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      error += std::pow(values[i] - tensor.values[i], 2);
      norm += std::pow(tensor.values[i], 2);
    }
    EXPECT_LT(error, tolerance * norm) << tensor.name;
  }
}

TEST(ModelSource, ReadsHuggingFaceDirectories) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const bool tied : {true, false}) {
      TempFolder folder;
      const TinyModel model = MakeTinyModel({.tied = tied, .dtype = dtype});
      WriteHuggingFace(model, folder / "hf");
      const auto source = OpenOrDie(folder / "hf");
      ASSERT_NE(source, nullptr);
      EXPECT_EQ(source->kind(), ModelKind::kHuggingFace);
      EXPECT_EQ(source->gguf(), nullptr);
      ExpectSameModel(model, *source);
      const auto norm = source->LoadStored("model.norm.weight");
      ASSERT_TRUE(norm.ok());
      EXPECT_EQ(norm->dtype(), dtype);
    }
  }
}

TEST(ModelSource, ReadsShards) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel();
  WriteHuggingFace(model, folder / "hf", 40'000);
  EXPECT_TRUE(fs::exists(folder / "hf/model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(folder / "hf/model.safetensors"));
  const auto source = OpenOrDie(folder / "hf");
  ASSERT_NE(source, nullptr);
  ExpectSameModel(model, *source);
}

TEST(ModelSource, ReadsGguf) {
  // Largest relative squared error of each block type on these weights, with room.
  const std::pair<uint32_t, double> cases[] = {{kPackF32, 0},     {kPackF16, 1e-6},
                                               {kPackBF16, 1e-4}, {kPackQ8_0, 1e-4},
                                               {kPackQ4_0, 0.02}, {kPackQ4_1, 0.02}};
  for (const auto& [type, tolerance] : cases) {
    for (const bool tied : {true, false}) {
      TempFolder folder;
      const TinyModel model = MakeTinyModel({.hidden = 96, .tied = tied});
      WriteGguf(model, folder / "tiny.gguf", type);
      const auto source = OpenOrDie(folder / "tiny.gguf");
      ASSERT_NE(source, nullptr);
      EXPECT_EQ(source->kind(), ModelKind::kGguf);
      EXPECT_NE(source->gguf(), nullptr);
      ExpectSameModel(model, *source, tolerance);
    }
  }
}

TEST(ModelSource, ReadsEveryArchitectureFromBoth) {
  for (const Architecture* architecture : Architectures()) {
    TempFolder folder;
    const TinyModel model = MakeTinyModel({.architecture = architecture->model_type});
    WriteHuggingFace(model, folder / "hf");
    const auto directory = OpenOrDie(folder / "hf");
    ASSERT_NE(directory, nullptr);
    ExpectSameModel(model, *directory);
    EXPECT_EQ(ModelConfigToJson(directory->config()), ModelConfigToJson(model.config));
    if (architecture->gguf_name == nullptr) continue;
    WriteGguf(model, folder / "tiny.gguf");
    const auto file = OpenOrDie(folder / "tiny.gguf");
    ASSERT_NE(file, nullptr) << architecture->model_type;
    EXPECT_EQ(ModelConfigToJson(file->config()), ModelConfigToJson(model.config));
    for (const TinyTensor& tensor : model.tensors) {
      const std::vector<float> values = Values(*file->LoadFloat(tensor.name));
      ASSERT_EQ(values.size(), tensor.values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        // 1 is added to some norms and taken away again.
        ASSERT_NEAR(values[i], tensor.values[i], 1e-6f * std::abs(1 + tensor.values[i]))
            << tensor.name;
      }
    }
  }
}

TEST(ModelSource, ReadsScaledRotaryEmbeddingsOfGguf) {
  TempFolder folder;
  TinyModel model = MakeTinyModel();
  for (const RopeScaling& scaling : {RopeScaling{RopeScaling::Kind::kLlama3, 32, 1, 4, 8192},
                                     RopeScaling{RopeScaling::Kind::kLinear, 8}}) {
    model.config.rope_scaling = scaling;
    WriteGguf(model, folder / "tiny.gguf");
    const auto file = OpenOrDie(folder / "tiny.gguf");
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(ModelConfigToJson(file->config()), ModelConfigToJson(model.config));
  }
  // Factors count beside a key that says that there is no scaling, and not beside another scaling.
  model.config.rope_scaling = {RopeScaling::Kind::kLlama3, 32, 1, 4, 8192};
  for (const char* type : {"none", "linear"}) {
    GgufBuilder builder = BuildGguf(model);
    builder.String("llama.rope.scaling.type", type).Float("llama.rope.scaling.factor", 8);
    WriteText(folder / "both.gguf", builder.Build());
    const auto both = ModelSource::Open(folder / "both.gguf");
    if (std::string_view(type) == "linear") {
      EXPECT_THAT(both, Fails(StatusCode::kUnimplemented, "rope.scaling.type", "linear"));
      continue;
    }
    ASSERT_TRUE(both.ok()) << both.status().message();
    EXPECT_EQ(ModelConfigToJson((*both)->config()), ModelConfigToJson(model.config));
  }
  // Factors that no Llama 3 has.
  model = MakeTinyModel({.hidden = 256});
  model.config.rope_scaling = {RopeScaling::Kind::kLlama3, 32, 1, 5, 8192};
  model.config.rope_theta = 500000;
  WriteGguf(model, folder / "tiny.gguf");
  EXPECT_THAT(ModelSource::Open(folder / "tiny.gguf"),
              Fails(StatusCode::kUnimplemented, "rope_freqs.weight", "Llama 3"));
}

TEST(ModelSource, CountsParametersOnce) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel({.tied = true, .dtype = DType::kBF16});
  WriteHuggingFace(model, folder / "hf");
  const auto source = OpenOrDie(folder / "hf");
  ASSERT_NE(source, nullptr);
  uint64_t expected = 0;
  for (const TinyTensor& tensor : model.tensors) expected += tensor.values.size();
  EXPECT_EQ(source->num_parameters(), expected);
  EXPECT_EQ(source->num_bytes(), 2 * expected);
}

TEST(ModelSource, RowsAreThoseOfTheWholeMatrix) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel({.dtype = DType::kBF16});
  WriteHuggingFace(model, folder / "hf");
  WriteGguf(model, folder / "bf16.gguf", kPackBF16);
  WriteGguf(model, folder / "q4_1.gguf", kPackQ4_1);
  const std::vector<int32_t> rows = {7, 0, 63, 7};
  for (const char* file : {"hf", "bf16.gguf", "q4_1.gguf"}) {
    const auto source = OpenOrDie(folder / file);
    ASSERT_NE(source, nullptr);
    for (const char* name :
         {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"}) {
      const Tensor whole = *source->LoadFloat(name);
      const uint64_t columns = whole.shape()[1];
      std::vector<float> some(rows.size() * columns);
      ASSERT_TRUE(source->LoadRows(name, rows, some.data()).ok());
      for (size_t i = 0; i < rows.size(); ++i) {
        EXPECT_TRUE(std::equal(some.begin() + static_cast<ptrdiff_t>(i * columns),
                               some.begin() + static_cast<ptrdiff_t>((i + 1) * columns),
                               whole.as<float>() + rows[i] * columns))
            << file << " " << name << " row " << rows[i];
      }
    }
    float none = 0;
    const int32_t past = 300, before = -1;
    EXPECT_FALSE(source->LoadRows("model.embed_tokens.weight", {&past, 1}, &none).ok());
    EXPECT_FALSE(source->LoadRows("model.embed_tokens.weight", {&before, 1}, &none).ok());
    EXPECT_FALSE(source->LoadRows("model.norm.weight", {}, &none).ok());
    EXPECT_FALSE(source->LoadRows("absent", {}, &none).ok());
  }
}

TEST(ModelSource, HashesTellTensorsApart) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel();
  WriteHuggingFace(model, folder / "hf");
  const auto source = OpenOrDie(folder / "hf");
  ASSERT_NE(source, nullptr);
  const auto hash = [&](std::string_view name) {
    Hasher hasher;
    EXPECT_TRUE(source->HashTensor(name, hasher).ok());
    return hasher.Digest();
  };
  const auto q = hash("model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(q, hash("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_NE(q, hash("model.layers.1.self_attn.q_proj.weight"));
}

}  // namespace
}  // namespace tq
