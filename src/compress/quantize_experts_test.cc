// Compressing models whose MLPs have experts, from end to end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <set>
#include <string>

#include "../../tests/support/quantize_fixture.h"
#include "checkpoint/packed_model.h"
#include "codec/dense_device_for_test.h"
#include "model/transformer.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using testing::HashFolder;
using ::testing::HasSubstr;
using testing::QuantizeTest;
using testing::StopAfter;

class QuantizeExpertsTest : public QuantizeTest, public ::testing::WithParamInterface<const char*> {
 protected:
  static testing::TinyModel Tiny(const char* architecture, uint32_t experts = 4) {
    return testing::MakeTinyModel(
        {.architecture = architecture, .experts = experts, .tied = false});
  }
};

// What takes long and does not depend on the kind of router.
class QuantizeOneKindTest : public QuantizeExpertsTest {};

TEST_P(QuantizeExpertsTest, MakesAModelThatRuns) {
  Make(Tiny(GetParam()));
  const auto preview = PreviewQuantize(Options(4.6), **ThreadPool::Create(2));
  const auto report = Run(Options(4.6));
  ASSERT_TRUE(preview.ok()) << preview.status().message();
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(preview->bytes, report->bytes);
  EXPECT_GT(preview->peak_bytes, 0u);
  // Attention, four experts, embedding and head.
  EXPECT_EQ(report->matrices.size(), 2u * (4 + 4 * 3) + 2);
  for (const MatrixReport& m : report->matrices) {
    EXPECT_GT(m.relative_error, 0) << m.name;
    EXPECT_LT(m.relative_error, 0.1) << m.name;
    EXPECT_GT(m.hessian_error, 0) << m.name;
  }
  // Errors change which experts tokens go to, so that a little costs more than in other models.
  EXPECT_LT(KlAgainstOriginal(folder_ / "out"), 0.4);
  const auto packed = PackedModel::Open(folder_ / "out");
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  EXPECT_EQ(ModelConfigToJson((*packed)->config()), ModelConfigToJson(Tiny(GetParam()).config));
  EXPECT_EQ((*packed)->matrices().size(), report->matrices.size());
}

TEST_P(QuantizeOneKindTest, LosesMoreWithFewerBits) {
  Make(Tiny(GetParam()));
  double last = 1e-9;
  for (const double bits : {7.5, 5.0, 2.3}) {
    const auto report = Run(Options(bits));
    ASSERT_TRUE(report.ok()) << report.status().message();
    const double kl = KlAgainstOriginal(folder_ / "out");
    EXPECT_GT(kl, 1.5 * last) << bits;
    last = kl;
    fs::remove_all(folder_ / "out");
  }
}

// Neither threads nor spilled states, nor the kind of file, change a byte.
TEST_P(QuantizeOneKindTest, SameBytesHoweverItRuns) {
  const testing::TinyModel model = Tiny(GetParam());
  Make(model);
  ASSERT_TRUE(Run(Options(2.7, "one"), 1).ok());
  ASSERT_TRUE(Run(Options(2.7, "three"), 3).ok());
  EXPECT_EQ(HashFolder(folder_ / "one"), HashFolder(folder_ / "three"));
  QuantizeOptions spilled = Options(2.7, "spilled");
  spilled.calibration_memory = 1;
  ASSERT_TRUE(Run(spilled).ok());
  EXPECT_EQ(HashFolder(folder_ / "one"), HashFolder(folder_ / "spilled"));
  testing::WriteGguf(model, folder_ / "tiny.gguf");
  QuantizeOptions from_gguf = Options(2.7, "from_gguf");
  from_gguf.model = folder_ / "tiny.gguf";
  const auto report = Run(from_gguf);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(HashFolder(folder_ / "one")["model.safetensors"],
            HashFolder(folder_ / "from_gguf")["model.safetensors"]);
}

// Robustness case 64: stopped between experts and inside one.
TEST_P(QuantizeOneKindTest, ResumesToTheSameBytes) {
  Make(Tiny(GetParam()));
  ASSERT_TRUE(Run(Options(2.7, "straight")).ok());
  auto pool = ThreadPool::Create(3);
  for (const int stop : {5, 2, 6, 1, 8}) {
    StopAfter progress(stop);
    const auto stopped = Quantize(Options(2.7), **pool, progress);
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled) << stopped.status().message();
    ClearCancel();
  }
  const auto finished = Run(Options(2.7), 1);
  ASSERT_TRUE(finished.ok()) << finished.status().message();
  EXPECT_EQ(HashFolder(folder_ / "out"), HashFolder(folder_ / "straight"));
  EXPECT_FALSE(fs::exists(folder_ / "out.work"));
}

TEST_P(QuantizeOneKindTest, RatesByBothMeasures) {
  Make(Tiny(GetParam()));
  for (const auto measure : {SensitivityMeasure::kHessian, SensitivityMeasure::kKl}) {
    QuantizeOptions options = Options(2.7);
    options.sensitivity = measure;
    options.sensitivity_file = folder_ / fmt::format("{}.json", NameOf(measure));
    const auto measured = Run(options);
    ASSERT_TRUE(measured.ok()) << measured.status().message();
    EXPECT_EQ(measured->measure, measure);
    EXPECT_EQ(measured->candidates.size(), 2u);
    std::set<double> rates;
    for (const MatrixReport& m : measured->matrices) {
      EXPECT_FALSE(m.sensitivity.empty()) << m.name;
      if (m.name.find(".experts.") != std::string::npos) rates.insert(m.rate);
      if (measure == SensitivityMeasure::kKl) {
        EXPECT_GT(m.predicted_loss, 0) << m.name;
      }
    }
    EXPECT_GT(rates.size(), 1u);
    // From the file, by a run that was stopped: the same bytes.
    const auto want = HashFolder(folder_ / "out");
    fs::remove_all(folder_ / "out");
    auto pool = ThreadPool::Create(2);
    StopAfter progress(7);
    ASSERT_FALSE(Quantize(options, **pool, progress).ok());
    ClearCancel();
    ASSERT_TRUE(Run(options).ok());
    EXPECT_EQ(HashFolder(folder_ / "out"), want);
    fs::remove_all(folder_ / "out");
  }
}

TEST_P(QuantizeOneKindTest, OverridesSelfCalibrationAndRtn) {
  Make(Tiny(GetParam()));
  QuantizeOptions options = Options(3);
  options.calibration = "self";
  options.overrides = {*ParseRateOverride("experts\\.2\\..*=4")};
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  for (const MatrixReport& m : report->matrices) {
    if (m.name.find(".experts.2.") != std::string::npos) {
      EXPECT_EQ(m.rate, 4) << m.name;
    }
  }
  EXPECT_LT(KlAgainstOriginal(folder_ / "out"), 3);
  options = Options(4, "rtn");
  options.method = Method::kRtn;
  const auto rtn = Run(options);
  ASSERT_TRUE(rtn.ok()) << rtn.status().message();
  EXPECT_LT(KlAgainstOriginal(folder_ / "rtn"), 1);
}

TEST_P(QuantizeOneKindTest, ADeviceChangesErrorsByRounding) {
  Make(Tiny(GetParam()));
  const auto want = Run(Options(2.7, "cpu"));
  QuantizeOptions options = Options(2.7, "device");
  const auto device = std::make_shared<DenseDeviceForTest>(uint64_t{1} << 30);
  options.dense = device;
  const auto got = Run(options);
  ASSERT_TRUE(want.ok() && got.ok()) << got.status().message();
  double got_sum = 0, want_sum = 0;
  for (size_t i = 0; i < want->matrices.size(); ++i) {
    got_sum += got->matrices[i].hessian_error;
    want_sum += want->matrices[i].hessian_error;
  }
  EXPECT_NEAR(got_sum, want_sum, 0.005 * want_sum);
  EXPECT_EQ(*device->FreeBytes(), uint64_t{1} << 30);
}

INSTANTIATE_TEST_SUITE_P(Qwen3, QuantizeOneKindTest, ::testing::Values("qwen3_moe"));
INSTANTIATE_TEST_SUITE_P(All, QuantizeExpertsTest, ::testing::Values("mixtral", "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

// An expert that no token of the text reaches is compressed all the same, and named.
TEST_F(QuantizeTest, RareExpertsAreNamed) {
  testing::TinyModel model = testing::MakeTinyModel({.architecture = "mixtral"});
  const uint64_t hidden = model.config.hidden_size;
  // The first feature of every input is the same: the router's weight of it is a bias.
  std::vector<float>& embedding = model.Get("model.embed_tokens.weight").values;
  for (uint64_t i = 0; i < embedding.size(); i += hidden) embedding[i] = 8;
  for (const char* norm : {"0.input", "0.post_attention", "1.input", "1.post_attention"}) {
    // Nobody else shall see it.
    const std::string name = fmt::format("model.layers.{}_layernorm.weight", norm);
    model.Get(name).values[0] = norm == std::string_view("1.post_attention") ? 1 : 0;
  }
  std::vector<float>& router = model.Get("model.layers.1.block_sparse_moe.gate.weight").values;
  for (uint64_t e = 0; e < 4; ++e) router[e * hidden] = e == 3 ? -100 : 0;
  Make(model);
  ::testing::internal::CaptureStderr();
  const auto report = Run(Options(3));
  const std::string warnings = ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_THAT(warnings, HasSubstr("layer 1: calibration reached experts "));
  EXPECT_THAT(warnings, HasSubstr("3 (0 rows) with fewer than 512 rows"));
  for (const MatrixReport& m : report->matrices) {
    EXPECT_TRUE(std::isfinite(m.hessian_error) && m.relative_error < 0.5) << m.name;
  }
  EXPECT_TRUE(std::isfinite(KlAgainstOriginal(folder_ / "out")));
}

}  // namespace
}  // namespace tq
