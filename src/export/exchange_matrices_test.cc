// Models with grouped codes as directories of GPTQ and AWQ.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "../../tests/support/tiny_exchange.h"
#include "base/cancel.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "checkpoint/status_matcher_for_test.h"
#include "codec/grouped_rounding.h"
#include "device/thread_pool.h"
#include "export/export.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support
constexpr auto kAwq = ExchangeFormat::kAwq;
constexpr auto kGptqV1 = ExchangeFormat::kGptqV1;
constexpr auto kGptqV2 = ExchangeFormat::kGptqV2;

class ExchangeExportTest : public ::testing::Test {
 protected:
  StatusOr<ExportReport> Export(const std::string& model, const std::string& output,
                                ExchangeFormat format, size_t threads = 1,
                                uint64_t shard_bytes = kDefaultShardBytes) {
    const auto pool = *ThreadPool::Create(threads);
    ExportOptions options{folder_ / model, folder_ / output};
    options.format = format;
    options.max_shard_bytes = shard_bytes;
    return ExportHuggingFace(options, *pool, progress_);
  }

  // Our own directory "packed" of a tiny model, whose decoder has these layouts (rows and cols are
  // set here), and what it decodes to.
  TinyModel Pack(const std::function<GroupedLayout(const std::string&)>& layout_of,
                 const TinyModelOptions& options = {}) {
    TinyModel model = MakeTinyModel(options);
    PackedModelContents contents;
    contents.config = model.config;
    contents.method = "gptq";
    contents.files = {{"tokenizer.json", TokenizerJson(model.tokenizer)}};
    InlineExecutor executor;
    for (TinyTensor& tensor : model.tensors) {
      if (tensor.shape.size() == 1) {
        contents.tensors.push_back(
            {tensor.name, *Tensor::FromValues<float>(DType::kF32, tensor.shape, tensor.values)});
        continue;
      }
      GroupedLayout layout{.rows = 0, .cols = 0, .bits = 8};
      if (IsTinyLinear(tensor.name)) layout = layout_of(tensor.name);
      layout.rows = tensor.shape[0], layout.cols = tensor.shape[1];
      GroupedMatrix matrix = *QuantizeToNearest(tensor.values.data(), layout, executor);
      if (IsTinyLinear(tensor.name) && order_) {
        std::vector<int32_t> order(layout.cols);
        for (size_t i = 0; i < order.size(); ++i) {
          order[i] = static_cast<int32_t>(order.size() - 1 - i);
        }
        matrix.ordered = true;
        matrix.order = *Tensor::FromValues<int32_t>(DType::kI32, {layout.cols}, order);
      }
      DecodeRows(matrix, 0, layout.rows, tensor.values.data());
      const std::string name = tensor.name.substr(0, tensor.name.size() - 7);
      EXPECT_TRUE(AppendMatrix(name, matrix, &contents.tensors).ok());
    }
    fs::remove_all(folder_ / "packed");
    const Status status = WritePackedModel(folder_ / "packed", "", std::move(contents));
    EXPECT_TRUE(status.ok()) << status.message();
    return model;
  }
  TinyModel Pack(const GroupedLayout& layout) {
    return Pack([&](const std::string&) { return layout; });
  }
  nlohmann::json Quantization(const std::string& model) {
    return nlohmann::json::parse(ReadText(folder_ / model / "config.json"))["quantization_config"];
  }
  // Every matrix of codes is the same, and the rest to the precision of halves.
  void ExpectSame(const std::string& name, const TinyModel& model) {
    const auto source = ModelSource::Open(folder_ / name);
    ASSERT_TRUE(source.ok()) << source.status().message();
    EXPECT_EQ(ModelConfigToJson((*source)->config()), ModelConfigToJson(model.config));
    for (const TinyTensor& tensor : model.tensors) {
      const Tensor read = *(*source)->LoadFloat(tensor.name);
      ASSERT_EQ(read.shape(), tensor.shape);
      EXPECT_EQ(*(*source)->FormOf(tensor.name) == MatrixForm::kGrouped, IsTinyLinear(tensor.name));
      const bool exact = IsTinyLinear(tensor.name);
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        const float rounding = exact ? 0 : std::fabs(tensor.values[i]) / 2048 + 1e-7f;
        ASSERT_NEAR(read.as<float>()[i], tensor.values[i], rounding) << tensor.name << " " << i;
      }
    }
  }

  bool order_ = false;
  TempFolder folder_;
  NullProgress progress_;
};

GroupedLayout Grouped(uint32_t bits, uint32_t group_size, ZeroKind zeros = ZeroKind::kPacked) {
  GroupedLayout layout;
  layout.bits = bits, layout.group_size = group_size, layout.zeros = zeros;
  return layout;
}

TEST_F(ExchangeExportTest, CodesStayTheSame) {
  const std::tuple<ExchangeFormat, GroupedLayout, int> cases[] = {
      {kGptqV1, Grouped(4, 32), 32},
      {kGptqV2, Grouped(2, 16), 16},
      {kGptqV2, Grouped(3, 64, ZeroKind::kSymmetric), 64},
      {kGptqV1, Grouped(8, 128), -1},  // no row is longer
      {kAwq, Grouped(4, 32), 32},
      {kAwq, Grouped(4, 64, ZeroKind::kSymmetric), 64}};
  for (const auto& [format, layout, group_size] : cases) {
    SCOPED_TRACE(fmt::format("{} {} {}", NameOf(format), layout.bits, group_size));
    const TinyModel model = Pack(layout);
    fs::remove_all(folder_ / "out");
    const auto report = Export("packed", "out", format);
    ASSERT_TRUE(report.ok()) << report.status().message();
    ExpectSame("out", model);
    const nlohmann::json fields = Quantization("out");
    EXPECT_EQ(fields["quant_method"], format == kAwq ? "awq" : "gptq");
    EXPECT_EQ(fields["bits"], layout.bits);
    EXPECT_EQ(fields["group_size"], group_size);
    if (format != kAwq) {
      EXPECT_EQ(fields["checkpoint_format"], NameOf(format));
      EXPECT_EQ(fields["sym"], layout.zeros == ZeroKind::kSymmetric);
      EXPECT_EQ(fields["desc_act"], false);
    }
    EXPECT_EQ(report->tensors, 6u + 14 * (format == kAwq ? 3 : 4));
    EXPECT_EQ(report->bytes, fs::file_size(folder_ / "out/model.safetensors"));
    EXPECT_THAT(report->notes, ::testing::Contains(::testing::HasSubstr("decoded to float16")));
    EXPECT_THAT(report->notes, ::testing::Contains(::testing::HasSubstr("rounded to float16")));
    EXPECT_EQ(ReadText(folder_ / "out/tokenizer.json"),
              ReadText(folder_ / "packed/tokenizer.json"));
    EXPECT_THAT(ReadText(folder_ / "out/config.json"),
                ::testing::HasSubstr("\"torch_dtype\": \"float16\""));
  }
}

// Rows that are one group, of several lengths; an order of columns; untied heads.
TEST_F(ExchangeExportTest, RowsOrdersAndShards) {
  const auto rows = [](const std::string& name) {
    return Grouped(4, name.ends_with("down_proj.weight") ? 128 : 64);
  };
  const TinyModel model = Pack(rows, {.tied = false});
  for (const ExchangeFormat format : {kGptqV2, kAwq}) {
    const std::string out(NameOf(format));
    ASSERT_TRUE(Export("packed", out, format).ok());
    ExpectSame(out, model);
    EXPECT_EQ(Quantization(out)["group_size"], -1);
  }
  order_ = true;
  const TinyModel ordered = Pack(Grouped(4, 32));
  const auto one = Export("packed", "one", kGptqV1);
  ASSERT_TRUE(one.ok()) << one.status().message();
  EXPECT_THAT(one->notes, ::testing::Contains(::testing::HasSubstr("gptq_v2")));
  ExpectSame("one", ordered);
  EXPECT_EQ(Quantization("one")["desc_act"], true);
  // The same bytes on threads; and in shards.
  ASSERT_TRUE(Export("packed", "threads", kGptqV1, 3).ok());
  EXPECT_EQ(ReadText(folder_ / "threads/model.safetensors"),
            ReadText(folder_ / "one/model.safetensors"));
  ASSERT_TRUE(Export("packed", "shards", kGptqV1, 1, 20000).ok());
  EXPECT_TRUE(fs::exists(folder_ / "shards/model.safetensors.index.json"));
  ExpectSame("shards", ordered);
}

// What was read from one of these formats goes into another.
TEST_F(ExchangeExportTest, OtherToolsModels) {
  TinyModel model = MakeTinyModel({.dtype = DType::kF16});
  WriteDirectory(MakeTinyExchange(model, {.format = kAwq}), folder_ / "awq");
  const auto report = Export("awq", "gptq", kGptqV1);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_THAT(report->notes, ::testing::Contains(::testing::HasSubstr("rounded to float16")));
  ExpectSame("gptq", model);
  ASSERT_TRUE(Export("gptq", "v2", kGptqV2).ok());
  ExpectSame("v2", model);
  ASSERT_TRUE(Export("v2", "again", kAwq).ok());
  const auto before = *SafetensorsDirectory::Open(folder_ / "awq");
  const auto after = *SafetensorsDirectory::Open(folder_ / "again");
  EXPECT_EQ(before->names(), after->names());
  for (const std::string& name : before->names()) {
    const Tensor a = *before->Copy(name), b = *after->Copy(name);
    if (a.dtype() == DType::kF32) continue;  // a half now
    ASSERT_EQ(a.num_bytes(), b.num_bytes());
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.num_bytes()), 0) << name;
  }
}

TEST_F(ExchangeExportTest, WhatAFormatCannotSayIsNamed) {
  constexpr auto kUnimplemented = StatusCode::kUnimplemented;
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  const auto expect = [&](ExchangeFormat format, auto... parts) {
    EXPECT_THAT(Export("packed", "out", format), Fails(kUnimplemented, "packed", parts...));
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  Pack(Grouped(5, 32));
  expect(kGptqV1, q, "bits = 5", "2, 3, 4, 8");
  Pack(Grouped(3, 32));
  expect(kAwq, q, "bits = 3", "4");
  Pack(Grouped(4, 32, ZeroKind::kHalf));
  expect(kGptqV2, q, "zero of row", "integer");
  const auto mixed = [&](const GroupedLayout& other) {
    return Pack([&](const std::string& name) { return name == up ? other : Grouped(4, 32); });
  };
  mixed(Grouped(8, 32));
  expect(kGptqV1, up, "8 bits", "others have 4");
  mixed(Grouped(4, 16));
  expect(kGptqV1, up, "groups of 16", "others of 32");
  mixed(Grouped(4, 64));
  expect(kGptqV1, "rows of 64 that are one group");
  Pack(Grouped(4, 48));
  expect(kAwq, q, "rows of 64", "groups of 48");
  order_ = true;
  Pack(Grouped(4, 32));
  expect(kAwq, q, "act-order");
  order_ = false;
  Pack(Grouped(4, 32));
  RequestCancel();
  EXPECT_EQ(Export("packed", "out", kGptqV1).status().code(), StatusCode::kCancelled);
  ClearCancel();
  // Floats, and experts.
  WriteHuggingFace(MakeTinyModel(), folder_ / "hf");
  EXPECT_THAT(Export("hf", "out", kGptqV1), Fails(kUnimplemented, "hf", q, "no grouped codes"));
  WriteHuggingFace(MakeTinyModel({.architecture = "mixtral"}), folder_ / "experts");
  EXPECT_THAT(Export("experts", "out", kGptqV1), Fails(kUnimplemented, "experts"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

// Robustness cases 43, 44: zeros stay zeros, and what halves cannot hold is an error.
TEST_F(ExchangeExportTest, UnusualValues) {
  TinyModel model = MakeTinyModel();
  TinyDirectory directory = MakeTinyExchange(model, {});
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  directory.Get("model.layers.1.mlp.up_proj.scales").tensor.mutable_as<uint16_t>()[128 + 5] = 0;
  std::fill_n(model.Get(up).values.begin() + 5 * 64 + 32, 32, 0.0f);
  directory.Get("model.norm.weight").tensor.mutable_as<float>()[5] = 1e-30f;
  model.Get("model.norm.weight").values[5] = 1e-30f;
  WriteDirectory(directory, folder_ / "zeros");
  for (const ExchangeFormat format : {kGptqV1, kGptqV2, kAwq}) {
    const std::string out = fmt::format("zeros-{}", NameOf(format));
    const auto report = Export("zeros", out, format);
    ASSERT_TRUE(report.ok()) << report.status().message();
    ExpectSame(out, model);
  }
  directory.Get("model.norm.weight").tensor.mutable_as<float>()[5] = 1e5f;
  WriteDirectory(directory, folder_ / "large");
  EXPECT_THAT(Export("large", "out", kGptqV1),
              Fails(StatusCode::kInvalidArgument, "large", "model.norm.weight"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace tq
