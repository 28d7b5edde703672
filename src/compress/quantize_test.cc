#include "compress/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "../../tests/support/quantize_fixture.h"
#include "base/cancel.h"
#include "checkpoint/packed_model.h"
#include "codec/dense_device_for_test.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using testing::HashFolder;
using ::testing::HasSubstr;
using testing::QuantizeTest;
using testing::SomeText;
using testing::StopAfter;

TEST_F(QuantizeTest, PredictsTheSizeToTheByte) {
  for (const bool tied : {true, false}) {
    Make({.tied = tied});
    for (const double bits : {2.7, 3.9}) {
      const auto plan = PreviewQuantize(Options(bits), **ThreadPool::Create(2));
      const auto report = Run(Options(bits));
      ASSERT_TRUE(plan.ok() && report.ok()) << report.status().message();
      EXPECT_EQ(plan->bytes, report->bytes);
      EXPECT_EQ(plan->bytes, fs::file_size(folder_ / "out/model.safetensors"));
      EXPECT_EQ(report->matrices.size(), tied ? 15u : 16u);
      uint64_t bytes = 0;
      for (const MatrixReport& m : report->matrices) {
        bytes += m.bytes;
        EXPECT_GT(m.relative_error, 0);
        EXPECT_LT(m.relative_error, 0.5) << m.name;
      }
      EXPECT_LT(bytes, report->bytes);
      EXPECT_FALSE(fs::exists(folder_ / "out.work"));
      fs::remove_all(folder_ / "out");
    }
    fs::remove_all(folder_ / "model");
  }
}

TEST_F(QuantizeTest, LosesLittleAtFourBitsAndMoreWithFewer) {
  Make({.hidden = 128, .intermediate = 128, .layers = 1});
  double last = 1e-9;
  for (const double bits : {4.3, 3.3, 2.3}) {
    const auto report = Run(Options(bits));
    ASSERT_TRUE(report.ok()) << report.status().message();
    const double kl = KlAgainstOriginal(folder_ / "out");
    EXPECT_GT(kl, 1.5 * last) << bits;
    if (bits > 4) {  // three for the decoder: scales and header are much in a tiny model
      EXPECT_LT(kl, 0.15);
    }
    last = kl;
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(QuantizeTest, SameBytesForAnyNumberOfThreads) {
  Make();
  ASSERT_TRUE(Run(Options(2.7, "one"), 1).ok());
  ASSERT_TRUE(Run(Options(2.7, "three"), 3).ok());
  EXPECT_EQ(HashFolder(folder_ / "one"), HashFolder(folder_ / "three"));
  QuantizeOptions other = Options(2.7, "seed");
  other.seed = 2;
  ASSERT_TRUE(Run(other).ok());
  EXPECT_NE(HashFolder(folder_ / "one")["model.safetensors"],
            HashFolder(folder_ / "seed")["model.safetensors"]);
}

// Robustness case 64, case 70: stopped anywhere, with a damaged part, resumed by other
// threads: the bytes of a straight run.
TEST_F(QuantizeTest, ResumesToTheSameBytes) {
  Make({.tied = false});
  ASSERT_TRUE(Run(Options(2.7, "straight")).ok());
  const auto want = HashFolder(folder_ / "straight");
  auto pool = ThreadPool::Create(3);
  int runs = 0;
  for (const int stop : {1, 2, 5, 1, 4}) {
    StopAfter progress(stop);
    const auto stopped = Quantize(Options(2.7, "out"), **pool, progress);
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled) << stopped.status().message();
    EXPECT_FALSE(fs::exists(folder_ / "out"));
    ClearCancel();
    // A part that was cut short, then one with a flipped bit.
    if (runs == 1) {
      const fs::path part = FindPart("model.layers.0.self_attn.q_proj");
      fs::resize_file(part, fs::file_size(part) / 2);
    } else if (runs == 2) {
      std::fstream file(FindPart("model.layers.0.mlp.gate_proj"),
                        std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(-100, std::ios::end);
      file.put('\x55');
    }
    ++runs;
  }
  const auto finished = Run(Options(2.7, "out"), 1);
  ASSERT_TRUE(finished.ok()) << finished.status().message();
  EXPECT_EQ(HashFolder(folder_ / "out"), want);
  EXPECT_EQ(finished->matrices.size(), 16u);
  for (const MatrixReport& m : finished->matrices) EXPECT_GT(m.bytes, 0u);
  EXPECT_FALSE(fs::exists(folder_ / "out.work"));
}

// Robustness case 65.
TEST_F(QuantizeTest, RefusesToResumeAnotherJob) {
  Make();
  auto pool = ThreadPool::Create(2);
  StopAfter progress(2);
  ASSERT_FALSE(Quantize(Options(2.7), **pool, progress).ok());
  ClearCancel();
  EXPECT_EQ(Run(Options(3.0)).status().code(), StatusCode::kFailedPrecondition);
  testing::WriteText(folder_ / "text.txt", SomeText(3));
  EXPECT_EQ(Run(Options(2.7)).status().code(), StatusCode::kFailedPrecondition);
  testing::WriteText(folder_ / "text.txt", SomeText());
  testing::TinyModel model = testing::MakeTinyModel();
  model.Get("model.layers.1.mlp.up_proj.weight").values[77] += 1;
  fs::remove_all(folder_ / "model");
  Make(model);
  EXPECT_EQ(Run(Options(2.7)).status().code(), StatusCode::kFailedPrecondition);
  model = testing::MakeTinyModel();
  model.config.rope_theta *= 2;
  fs::remove_all(folder_ / "model");
  Make(model);
  EXPECT_EQ(Run(Options(2.7)).status().code(), StatusCode::kFailedPrecondition);
  QuantizeOptions fresh = Options(2.7);
  fresh.fresh = true;
  EXPECT_TRUE(Run(fresh).ok());
}

TEST_F(QuantizeTest, SelfCalibrationResumesToo) {
  Make();
  QuantizeOptions options = Options(3.0, "straight");
  options.calibration = "self";
  ASSERT_TRUE(Run(options).ok());
  options.output = folder_ / "out";
  auto pool = ThreadPool::Create(2);
  StopAfter progress(3);
  ASSERT_FALSE(Quantize(options, **pool, progress).ok());
  ClearCancel();
  ASSERT_TRUE(Run(options, 1).ok());
  EXPECT_EQ(HashFolder(folder_ / "out"), HashFolder(folder_ / "straight"));
}

// Products, Hessians and factors that differ by rounding give the same errors.
TEST_F(QuantizeTest, ADeviceChangesErrorsByRounding) {
  Make({.hidden = 128, .intermediate = 256, .tied = false});
  const auto want = Run(Options(2.7, "cpu"));
  QuantizeOptions options = Options(2.7, "device");
  options.dense = std::make_shared<DenseDeviceForTest>(1 << 30);
  const auto got = Run(options);
  ASSERT_TRUE(want.ok() && got.ok()) << got.status().message();
  ASSERT_EQ(got->matrices.size(), want->matrices.size());
  double got_sum = 0, want_sum = 0;
  for (size_t i = 0; i < want->matrices.size(); ++i) {
    EXPECT_NEAR(got->matrices[i].hessian_error, want->matrices[i].hessian_error,
                0.025 * want->matrices[i].hessian_error)
        << want->matrices[i].name;
    got_sum += got->matrices[i].hessian_error;
    want_sum += want->matrices[i].hessian_error;
  }
  EXPECT_NEAR(got_sum, want_sum, 0.001 * want_sum);
}

// Layers that stay in a device's memory while KL is measured and layers that are copied for every
// run give one file.
TEST_F(QuantizeTest, LayersThatDoNotFitOnADeviceChangeNoBit) {
  Make({.layers = 3});
  std::vector<uint64_t> uploaded;
  for (const uint64_t mib : {1024, 200}) {
    const auto device = std::make_shared<DenseDeviceForTest>(mib << 20);
    QuantizeOptions options = Options(2.7, fmt::format("{}", mib));
    options.sensitivity = SensitivityMeasure::kKl;
    options.dense = device;
    const auto report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(*device->FreeBytes(), mib << 20);
    uploaded.push_back(device->uploaded_bytes());
  }
  EXPECT_EQ(HashFolder(folder_ / "1024"), HashFolder(folder_ / "200"));
  EXPECT_GT(uploaded[1], uploaded[0]);
}

// Robustness case 72.
TEST_F(QuantizeTest, TooSmallADeviceIsRefused) {
  Make();
  QuantizeOptions options = Options(2.7);
  options.sensitivity = SensitivityMeasure::kKl;
  // The Hessians of a layer take 1.4 MB with the rows that are gathered, half a layer 0.1 MB.
  options.dense = std::make_shared<DenseDeviceForTest>(1'400'000);
  EXPECT_THAT(Run(options).status().message(),
              ::testing::AllOf(HasSubstr("calibration takes 1 MiB"), HasSubstr("--device cpu")));
  // The head takes 77 kB, and two layers that are changed and on their way 0.3 MB.
  options.dense = std::make_shared<DenseDeviceForTest>(1'700'000);
  EXPECT_THAT(Run(options).status().message(),
              ::testing::AllOf(HasSubstr("sensitivity by KL takes 1 MiB"),
                               HasSubstr("--sensitivity hessian")));
  options.sensitivity = SensitivityMeasure::kNone;
  options.fresh = true;
  EXPECT_TRUE(Run(options).ok());
}

TEST_F(QuantizeTest, RtnIsWorseAtTheSameBytes) {
  Make({.hidden = 128, .intermediate = 256, .layers = 1});
  QuantizeOptions rtn = Options(3, "rtn");
  rtn.method = Method::kRtn;
  const auto baseline = Run(rtn);
  ASSERT_TRUE(baseline.ok()) << baseline.status().message();
  const auto trellis = Run(Options(std::min(4.0, baseline->bits_per_weight), "trellis"));
  ASSERT_TRUE(trellis.ok()) << trellis.status().message();
  EXPECT_LT(2 * KlAgainstOriginal(folder_ / "trellis"), KlAgainstOriginal(folder_ / "rtn"));
}

TEST_F(QuantizeTest, AblationsRun) {
  Make();
  for (int i = 0; i < 4; ++i) {
    QuantizeOptions options = Options(2.6);
    options.no_rotation = i == 0;
    options.no_hessian = i == 1;
    options.hessian_without_scales = i == 2;
    options.v1 = i == 3;
    ASSERT_TRUE(Run(options).ok()) << i;
    EXPECT_LT(KlAgainstOriginal(folder_ / "out"), 5);
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(QuantizeTest, ReadsGguf) {
  const testing::TinyModel model = testing::MakeTinyModel();
  Make(model);
  testing::WriteGguf(model, folder_ / "tiny.gguf");
  ASSERT_TRUE(Run(Options(3, "from_hf")).ok());
  QuantizeOptions options = Options(3, "from_gguf");
  options.model = folder_ / "tiny.gguf";
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  // The same weights, whatever file they came from.
  EXPECT_EQ(HashFolder(folder_ / "from_hf")["model.safetensors"],
            HashFolder(folder_ / "from_gguf")["model.safetensors"]);
}

// Robustness case 42, case 43, case 44, case 47: nothing comes out as NaN, and a NaN is named.
TEST_F(QuantizeTest, HostileWeights) {
  testing::TinyModel model = testing::MakeTinyModel({.tied = false});
  const auto fill = [&](std::string_view name, uint64_t begin, uint64_t count, float value) {
    auto& values = model.Get(name).values;
    std::fill_n(values.begin() + static_cast<ptrdiff_t>(begin), count, value);
  };
  fill("model.layers.0.self_attn.q_proj.weight", 5 * 64, 64, 0);     // a row
  fill("model.layers.0.self_attn.v_proj.weight", 0, 32 * 64, 0);     // a tensor: o sees zeros
  fill("model.layers.1.mlp.gate_proj.weight", 0, 128 * 64, 0);       // down sees zeros
  fill("model.layers.1.mlp.down_proj.weight", 0, 64 * 128, 1e-42f);  // denormals
  fill("lm_head.weight", 64, 64, 0);
  for (uint64_t i = 0; i < 300; ++i) fill("model.embed_tokens.weight", i * 64 + 3, 1, 0);  // dead
  Make(model);
  for (const double bits : {1.5, 4.0}) {
    const auto report = Run(Options(bits));
    ASSERT_TRUE(report.ok()) << report.status().message();
    for (const MatrixReport& m : report->matrices) {
      EXPECT_TRUE(std::isfinite(m.relative_error) && std::isfinite(m.hessian_error)) << m.name;
    }
    EXPECT_TRUE(std::isfinite(KlAgainstOriginal(folder_ / "out")));
    fs::remove_all(folder_ / "out");
  }
  fs::remove_all(folder_ / "model");
  model.Get("model.layers.1.self_attn.k_proj.weight").values[70] = NAN;
  Make(model);
  const auto refused = Run(Options(2));
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("model.layers.1.self_attn.k_proj.weight"),
            std::string::npos)
      << refused.status().message();
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

// Robustness case 44: a weight of 1e38 is a number. What cannot be computed with it is an error
// that names the layer or matrix; nothing comes out as NaN.
TEST_F(QuantizeTest, WeightsNearTheLargestFloat) {
  for (const char* name : {"self_attn.v_proj", "mlp.down_proj"}) {
    testing::TinyModel model = testing::MakeTinyModel();
    model.Get(fmt::format("model.layers.1.{}.weight", name)).values[70] = 1e38f;
    Make(model);
    for (const Method method : {Method::kTrellis, Method::kRtn}) {
      QuantizeOptions options = Options(3);
      options.method = method;
      const auto report = Run(options);
      if (report.ok()) {
        for (const MatrixReport& m : report->matrices) {
          EXPECT_TRUE(std::isfinite(m.relative_error) && std::isfinite(m.hessian_error)) << m.name;
        }
        EXPECT_TRUE(Transformer::Load(folder_ / "out").ok());
        fs::remove_all(folder_ / "out");
      } else {
        EXPECT_THAT(report.status().message(),
                    ::testing::AnyOf(HasSubstr("layers.1."), HasSubstr("calibration, layer 1")));
        EXPECT_FALSE(fs::exists(folder_ / "out"));
      }
      fs::remove_all(folder_ / "out.work");
    }
    fs::remove_all(folder_ / "model");
  }
}

// Robustness case 46: sizes that no block, tile or group divides.
TEST_F(QuantizeTest, OddSizes) {
  Make({.hidden = 72, .intermediate = 106, .heads = 4, .kv_heads = 1, .vocab = 307});
  for (const Method method : {Method::kTrellis, Method::kRtn}) {
    QuantizeOptions options = Options(4);
    options.method = method;
    const auto report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_LT(KlAgainstOriginal(folder_ / "out"), 1);
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(QuantizeTest, ModelsOfFewPositionsAreRefused) {
  testing::TinyModel model = testing::MakeTinyModel();
  model.config.max_position = 3;
  Make(model);
  for (const auto measure : {SensitivityMeasure::kNone, SensitivityMeasure::kKl}) {
    QuantizeOptions options = Options(3);
    options.sensitivity = measure;
    EXPECT_THAT(Run(options).status().message(), HasSubstr("max_position_embeddings is 3"));
  }
}

// Robustness case 50, case 67.
TEST_F(QuantizeTest, HostileOptions) {
  Make();
  const auto refuse = [&](const QuantizeOptions& options, StatusCode code) {
    const auto report = Run(options);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), code) << report.status().message();
  };
  QuantizeOptions options = Options(2);
  options.calibration = (folder_ / "absent.txt").string();
  EXPECT_FALSE(Run(options).ok());
  testing::WriteText(folder_ / "empty.txt", "");
  options.calibration = (folder_ / "empty.txt").string();
  refuse(options, StatusCode::kInvalidArgument);
  options = Options(2);
  options.output = "";
  refuse(options, StatusCode::kInvalidArgument);
  options.output = folder_ / "model";
  EXPECT_FALSE(Run(options).ok());
  fs::create_directory(folder_ / "there");
  testing::WriteText(folder_ / "there/file", "x");
  options.output = folder_ / "there";
  refuse(options, StatusCode::kAlreadyExists);
  options.output = folder_ / "no/such/parent/out";
  EXPECT_FALSE(Run(options).ok());
  options = Options(2);
  options.model = folder_ / "absent";
  EXPECT_FALSE(Run(options).ok());
  options = Options(2);
  options.calibration_context = 0;
  refuse(options, StatusCode::kInvalidArgument);
  // A compressed model cannot be compressed again.
  ASSERT_TRUE(Run(Options(3)).ok());
  options = Options(2, "again");
  options.model = folder_ / "out";
  refuse(options, StatusCode::kInvalidArgument);
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    EXPECT_EQ(entry.path().extension(),
              entry.path().filename() == "text.txt" || entry.path().filename() == "empty.txt"
                  ? ".txt"
                  : "")
        << entry.path();
  }
}

}  // namespace
}  // namespace tq
