// Quantising with measured sensitivities: end to end on a tiny model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "../../tests/support/tiny_model.h"
#include "base/cancel.h"
#include "checkpoint/packed_model.h"
#include "compress/assign_rates.h"
#include "compress/quantize.h"
#include "compress/sensitivity.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempFolder;
using ::testing::UnorderedElementsAre;

std::string SomeText(size_t letters) {
  Random random(1, "text");
  std::string text;
  for (size_t i = 0; i < letters; ++i) text += static_cast<char>(32 + random.NextBelow(95));
  return text;
}

// Asks to stop after so many updates of the named stage.
class StopInStage final : public Progress {
 public:
  StopInStage(std::string_view stage, int updates) : stage_(stage), updates_(updates) {}
  void Begin(std::string_view stage, uint64_t) override { now_ = stage; }
  void Update(uint64_t, std::string_view) override {
    if (now_ == stage_ && --updates_ == 0) RequestCancel();
  }
  void Line(std::string_view) override {}
  void End() override { now_.clear(); }

 private:
  std::string stage_, now_;
  int updates_;
};

class AllocatedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // The second layer's weights matter little: a hundredth of the first one's.
    testing::TinyModel model =
        testing::MakeTinyModel({.hidden = 64, .intermediate = 128, .layers = 2, .vocab = 400});
    for (const char* name : {"self_attn.o_proj", "mlp.down_proj"}) {
      for (float& w : model.Get(fmt::format("model.layers.1.{}.weight", name)).values) w *= 0.01f;
    }
    testing::WriteHuggingFace(model, folder_ / "model");
    testing::WriteText(folder_ / "text.txt", SomeText(3000));
  }
  void TearDown() override { ClearCancel(); }

  QuantizeOptions Options(double bits, std::string_view output = "out") {
    QuantizeOptions options;
    options.model = folder_ / "model";
    options.output = folder_ / output;
    options.bits = bits;
    options.calibration = (folder_ / "text.txt").string();
    options.calibration_tokens = 2048;
    options.calibration_context = 64;
    options.fast = true;
    return options;
  }
  StatusOr<QuantizeReport> Run(const QuantizeOptions& options) {
    NullProgress progress;
    return Run(options, progress);
  }
  StatusOr<QuantizeReport> Run(const QuantizeOptions& options, Progress& progress) {
    auto pool = ThreadPool::Create(2);
    return Quantize(options, **pool, progress);
  }
  std::string Weights(std::string_view output) {
    std::ifstream file(folder_ / output / "model.safetensors", std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static std::vector<std::string> Names(const QuantizeReport& report) {
    std::vector<std::string> names;
    for (const ReportCandidate& c : report.candidates) names.push_back(c.name);
    return names;
  }
  static double Rate(const QuantizeReport& report, std::string_view name) {
    for (const MatrixReport& m : report.matrices) {
      if (m.name == name) return m.rate;
    }
    ADD_FAILURE() << name;
    return 0;
  }

  TempFolder folder_;
};

TEST_F(AllocatedTest, SpendsBitsWhereTheyMatter) {
  for (const auto measure : {SensitivityMeasure::kKl, SensitivityMeasure::kHessian}) {
    QuantizeOptions options = Options(2.6);
    options.sensitivity = measure;
    const auto report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(report->measure, measure);
    ASSERT_EQ(report->candidates.size(), 2u);
    EXPECT_EQ(report->candidates[0].name, "allocated");
    EXPECT_TRUE(report->candidates[0].chosen && !report->candidates[1].chosen);
    EXPECT_LT(report->candidates[0].measured->kl->mean, report->candidates[1].measured->kl->mean);
    EXPECT_LE(report->bits_per_weight, 2.6);
    EXPECT_GT(report->bits_per_weight, 2.5);
    EXPECT_EQ(report->bytes, report->candidates[0].bytes);
    for (const char* name : {"self_attn.o_proj", "mlp.down_proj", "self_attn.v_proj"}) {
      EXPECT_GT(Rate(*report, fmt::format("model.layers.0.{}", name)),
                Rate(*report, fmt::format("model.layers.1.{}", name)))
          << name;
    }
    EXPECT_EQ(report->frontier.empty(), measure == SensitivityMeasure::kHessian);
    fs::remove_all(folder_ / "out");
  }
}

// With few bits there are three candidates, and the best is written.
TEST_F(AllocatedTest, RatesByHessiansAreACandidateAtFewBits) {
  QuantizeOptions options = Options(1.5);
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  ASSERT_EQ(report->candidates.size(), 3u);
  EXPECT_THAT(Names(*report), UnorderedElementsAre("allocated", "by-hessians", "uniform"));
  EXPECT_TRUE(report->candidates[0].chosen);
  for (const ReportCandidate& c : report->candidates) {
    EXPECT_TRUE(c.predicted_kl.has_value()) << c.name;
    EXPECT_LE(report->candidates[0].measured->kl->mean, c.measured->kl->mean) << c.name;
    EXPECT_LE(c.bits_per_weight, 1.5) << c.name;
  }
}

TEST_F(AllocatedTest, PredictsTheTrueLoss) {
  const auto report = Run(Options(3));
  ASSERT_TRUE(report.ok()) << report.status().message();
  for (const ReportCandidate& c : report->candidates) {
    EXPECT_LT(std::abs(std::log(*c.predicted_kl / c.measured->kl->mean)), std::log(2.0)) << c.name;
  }
  // The frontier falls, and the chosen point lies on it.
  size_t chosen = 0;
  for (size_t i = 0; i < report->frontier.size(); ++i) {
    chosen += report->frontier[i].chosen;
    if (i > 0) {
      EXPECT_GT(report->frontier[i].bytes, report->frontier[i - 1].bytes);
      EXPECT_LT(report->frontier[i].predicted_kl, report->frontier[i - 1].predicted_kl);
    }
  }
  EXPECT_EQ(chosen, 1u);
}

// Stopped while measuring and while quantising: the bytes of a straight run.
TEST_F(AllocatedTest, ResumesToTheSameBytes) {
  ASSERT_TRUE(Run(Options(2.5, "straight")).ok());
  for (const auto& [stage, updates] :
       {std::pair{"sensitivity", 3}, {"sensitivity", 11}, {"quantize", 12}, {"evaluate", 2}}) {
    StopInStage progress(stage, updates);
    const auto stopped = Run(Options(2.5), progress);
    ASSERT_FALSE(stopped.ok()) << stage;
    EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled) << stopped.status().message();
    ClearCancel();
  }
  ASSERT_TRUE(Run(Options(2.5)).ok());
  EXPECT_EQ(Weights("out"), Weights("straight"));
}

TEST_F(AllocatedTest, SensitivityIsKeptInAFile) {
  QuantizeOptions options = Options(2.5);
  options.sensitivity_file = folder_ / "sensitivity.json";
  options.verify = false;
  ASSERT_TRUE(Run(options).ok());
  ASSERT_TRUE(fs::exists(options.sensitivity_file));
  options.output = folder_ / "again";
  StopInStage measuring("sensitivity", 1);
  ASSERT_TRUE(Run(options, measuring).ok());  // nothing was measured
  EXPECT_EQ(Weights("out"), Weights("again"));

  // It holds the Hessian measure too.
  options.sensitivity = SensitivityMeasure::kHessian;
  options.output = folder_ / "by_file";
  ASSERT_TRUE(Run(options).ok());
  QuantizeOptions measured = options;
  measured.sensitivity_file.clear();
  measured.output = folder_ / "by_measuring";
  ASSERT_TRUE(Run(measured).ok());
  EXPECT_EQ(Weights("by_file"), Weights("by_measuring"));

  // Of another model.
  testing::WriteHuggingFace(
      testing::MakeTinyModel({.hidden = 64, .intermediate = 128, .layers = 2, .vocab = 440}),
      folder_ / "other");
  options.model = folder_ / "other";
  options.output = folder_ / "third";
  const auto refused = Run(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.status().message(), HasSubstr("another model"));
}

TEST_F(AllocatedTest, BudgetInBytes) {
  QuantizeOptions options = Options(0);
  options.budget_bytes = 40000;
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_LE(report->bytes, 40000u);
  EXPECT_GT(report->bytes, 39000u);
  options.output = folder_ / "small";
  options.budget_bytes = 1000;
  const auto refused = Run(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status().message(), HasSubstr("smallest possible"));
}

TEST_F(AllocatedTest, RatesKeepToTheirRange) {
  QuantizeOptions options = Options(3.3);
  options.min_bits = 2;
  options.max_bits = 3;
  options.overrides = {{"layers.1.mlp.down", 4}};
  options.verify = false;
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->candidates.size(), 1u);
  for (const MatrixReport& m : report->matrices) {
    if (m.name == "model.layers.1.mlp.down_proj") {
      EXPECT_EQ(m.rate, 4);
    } else {
      EXPECT_GE(m.rate, 2) << m.name;
      EXPECT_LE(m.rate, 3) << m.name;
    }
  }
  options.output = folder_ / "other";
  options.min_bits = 4;
  EXPECT_THAT(Run(options).status().message(), HasSubstr("above max bits"));
  options.min_bits = options.max_bits = 2.1;
  EXPECT_THAT(Run(options).status().message(), HasSubstr("2.1 is the rate of no code"));
  EXPECT_FALSE(fs::exists(folder_ / "other.work"));
}

TEST_F(AllocatedTest, TooShortATextIsRefused) {
  testing::WriteText(folder_ / "text.txt", SomeText(150));
  const auto report = Run(Options(2.5));
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(report.status().message(), HasSubstr("at least 3 windows of 64"));
  QuantizeOptions uniform = Options(2.5);
  uniform.sensitivity = SensitivityMeasure::kNone;
  EXPECT_TRUE(Run(uniform).ok());
}

TEST_F(AllocatedTest, SelfCalibration) {
  QuantizeOptions options = Options(2.5);
  options.calibration = "self";
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_TRUE(report->candidates[0].measured.has_value());
}

}  // namespace
}  // namespace tq
