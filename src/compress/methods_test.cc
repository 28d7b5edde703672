// Whole models by the methods of scalar codes: files, resuming, what is refused, and that they are
// as good as they should be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "../../tests/support/quantize_fixture.h"
#include "checkpoint/packed_model.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using testing::HashFolder;
using ::testing::HasSubstr;
using testing::QuantizeTest;
using testing::StopAfter;

constexpr Method kScalar[] = {Method::kRtn, Method::kGptq, Method::kAwq, Method::kTernary};
constexpr Method kOfAnyWidth[] = {Method::kRtn, Method::kGptq, Method::kAwq};

class MethodsTest : public QuantizeTest {
 protected:
  QuantizeOptions With(Method method, double bits, std::string_view output = "out") {
    QuantizeOptions options = Options(bits, output);
    options.method = method;
    if (method == Method::kTernary) options.bits = kTernaryRate;  // it has no other
    options.group_size = 32;
    return options;
  }
  // Rounding to nearest trits leaves 0.26 of Gaussian weights; a matrix that is decoded to anything
  // else than itself would have about 1.
  static void ExpectSmallErrors(const QuantizeReport& report) {
    for (const MatrixReport& m : report.matrices) {
      if (!m.name.starts_with("model.layers.")) continue;
      EXPECT_LT(m.relative_error, 0.4) << m.name;
    }
  }
  // The sum of the reported errors of the decoder's outputs.
  static double HessianErrors(const QuantizeReport& report) {
    double sum = 0;
    for (const MatrixReport& m : report.matrices) {
      EXPECT_GT(m.hessian_error, 0) << m.name;
      EXPECT_GT(m.relative_error, 0) << m.name;
      if (m.name.starts_with("model.layers.")) sum += m.hessian_error;
    }
    return sum;
  }
};

TEST_F(MethodsTest, FilesAreWhatThePreviewSays) {
  struct Setting {
    bool tied;
    uint32_t group_size;
    bool symmetric;
  };
  for (const Setting& setting : {Setting{true, 128, true}, {false, 32, false}, {false, 0, true}}) {
    Make({.layers = 1, .kv_heads = 4, .tied = setting.tied});
    for (const Method method : kScalar) {
      QuantizeOptions options = With(method, 3);
      options.group_size = setting.group_size;
      options.symmetric = setting.symmetric;
      const auto plan = PreviewQuantize(options, **ThreadPool::Create(2));
      const auto report = Run(options);
      ASSERT_TRUE(plan.ok() && report.ok()) << report.status().message();
      EXPECT_EQ(plan->bytes, report->bytes);
      EXPECT_EQ(plan->bytes, fs::file_size(folder_ / "out/model.safetensors"));
      EXPECT_GT(plan->seconds, 0);
      EXPECT_EQ(report->candidates.at(0).name, "one width");
      uint64_t bytes = 0, parts = 0;
      for (const MatrixReport& m : report->matrices) bytes += m.bytes;
      for (const BytePart& part : report->parts) parts += part.bytes;
      EXPECT_LT(bytes, report->bytes);
      EXPECT_EQ(parts, report->bytes);
      const auto model = PackedModel::Open(folder_ / "out");
      ASSERT_TRUE(model.ok()) << model.status().message();
      EXPECT_EQ((*model)->method(), NameOf(method));
      for (const auto& [name, stored] : (*model)->matrices()) {
        const auto* grouped = std::get_if<GroupedMatrix>(&stored);
        ASSERT_EQ(grouped != nullptr, name.starts_with("model.layers.")) << name;
        if (grouped == nullptr) continue;
        const bool ternary = method == Method::kTernary;
        EXPECT_EQ(grouped->bits, ternary ? kTernaryBits : 3u);
        EXPECT_EQ(grouped->group_size,
                  setting.group_size == 0 ? grouped->cols : setting.group_size);
        EXPECT_EQ(grouped->zeros,
                  setting.symmetric || ternary ? ZeroKind::kSymmetric : ZeroKind::kPacked);
        EXPECT_EQ(grouped->ordered, method == Method::kGptq);
      }
      ExpectSmallErrors(*report);
      EXPECT_LT(KlAgainstOriginal(folder_ / "out"), method == Method::kTernary ? 6 : 3);
      fs::remove_all(folder_ / "out");
    }
    fs::remove_all(folder_ / "model");
  }
}

// Embedding and head are the same bytes whatever the decoder's method.
TEST_F(MethodsTest, DifferInTheDecoderAlone) {
  Make({.tied = false});
  std::vector<std::unique_ptr<PackedModel>> models;
  for (const Method method : kOfAnyWidth) {
    const std::string name(NameOf(method));
    ASSERT_TRUE(Run(With(method, 4, name)).ok());
    models.push_back(*PackedModel::Open(folder_ / name));
  }
  for (const std::string name : {"model.embed_tokens", "lm_head"}) {
    const auto& first = std::get<PackedMatrix>(**models[0]->Matrix(name));
    EXPECT_EQ(first.segments.size(), 1u);
    EXPECT_EQ(first.segments[0].code.rate(), 4);
    for (const auto& model : models) {
      const auto& other = std::get<PackedMatrix>(**model->Matrix(name));
      ASSERT_EQ(other.codes.num_bytes(), first.codes.num_bytes());
      EXPECT_EQ(std::memcmp(other.codes.data(), first.codes.data(), first.codes.num_bytes()), 0);
    }
  }
}

TEST_F(MethodsTest, BetterThanRoundingToNearest) {
  // Channels of very different strength, as trained models have.
  testing::TinyModel model =
      testing::MakeTinyModel({.hidden = 128, .intermediate = 128, .layers = 1, .kv_heads = 4});
  for (testing::TinyTensor& tensor : model.tensors) {
    if (!tensor.name.ends_with("layernorm.weight")) continue;
    for (size_t i = 5; i < tensor.values.size(); i += 32) tensor.values[i] *= 12;
  }
  Make(model);
  for (const double bits : {3, 4}) {
    std::map<Method, double> errors, kl;
    for (const Method method : kOfAnyWidth) {
      QuantizeOptions options = With(method, bits);
      options.group_size = 64;
      const auto report = Run(options);
      ASSERT_TRUE(report.ok()) << report.status().message();
      errors[method] = HessianErrors(*report);
      kl[method] = KlAgainstOriginal(folder_ / "out");
      fs::remove_all(folder_ / "out");
    }
    for (const Method method : {Method::kGptq, Method::kAwq}) {
      EXPECT_LT(errors[method], errors[Method::kRtn]) << NameOf(method) << " " << bits;
      EXPECT_LT(kl[method], kl[Method::kRtn]) << NameOf(method) << " " << bits;
    }
  }
}

TEST_F(MethodsTest, SameBytesForAnyNumberOfThreads) {
  Make({.kv_heads = 4});
  for (const Method method : kScalar) {
    ASSERT_TRUE(Run(With(method, 3, "one"), 1).ok());
    ASSERT_TRUE(Run(With(method, 3, "three"), 3).ok());
    EXPECT_EQ(HashFolder(folder_ / "one"), HashFolder(folder_ / "three")) << NameOf(method);
    fs::remove_all(folder_ / "one");
    fs::remove_all(folder_ / "three");
  }
}

// Robustness case 64, case 70. Scales of AWQ are found again from what is left.
TEST_F(MethodsTest, ResumeToTheSameBytes) {
  Make({.kv_heads = 4, .tied = false});
  for (const Method method : kScalar) {
    const std::string straight = fmt::format("straight-{}", NameOf(method));
    ASSERT_TRUE(Run(With(method, 3, straight)).ok());
    auto pool = ThreadPool::Create(3);
    int runs = 0;
    for (const int stop : {1, 2, 3, 5}) {
      StopAfter progress(stop);
      const auto stopped = Quantize(With(method, 3), **pool, progress);
      ASSERT_EQ(stopped.status().code(), StatusCode::kCancelled) << stopped.status().message();
      ClearCancel();
      if (++runs == 2) fs::remove(FindPart("model.layers.0.self_attn.q_proj"));
    }
    const auto finished = Run(With(method, 3), 1);
    ASSERT_TRUE(finished.ok()) << finished.status().message();
    EXPECT_EQ(HashFolder(folder_ / "out"), HashFolder(folder_ / straight)) << NameOf(method);
    fs::remove_all(folder_ / "out");
  }
}

// Robustness case 65.
TEST_F(MethodsTest, RefuseToResumeAnotherJob) {
  Make();
  auto pool = ThreadPool::Create(2);
  StopAfter progress(2);
  ASSERT_FALSE(Quantize(With(Method::kGptq, 3), **pool, progress).ok());
  ClearCancel();
  const auto refused = [&](const QuantizeOptions& options) {
    EXPECT_EQ(Run(options).status().code(), StatusCode::kFailedPrecondition);
  };
  refused(With(Method::kAwq, 3));
  refused(With(Method::kGptq, 4));
  QuantizeOptions options = With(Method::kGptq, 3);
  options.act_order = false;
  refused(options);
  options = With(Method::kGptq, 3);
  options.symmetric = true;
  refused(options);
  options = With(Method::kGptq, 3);
  options.group_size = 64;
  refused(options);
  EXPECT_TRUE(Run(With(Method::kGptq, 3)).ok());
}

TEST_F(MethodsTest, RefuseWhatTheyDoNotHave) {
  Make();
  const auto message = [&](const QuantizeOptions& options) {
    const auto report = Run(options);
    EXPECT_EQ(report.status().code(), StatusCode::kInvalidArgument);
    EXPECT_FALSE(fs::exists(folder_ / "out"));
    return std::string(report.status().message());
  };
  for (const Method method : kScalar) {
    const std::string name(NameOf(method));
    QuantizeOptions options = With(method, 3);
    for (const double bits : {2.5, 1.0, 9.0, -3.0, std::nan("")}) {
      options.bits = bits;
      EXPECT_THAT(message(options), HasSubstr(method == Method::kTernary
                                                  ? "ternary has codes of 1.6 bits alone"
                                                  : name + " needs a whole number from 2 to 8"));
    }
    options = With(method, 3);
    options.group_size = 48;
    EXPECT_THAT(message(options), HasSubstr("group size: 48"));
    options = With(method, 3);
    options.memory_bytes = 1 << 30;
    EXPECT_THAT(message(options), HasSubstr("memory: " + name));
    options = With(method, 3);
    options.overrides = {*ParseRateOverride("down_proj=4")};
    EXPECT_THAT(message(options), ::testing::AllOf(HasSubstr("down_proj"), HasSubstr(name)));
    options = With(method, 3);
    options.v1 = true;
    EXPECT_THAT(message(options), HasSubstr("v1: is of the method trellis, not " + name));
  }
  for (const Method method : {Method::kGptq, Method::kAwq}) {
    QuantizeOptions options = With(method, 3);
    options.no_hessian = true;
    EXPECT_THAT(message(options), HasSubstr("cannot do without"));
  }
}

TEST_F(MethodsTest, EmbeddingMayHaveARateOfItsOwn) {
  Make();
  QuantizeOptions options = With(Method::kRtn, 3);
  options.overrides = {*ParseRateOverride("embed_tokens=6")};
  options.no_hessian = true;  // nor calibration
  options.calibration = "absent.txt";
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  for (const MatrixReport& m : report->matrices) {
    EXPECT_EQ(m.rate, m.name == "model.embed_tokens" ? 6 : 3);
  }
}

// Robustness case 43, case 46, case 47: odd sizes, dead inputs, rows and matrices of zeros.
TEST_F(MethodsTest, OddSizesAndZeros) {
  testing::TinyModel model = testing::MakeTinyModel(
      {.hidden = 72, .intermediate = 106, .heads = 4, .kv_heads = 4, .vocab = 307});
  const auto zero = [&](std::string_view name, size_t begin, size_t count) {
    std::fill_n(model.Get(name).values.begin() + static_cast<ptrdiff_t>(begin), count, 0.0f);
  };
  zero("model.layers.0.self_attn.q_proj.weight", 5 * 72, 72);
  zero("model.layers.0.self_attn.v_proj.weight", 0, 72 * 72);  // o sees zeros
  zero("model.layers.1.mlp.up_proj.weight", 72, 2 * 72);       // down sees some
  zero("model.layers.1.input_layernorm.weight", 7, 1);         // a dead input
  Make(model);
  for (const Method method : kScalar) {
    for (const uint32_t group_size : {32, 0}) {
      QuantizeOptions options = With(method, 4);
      options.group_size = group_size;
      const auto report = Run(options);
      ASSERT_TRUE(report.ok()) << report.status().message();
      for (const MatrixReport& m : report->matrices) {
        EXPECT_TRUE(std::isfinite(m.relative_error) && std::isfinite(m.hessian_error)) << m.name;
      }
      ExpectSmallErrors(*report);
      EXPECT_LT(KlAgainstOriginal(folder_ / "out"), method == Method::kTernary ? 6 : 1)
          << NameOf(method);
      fs::remove_all(folder_ / "out");
    }
  }
}

// Robustness case 44.
TEST_F(MethodsTest, WeightsNearTheLargestFloat) {
  testing::TinyModel model = testing::MakeTinyModel();
  model.Get("model.layers.1.mlp.down_proj.weight").values[70] = 1e38f;
  Make(model);
  for (const Method method : kScalar) {
    // In the forward pass of calibration, or in the matrix.
    EXPECT_THAT(Run(With(method, 3)).status().message(),
                ::testing::AnyOf(HasSubstr("layer 1"), HasSubstr("layers.1.")));
    EXPECT_FALSE(fs::exists(folder_ / "out"));
    fs::remove_all(folder_ / "out.work");
  }
}

}  // namespace
}  // namespace tq
