#include "compress/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../tests/support/tiny_model.h"
#include "base/cancel.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempFolder;

class CompareTest : public ::testing::Test {
 protected:
  CompareTest() {
    testing::WriteHuggingFace(
        testing::MakeTinyModel({.hidden = 64, .intermediate = 128, .layers = 2}),
        folder_ / "model");
    Random random(1, "text");
    std::string text;
    for (size_t i = 0; i < 4000; ++i) text += static_cast<char>(32 + random.NextBelow(95));
    testing::WriteText(folder_ / "calibration.txt", text.substr(0, 2000));
    testing::WriteText(folder_ / "text.txt", text.substr(2000));
    options_.quantize.model = folder_ / "model";
    options_.quantize.calibration = (folder_ / "calibration.txt").string();
    options_.quantize.calibration_tokens = 2048;
    options_.quantize.calibration_context = 64;
    options_.quantize.fast = true;
    options_.bits = {3, 2.5};
    options_.text = folder_ / "text.txt";
    options_.context = 64;
    options_.work = folder_ / "work";
  }
  StatusOr<CompareResult> Run() {
    NullProgress progress;
    return Compare(options_, *pool_, progress);
  }

  TempFolder folder_;
  std::unique_ptr<ThreadPool> pool_ = *ThreadPool::Create(2);
  CompareOptions options_;
};

TEST_F(CompareTest, MeasuresSizesTimesWays) {
  options_.rates = {SensitivityMeasure::kNone, SensitivityMeasure::kHessian,
                    SensitivityMeasure::kKl};
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_EQ(result->models.size(), 6u);
  for (const ReportModel& m : result->models) {
    ASSERT_TRUE(m.measured && m.measured->kl);
    EXPECT_GT(m.measured->kl->mean, 0);
    EXPECT_GT(m.measured->perplexity, 1);
    uint64_t bytes = 0;
    for (const BytePart& part : m.parts) bytes += part.bytes;
    EXPECT_EQ(bytes, m.bytes);
  }
  EXPECT_LT(result->models[0].measured->kl->mean, result->models[3].measured->kl->mean);
  EXPECT_FALSE(fs::exists(folder_ / "work"));
}

TEST_F(CompareTest, MeasuresMethodsSideBySide) {
  options_.methods = {Method::kTrellis, Method::kGptq, Method::kAwq, Method::kRtn};
  options_.rates = {SensitivityMeasure::kNone};
  options_.quantize.sensitivity = SensitivityMeasure::kNone;
  options_.quantize.group_size = 32;
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_EQ(result->models.size(), 5u);
  ASSERT_EQ(result->impossible.size(), 3u);
  EXPECT_EQ(result->impossible[0].name, "2.5 bits, gptq");
  EXPECT_THAT(result->impossible[0].reason, HasSubstr("whole number from 2 to 8"));
  EXPECT_EQ(result->models[0].name, "3 bits, trellis, uniform");
  EXPECT_EQ(result->models[4].name, "2.5 bits, trellis, uniform");
  // Each is what quantising by its method alone makes.
  for (size_t i = 1; i < 4; ++i) {
    const ReportModel& model = result->models[i];
    EXPECT_EQ(model.method, NameOf(options_.methods[i]));
    EXPECT_EQ(model.name, "3 bits, " + model.method);
    QuantizeOptions options = options_.quantize;
    options.method = options_.methods[i];
    options.bits = 3;
    options.output = folder_ / model.method;
    NullProgress progress;
    const auto made = Quantize(options, *pool_, progress);
    ASSERT_TRUE(made.ok()) << made.status().message();
    EXPECT_EQ(made->bytes, model.bytes);
    ASSERT_EQ(made->matrices.size(), model.matrices.size());
    for (size_t m = 0; m < made->matrices.size(); ++m) {
      EXPECT_EQ(made->matrices[m].hessian_error, model.matrices[m].hessian_error);
    }
  }
}

TEST_F(CompareTest, TernaryHasOneSizeBesideTheOthers) {
  options_.methods = {Method::kTrellis, Method::kRtn, Method::kTernary};
  options_.bits = {4, 1.6};
  options_.rates = {SensitivityMeasure::kNone};
  options_.quantize.sensitivity = SensitivityMeasure::kNone;
  options_.quantize.group_size = 32;
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_EQ(result->models.size(), 4u);
  EXPECT_EQ(result->models[1].name, "4 bits, rtn");
  EXPECT_EQ(result->models[3].name, "1.6 bits, ternary");
  EXPECT_EQ(result->models[3].method, "ternary");
  ASSERT_EQ(result->impossible.size(), 2u);
  EXPECT_EQ(result->impossible[0].name, "4 bits, ternary");
  EXPECT_THAT(result->impossible[0].reason, HasSubstr("codes of 1.6 bits alone, not 4"));
  EXPECT_EQ(result->impossible[1].name, "1.6 bits, rtn");
  EXPECT_GT(result->models[3].measured->kl->mean, result->models[1].measured->kl->mean);
}

TEST_F(CompareTest, SizesThatNoMethodHasAreAnError) {
  options_.methods = {Method::kGptq, Method::kRtn};
  options_.bits = {2.5};
  EXPECT_THAT(Run().status().message(), HasSubstr("whole number from 2 to 8"));
  options_.bits = {3};
  options_.quantize.no_hessian = true;
  options_.quantize.sensitivity = SensitivityMeasure::kNone;
  EXPECT_THAT(Run().status().message(), HasSubstr("cannot do without"));
}

TEST_F(CompareTest, FiguresAreThoseOfAQuantisedModel) {
  options_.rates = {SensitivityMeasure::kKl};
  options_.bits = {3};
  const auto compared = Run();
  ASSERT_TRUE(compared.ok()) << compared.status().message();
  QuantizeOptions options = options_.quantize;
  options.bits = 3;
  options.output = folder_ / "out";
  options.verify = false;
  NullProgress progress;
  const auto made = Quantize(options, *pool_, progress);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ(made->bytes, compared->models[0].bytes);
}

// Asks to stop at the first loss that is reported.
class StopAtLoss final : public Progress {
 public:
  void Begin(std::string_view, uint64_t) override {}
  void Update(uint64_t, std::string_view) override {}
  void Line(std::string_view text) override {
    if (text.find("KL") != std::string_view::npos) RequestCancel();
  }
  void End() override {}
};

// A loss that is kept belongs to codes, not to a size: other rates at the same size have another.
TEST_F(CompareTest, ResumesWithOtherRates) {
  options_.rates = {SensitivityMeasure::kNone};
  StopAtLoss progress;
  ASSERT_FALSE(Compare(options_, *pool_, progress).ok());
  ClearCancel();
  ASSERT_TRUE(fs::exists(options_.work));
  options_.quantize.overrides = {{"down_proj", 1}};
  const auto resumed = Run();
  ASSERT_TRUE(resumed.ok()) << resumed.status().message();
  const auto fresh = Run();
  ASSERT_TRUE(fresh.ok()) << fresh.status().message();
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(resumed->models[i].measured->kl->mean, fresh->models[i].measured->kl->mean);
  }
}

TEST_F(CompareTest, RefusesWhatMeansNothing) {
  options_.context = 4096;
  EXPECT_THAT(Run().status().message(), HasSubstr("the model has 512 positions"));
  options_.context = 512;
  testing::WriteText(folder_ / "short.txt", "a few words");
  options_.text = folder_ / "short.txt";
  EXPECT_THAT(Run().status().message(), HasSubstr("fewer than two windows"));
  options_.text = folder_ / "text.txt";
  options_.context = 64;
  options_.bits = {};
  EXPECT_FALSE(Run().ok());
  options_.bits = {0.1};
  EXPECT_THAT(Run().status().message(), HasSubstr("smallest possible"));
  EXPECT_FALSE(fs::exists(folder_ / "work"));
}

TEST_F(CompareTest, PreviewForetellsTheFile) {
  QuantizeOptions options = options_.quantize;
  options.output = folder_ / "out";
  options.bits = 3;
  options.verify = false;
  options.sensitivity_file = folder_ / "sensitivity.json";
  const auto before = PreviewQuantize(options, *pool_);
  ASSERT_TRUE(before.ok()) << before.status().message();
  EXPECT_EQ(before->rates, "uniform");
  EXPECT_FALSE(before->predicted_kl.has_value());
  EXPECT_GT(before->seconds, 0);
  NullProgress progress;
  const auto made = Quantize(options, *pool_, progress);
  ASSERT_TRUE(made.ok());
  // What the file holds serves the Hessian measure too.
  options.sensitivity = SensitivityMeasure::kHessian;
  const auto by_hessians = PreviewQuantize(options, *pool_);
  ASSERT_TRUE(by_hessians.ok());
  EXPECT_EQ(by_hessians->rates, "allocated");
  EXPECT_FALSE(by_hessians->predicted_kl.has_value());
  options.sensitivity = SensitivityMeasure::kKl;
  const auto after = PreviewQuantize(options, *pool_);
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(after->rates, "allocated");
  EXPECT_EQ(after->bytes, made->bytes);
  EXPECT_EQ(after->predicted_kl, made->candidates[0].predicted_kl);
  EXPECT_FALSE(fs::exists(folder_ / "out.work"));
}

}  // namespace
}  // namespace tq
