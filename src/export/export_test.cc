#include "export/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "../../tests/support/gguf_reader.h"
#include "../../tests/support/tiny_model.h"
#include "checkpoint/architectures/architecture.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "checkpoint/status_matcher_for_test.h"
#include "codec/grouped_rounding.h"
#include "device/thread_pool.h"
#include "tokenizer/test_vocabulary.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support

class ExportTest : public ::testing::Test {
 protected:
  StatusOr<ExportReport> Gguf(const std::string& model, const std::string& output,
                              GgufFileType type, size_t threads = 1) {
    const auto pool = *ThreadPool::Create(threads);
    return ExportGguf({folder_ / model, folder_ / output, type}, *pool, progress_);
  }
  StatusOr<ExportReport> HuggingFace(const std::string& model, const std::string& output,
                                     uint64_t shard_bytes = kDefaultShardBytes) {
    InlineExecutor executor;
    ExportOptions options{folder_ / model, folder_ / output};
    options.max_shard_bytes = shard_bytes;
    return ExportHuggingFace(options, executor, progress_);
  }
  Tensor Load(const std::string& model, const std::string& tensor) {
    const auto source = ModelSource::Open(folder_ / model);
    TQ_CHECK(source.ok());
    return *(*source)->LoadFloat(tensor);
  }
  TempFolder folder_;
  NullProgress progress_;
};

double RelativeError(const std::vector<float>& x, const float* y) {
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
    power += double{x[i]} * x[i];
  }
  return std::sqrt(error / power);
}

// Everything a reader can see of the exported model is that of the original.
void ExpectSameModel(const fs::path& path, const TinyModel& model, double bound) {
  const auto source = ModelSource::Open(path);
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_EQ(ModelConfigToJson((*source)->config()), ModelConfigToJson(model.config));
  for (const TinyTensor& tensor : model.tensors) {
    const auto read = (*source)->LoadFloat(tensor.name);
    ASSERT_TRUE(read.ok()) << read.status().message();
    ASSERT_EQ(read->shape(), tensor.shape);
    EXPECT_LE(RelativeError(tensor.values, read->as<float>()), bound) << tensor.name;
  }
}

std::vector<int32_t> Ids(const fs::path& path) {
  const auto tokenizer = Tokenizer::FromModel(path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return (*tokenizer)->EncodePrompt("The weather of 1984, \xF0\x9F\x8C\xA7 <s>it is!");
}

TEST_F(ExportTest, ReadersSeeTheSameModel) {
  for (const bool tied : {true, false}) {
    const TinyModel model =
        MakeTinyModel({.tied = tied, .pre_tokenizer = tied ? "gpt2" : "smollm", .add_bos = !tied});
    const std::string hf = tied ? "tied" : "untied";
    WriteHuggingFace(model, folder_ / hf);
    const std::pair<GgufFileType, double> types[] = {{GgufFileType::kF32, 0},
                                                     {GgufFileType::kF16, 3e-4},
                                                     {GgufFileType::kBF16, 2.5e-3},
                                                     {GgufFileType::kQ8_0, 8e-3}};
    for (const auto& [type, bound] : types) {
      const std::string name = hf + std::to_string(static_cast<int>(type)) + ".gguf";
      const auto report = Gguf(hf, name, type);
      ASSERT_TRUE(report.ok()) << report.status().message();
      EXPECT_EQ(report->bytes, fs::file_size(folder_ / name));
      EXPECT_EQ(report->tensors, model.tensors.size());
      EXPECT_TRUE(report->fallbacks.empty());
      EXPECT_TRUE(report->notes.empty());
      ExpectSameModel(folder_ / name, model, bound);
      EXPECT_EQ(Ids(folder_ / name), Ids(folder_ / hf));
      // And from there to GGUF again: the same bytes.
      ASSERT_TRUE(Gguf(name, "again.gguf", type).ok());
      EXPECT_EQ(ReadText(folder_ / "again.gguf"), ReadText(folder_ / name)) << name;
      fs::remove(folder_ / "again.gguf");
    }
    const auto report = HuggingFace(hf, hf + "-hf");
    ASSERT_TRUE(report.ok()) << report.status().message();
    ExpectSameModel(folder_ / (hf + "-hf"), model, 2.5e-3);
    EXPECT_EQ(Ids(folder_ / (hf + "-hf")), Ids(folder_ / hf));
    EXPECT_EQ(ReadText(folder_ / (hf + "-hf") / "tokenizer.json"),
              ReadText(folder_ / hf / "tokenizer.json"));
  }
}

TEST_F(ExportTest, HuggingFaceFromGgufInShards) {
  const TinyModel model = MakeTinyModel({.dtype = DType::kBF16});
  WriteGguf(model, folder_ / "x.gguf", kPackBF16);
  const auto report = HuggingFace("x.gguf", "hf", 40000);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_TRUE(fs::exists(folder_ / "hf/model.safetensors.index.json"));
  EXPECT_TRUE(fs::exists(folder_ / "hf/model-00002-of-00006.safetensors"));
  ExpectSameModel(folder_ / "hf", model, 0);  // what is bfloat16 stays as it is
  EXPECT_EQ(Ids(folder_ / "hf"), Ids(folder_ / "x.gguf"));
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder_ / "hf")) {
    if (entry.path().extension() == ".safetensors") bytes += entry.file_size();
  }
  EXPECT_EQ(report->bytes, bytes);
}

TEST_F(ExportTest, GenerationConfigIsCopied) {
  WriteHuggingFace(MakeTinyModel(), folder_ / "hf");
  WriteText(folder_ / "hf/generation_config.json", "{\"top_k\": 5}\n");
  ASSERT_TRUE(HuggingFace("hf", "out").ok());
  EXPECT_EQ(ReadText(folder_ / "out/generation_config.json"), "{\"top_k\": 5}\n");
  EXPECT_THAT(ReadText(folder_ / "out/config.json"),
              ::testing::HasSubstr("\"torch_dtype\": \"bfloat16\""));
}

// A packed model's matrices, decoded.
TEST_F(ExportTest, PackedDirectories) {
  const TinyModel model = MakeTinyModel({.dtype = DType::kBF16});
  PackedModelContents contents;
  contents.config = model.config;
  contents.method = "rtn";
  contents.files = {{"tokenizer.json", TokenizerJson(model.tokenizer)},
                    {"tokenizer_config.json", TokenizerConfigJson(model.tokenizer)}};
  InlineExecutor executor;
  TinyModel decoded = model;
  for (TinyTensor& tensor : decoded.tensors) {
    if (tensor.shape.size() == 1) {
      contents.tensors.push_back(
          {tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values)});
      continue;
    }
    const uint64_t rows = tensor.shape[0], cols = tensor.shape[1];
    const GroupedMatrix matrix =
        *QuantizeToNearest(tensor.values.data(), rows, cols, 4, 32, executor);
    DecodeRows(matrix, 0, rows, tensor.values.data());
    ASSERT_TRUE(
        AppendMatrix(tensor.name.substr(0, tensor.name.size() - 7), matrix, &contents.tensors)
            .ok());
  }
  ASSERT_TRUE(WritePackedModel(folder_ / "packed", "", std::move(contents)).ok());
  ASSERT_TRUE(HuggingFace("packed", "hf").ok());
  ExpectSameModel(folder_ / "hf", decoded, 2.5e-3);
  ASSERT_TRUE(Gguf("packed", "x.gguf", GgufFileType::kF32).ok());
  ExpectSameModel(folder_ / "x.gguf", decoded, 0);
  EXPECT_EQ(Ids(folder_ / "x.gguf"), Ids(folder_ / "packed"));
}

// What GGUF says of the model: Mistral's are llamas there.
TinyModel AsInGguf(TinyModel model) {
  if (model.config.architecture != "mistral") return model;
  model.config.architecture = "llama";
  model.config.sliding_window = 0;
  return model;
}

// Those that GGUF has a name for, without experts.
bool IsWritten(const Architecture& architecture) {
  return !architecture.experts &&
         (architecture.gguf_name != nullptr || architecture.gguf_as != nullptr);
}

TEST_F(ExportTest, EveryArchitecture) {
  for (const Architecture* architecture : Architectures()) {
    // All values are halves: F16 keeps them, also those of norms that are stored plus one.
    const TinyModel model =
        MakeTinyModel({.architecture = architecture->model_type, .dtype = DType::kF16});
    for (const GgufFileType type : {GgufFileType::kF32, GgufFileType::kF16}) {
      fs::remove_all(folder_ / "hf");
      fs::remove(folder_ / "x.gguf");
      WriteHuggingFace(model, folder_ / "hf");
      const auto report = Gguf("hf", "x.gguf", type);
      if (!IsWritten(*architecture)) {
        EXPECT_THAT(report, Fails(StatusCode::kUnimplemented, "not written to GGUF"));
        continue;
      }
      ASSERT_TRUE(report.ok()) << report.status().message();
      EXPECT_TRUE(report->notes.empty() && report->fallbacks.empty());
      ExpectSameModel(folder_ / "x.gguf", AsInGguf(model), 0);
      EXPECT_EQ(Ids(folder_ / "x.gguf"), Ids(folder_ / "hf"));
    }
  }
}

// Robustness case 46: of every architecture, with rows of whole blocks and of none.
TEST_F(ExportTest, EveryArchitectureInQ4K) {
  for (const Architecture* architecture : Architectures()) {
    if (!IsWritten(*architecture)) continue;
    for (const uint32_t intermediate : {256u, 72u}) {
      const TinyModel model = MakeTinyModel({.architecture = architecture->model_type,
                                             .hidden = 256,
                                             .intermediate = intermediate,
                                             .layers = 1});
      fs::remove_all(folder_ / "hf");
      fs::remove(folder_ / "x.gguf");
      WriteHuggingFace(model, folder_ / "hf");
      const auto report = Gguf("hf", "x.gguf", GgufFileType::kQ4_K);
      ASSERT_TRUE(report.ok()) << report.status().message();
      if (intermediate == 256) {
        EXPECT_TRUE(report->fallbacks.empty());
      } else {
        ASSERT_EQ(report->fallbacks.size(), 1u);
        EXPECT_EQ(report->fallbacks[0].type, GgufEncoding::kF16);
        EXPECT_EQ(report->fallbacks[0].tensors, 1u) << "down_proj";
      }
      const auto source = ModelSource::Open(folder_ / "x.gguf");
      ASSERT_TRUE(source.ok()) << source.status().message();
      for (const TinyTensor& tensor : model.tensors) {
        const double error =
            RelativeError(tensor.values, (*source)->LoadFloat(tensor.name)->as<float>());
        // Of Gaussian values Q4_K loses 0.07 and Q6_K 0.017; any field of a block that is written
        // wrongly costs more than the bound allows.
        const bool head = tensor.name == "model.embed_tokens.weight";
        const bool half = intermediate == 72 && tensor.name.ends_with("down_proj.weight");
        const double most = tensor.shape.size() == 1 ? 1e-6 : half ? 3e-4 : head ? 0.022 : 0.085;
        EXPECT_LE(error, most) << architecture->model_type << " " << tensor.name;
        EXPECT_GE(error, tensor.shape.size() == 1 || half ? 0 : most / 2)
            << "is stored in a finer type: " << tensor.name;
      }
    }
  }
}

TEST_F(ExportTest, ScaledPositions) {
  constexpr auto kLlama3 = RopeScaling::Kind::kLlama3;
  constexpr auto kLinear = RopeScaling::Kind::kLinear;
  const std::pair<const char*, RopeScaling> cases[] = {{"llama", {kLlama3, 8, 1, 4, 8192}},
                                                       {"llama", {kLlama3, 32, 1, 4, 4096}},
                                                       {"mistral", {kLlama3, 8, 1, 4, 8192}},
                                                       {"llama", {kLinear, 4}},
                                                       {"qwen2", {kLinear, 2}},
                                                       {"gemma3_text", {kLinear, 8}}};
  for (const auto& [architecture, scaling] : cases) {
    TinyModel model = MakeTinyModel({.architecture = architecture});
    model.config.rope_scaling = scaling;
    fs::remove_all(folder_ / "hf");
    fs::remove(folder_ / "x.gguf");
    WriteHuggingFace(model, folder_ / "hf");
    const auto report = Gguf("hf", "x.gguf", GgufFileType::kF16);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_TRUE(report->notes.empty());
    EXPECT_EQ(report->bytes, fs::file_size(folder_ / "x.gguf"));
    ExpectSameModel(folder_ / "x.gguf", AsInGguf(model), 3e-4);
    const std::string bytes = ReadText(folder_ / "x.gguf");
    const GgufListing listing = GgufLister(bytes).List();
    EXPECT_EQ(listing.tensors.contains("rope_freqs.weight"), scaling.kind == kLlama3);
    if (scaling.kind != kLlama3) continue;
    // By llama.cpp's rule, from the wavelengths.
    const ListedTensor& listed = listing.tensors.at("rope_freqs.weight");
    EXPECT_EQ(listed.type, 0u);
    const std::vector<float> factors = DecodeGgml(listed.type, listed.data.data(), 8);
    const double low = scaling.original_max_position, high = low / 4;
    for (int i = 0; i < 8; ++i) {
      const double wavelength = 2 * M_PI * std::pow(double{model.config.rope_theta}, i / 8.0);
      const double smooth = (low / wavelength - 1) / 3;
      const double expected = wavelength < high  ? 1
                              : wavelength > low ? double{scaling.factor}
                                                 : 1 / ((1 - smooth) / scaling.factor + smooth);
      EXPECT_NEAR(factors[static_cast<size_t>(i)], expected, 1e-5 * expected) << i;
    }
  }
}

// Within its window a Mistral is a llama: such a file is what can be written.
TEST_F(ExportTest, WindowsOfMistral) {
  struct Case {
    uint32_t window, context;
    bool noted;
  };
  for (const Case& c :
       {Case{0, 512, false}, {512, 512, false}, {1000, 512, false}, {100, 100, true}}) {
    TinyModel model = MakeTinyModel({.architecture = "mistral"});
    model.config.sliding_window = c.window;
    fs::remove_all(folder_ / "hf");
    fs::remove(folder_ / "x.gguf");
    WriteHuggingFace(model, folder_ / "hf");
    const auto report = Gguf("hf", "x.gguf", GgufFileType::kF32);
    ASSERT_TRUE(report.ok()) << report.status().message();
    TinyModel expected = AsInGguf(model);
    expected.config.max_position = c.context;
    ExpectSameModel(folder_ / "x.gguf", expected, 0);
    ASSERT_EQ(report->notes.size(), c.noted ? 1u : 0u);
    if (c.noted) {
      EXPECT_THAT(report->notes[0], ::testing::HasSubstr("window of 100 positions"));
      EXPECT_THAT(report->notes[0], ::testing::HasSubstr("100 instead of 512"));
    }
  }
}

TEST_F(ExportTest, WhatGgufCannotSayIsRefused) {
  constexpr auto kLlama3 = RopeScaling::Kind::kLlama3;
  const auto refused = [&](const TinyModel& model) {
    fs::remove_all(folder_ / "hf");
    WriteHuggingFace(model, folder_ / "hf");
    return Gguf("hf", "x.gguf", GgufFileType::kF32);
  };
  TinyModel model = MakeTinyModel();
  model.config.rope_scaling = {kLlama3, 8, 2, 4, 8192};
  EXPECT_THAT(refused(model),
              Fails(StatusCode::kUnimplemented, "low_freq_factor 2", "rope_freqs.weight"));
  // No pair turns so slowly that it shows the factor.
  model.config.rope_scaling = {kLlama3, 8, 1, 4, 1 << 20};
  EXPECT_THAT(refused(model), Fails(StatusCode::kUnimplemented, "1048576", "rope_freqs.weight"));
  model = MakeTinyModel({.architecture = "qwen2"});
  model.config.rope_scaling = {kLlama3, 8, 1, 4, 8192};
  EXPECT_THAT(refused(model), Fails(StatusCode::kUnimplemented, "qwen2", "rope_freqs.weight"));
  model = MakeTinyModel({.architecture = "gemma2"});
  model.config.query_scalar = 100;
  EXPECT_THAT(refused(model), Fails(StatusCode::kUnimplemented, "100"));
  model = MakeTinyModel({.architecture = "gemma3_text"});
  model.config.attention_softcap = 20;
  EXPECT_THAT(refused(model), Fails(StatusCode::kUnimplemented, "attn_logit_softcapping is 20"));
  EXPECT_FALSE(fs::exists(folder_ / "x.gguf"));
}

// From tokenizer.json, and from the file that was written again.
TEST_F(ExportTest, SentencePieceTokenizers) {
  WriteHuggingFace(MakeTinyModel({.vocab = 266}), folder_ / "hf");
  const auto tokenizer = [](const std::vector<std::pair<std::string, std::string>>& merges) {
    return TestPieceTokenizerJson({"_", "h", "e", "t", "w"}, merges).dump();
  };
  WriteText(folder_ / "hf/tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": true})");
  // Scores would merge t and he, too.
  WriteText(folder_ / "hf/tokenizer.json", tokenizer({{"t", "h"}, {"h", "e"}, {"th", "e"}}));
  EXPECT_THAT(Gguf("hf", "x.gguf", GgufFileType::kF16),
              Fails(StatusCode::kUnimplemented, "'t' and 'he'"));
  WriteText(folder_ / "hf/tokenizer.json", tokenizer({{"t", "h"}, {"_", "th"}, {"h", "e"}}));
  const auto report = Gguf("hf", "x.gguf", GgufFileType::kF16);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_TRUE(report->notes.empty());
  EXPECT_EQ(Ids(folder_ / "x.gguf"), Ids(folder_ / "hf"));
  ASSERT_TRUE(Gguf("x.gguf", "again.gguf", GgufFileType::kF16).ok());
  EXPECT_EQ(ReadText(folder_ / "again.gguf"), ReadText(folder_ / "x.gguf"));
}

// Robustness case 46: Q4_K where rows have whole blocks of 256, and llama.cpp's substitutes where
// not.
TEST_F(ExportTest, TypesOfQ4K) {
  struct Case {
    uint32_t hidden, intermediate;
    bool tied;
    // Of embedding, head (untied), gate_proj (rows of `hidden`) and down_proj (of `intermediate`).
    uint32_t embedding, head, gate, down;
    std::vector<std::tuple<GgufEncoding, GgufEncoding, uint64_t>> fallbacks;
  };
  constexpr uint32_t kF16 = 1, kQ5_0 = 6, kQ8_0 = 8, kQ4_K = 12, kQ6_K = 14;
  const Case cases[] = {
      {256, 512, false, kQ4_K, kQ6_K, kQ4_K, kQ4_K, {}},
      {256, 512, true, kQ6_K, 0, kQ4_K, kQ4_K, {}},
      {64,
       256,
       true,
       kQ8_0,
       0,
       kQ5_0,
       kQ4_K,
       {{GgufEncoding::kQ6_K, GgufEncoding::kQ8_0, 1},
        {GgufEncoding::kQ4_K, GgufEncoding::kQ5_0, 6}}},
      {256, 72, false, kQ4_K, kQ6_K, kQ4_K, kF16, {{GgufEncoding::kQ4_K, GgufEncoding::kF16, 1}}}};
  for (const Case& c : cases) {
    const TinyModel model = MakeTinyModel(
        {.hidden = c.hidden, .intermediate = c.intermediate, .layers = 1, .tied = c.tied});
    fs::remove_all(folder_ / "hf");
    fs::remove(folder_ / "x.gguf");
    WriteHuggingFace(model, folder_ / "hf");
    const auto report = Gguf("hf", "x.gguf", GgufFileType::kQ4_K);
    ASSERT_TRUE(report.ok()) << report.status().message();
    ASSERT_EQ(report->fallbacks.size(), c.fallbacks.size());
    for (size_t i = 0; i < c.fallbacks.size(); ++i) {
      const TypeFallback& fallback = report->fallbacks[i];
      EXPECT_EQ(std::tuple(fallback.wanted, fallback.type, fallback.tensors), c.fallbacks[i]);
    }
    const std::string bytes = ReadText(folder_ / "x.gguf");
    const GgufListing listing = GgufLister(bytes).List();
    EXPECT_TRUE(listing.keys.contains("general.quantization_version"));
    const auto type = [&](const char* name) { return listing.tensors.at(name).type; };
    EXPECT_EQ(type("token_embd.weight"), c.embedding);
    if (c.tied) {
      EXPECT_FALSE(listing.tensors.contains("output.weight"));
    } else {
      EXPECT_EQ(type("output.weight"), c.head);
    }
    EXPECT_EQ(type("blk.0.ffn_gate.weight"), c.gate);
    EXPECT_EQ(type("blk.0.ffn_down.weight"), c.down);
    EXPECT_EQ(type("blk.0.attn_norm.weight"), 0u);
    for (const TinyTensor& tensor : model.tensors) {
      const ListedTensor& listed = listing.tensors.at(TinyGgufName(tensor.name, model.config));
      const std::vector<float> expected = GgufValues(tensor, model.config);
      const std::vector<float> read = DecodeGgml(listed.type, listed.data.data(), expected.size());
      // Columns differ in strength, so runs of 32 lose a little more than of Gaussian values.
      EXPECT_LE(RelativeError(expected, read.data()), 0.085) << tensor.name;
    }
  }
}

TEST_F(ExportTest, SameBytesForAnyNumberOfThreads) {
  WriteHuggingFace(MakeTinyModel({.hidden = 256}), folder_ / "hf");
  ASSERT_TRUE(Gguf("hf", "one.gguf", GgufFileType::kQ4_K, 1).ok());
  ASSERT_TRUE(Gguf("hf", "three.gguf", GgufFileType::kQ4_K, 3).ok());
  EXPECT_EQ(ReadText(folder_ / "one.gguf"), ReadText(folder_ / "three.gguf"));
}

// Robustness case 44.
TEST_F(ExportTest, WeightsBeyondTheTypeAreNamed) {
  TinyModel model = MakeTinyModel();
  model.Get("model.layers.1.self_attn.q_proj.weight").values[3 * 64 + 5] = 1e38f;
  WriteHuggingFace(model, folder_ / "hf");
  for (const GgufFileType type : {GgufFileType::kF16, GgufFileType::kQ8_0, GgufFileType::kQ4_K}) {
    EXPECT_THAT(Gguf("hf", "x.gguf", type).status(),
                Fails(StatusCode::kInvalidArgument, "layers.1.self_attn.q_proj.weight", "row 3",
                      "element 5", "1e+38"));
    EXPECT_FALSE(fs::exists(folder_ / "x.gguf"));
  }
  EXPECT_TRUE(Gguf("hf", "bf16.gguf", GgufFileType::kBF16).ok());
  model.Get("model.layers.1.self_attn.q_proj.weight").values[3 * 64 + 5] = 3.4e38f;
  fs::remove_all(folder_ / "hf");
  WriteHuggingFace(model, folder_ / "hf");
  EXPECT_THAT(HuggingFace("hf", "out").status(),
              Fails(StatusCode::kInvalidArgument, "q_proj.weight", "element", "3.4e+38"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

// Robustness case 67.
TEST_F(ExportTest, OutputsThatAreRefused) {
  const TinyModel model = MakeTinyModel();
  WriteHuggingFace(model, folder_ / "hf");
  WriteGguf(model, folder_ / "in.gguf");
  const std::string before = ReadText(folder_ / "in.gguf");
  const auto gguf = [&](const std::string& from, const std::string& to) {
    return Gguf(from, to, GgufFileType::kF16).status();
  };
  EXPECT_THAT(gguf("in.gguf", "in.gguf"), Fails(StatusCode::kInvalidArgument, "is the input"));
  EXPECT_THAT(gguf("hf", "in.gguf"), Fails(StatusCode::kAlreadyExists, "in.gguf"));
  EXPECT_THAT(gguf("in.gguf", "hf"), Fails(StatusCode::kAlreadyExists, "hf"));
  EXPECT_THAT(gguf("hf", "absent/x.gguf"), Fails(StatusCode::kNotFound, "absent"));
  EXPECT_THAT(gguf("hf", "new/"), Fails(StatusCode::kInvalidArgument, "names no file"));
  fs::create_symlink("nowhere", folder_ / "link");
  EXPECT_THAT(gguf("hf", "link"), Fails(StatusCode::kAlreadyExists, "link"));
  EXPECT_THAT(HuggingFace("hf", "hf").status(),
              Fails(StatusCode::kInvalidArgument, "is the input"));
  EXPECT_THAT(HuggingFace("in.gguf", "hf").status(), Fails(StatusCode::kAlreadyExists, "hf"));
  EXPECT_EQ(ReadText(folder_ / "in.gguf"), before);
}

TEST_F(ExportTest, TokenizersThatAreMissingOrDoNotFit) {
  const TinyModel model = MakeTinyModel();
  WriteHuggingFace(model, folder_ / "hf");
  fs::remove(folder_ / "hf/tokenizer.json");
  EXPECT_THAT(Gguf("hf", "x.gguf", GgufFileType::kF16).status(),
              Fails(StatusCode::kNotFound, "tokenizer.json"));
  EXPECT_TRUE(HuggingFace("hf", "out").ok());  // which copies what is there
  WriteText(folder_ / "hf/tokenizer.json", TokenizerJson(MakeTinyTokenizer(301)));
  EXPECT_THAT(Gguf("hf", "x.gguf", GgufFileType::kF16).status(),
              Fails(StatusCode::kInvalidArgument, "301 tokens", "300 rows"));
  fs::remove(folder_ / "hf/tokenizer_config.json");
  WriteText(folder_ / "hf/tokenizer.json",
            R"({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
                "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581",
                 "add_prefix_space": true},
                "decoder": {"type": "Metaspace", "replacement": "\u2581",
                 "add_prefix_space": true}})");
  EXPECT_THAT(Gguf("hf", "x.gguf", GgufFileType::kF16).status(),
              Fails(StatusCode::kUnimplemented, "SentencePiece"));
  EXPECT_FALSE(fs::exists(folder_ / "x.gguf"));
}

}  // namespace
}  // namespace tq
