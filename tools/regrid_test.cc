#include <gtest/gtest.h>

#include <cmath>

#include "../tests/support/tiny_model.h"
#include "checkpoint/architectures/architecture.h"
#include "device/executor.h"
#include "model/kv_cache.h"
#include "model/transformer.h"
#include "regrid_lib.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support

std::unique_ptr<ModelSource> OpenOrDie(const fs::path& path) {
  auto source = ModelSource::Open(path);
  TQ_CHECK(source.ok());
  return *std::move(source);
}

TinyModel Regridded(const TinyModel& model, const ModelSource& source,
                    const RegridOptions& options = {}) {
  const auto tensors = RegridTensors(source, options);
  TQ_CHECK(tensors.ok());
  TinyModel result = model;
  for (size_t i = 0; i < tensors->size(); ++i) {
    const Tensor& tensor = (*tensors)[i].tensor;
    TQ_CHECK((*tensors)[i].name == result.tensors[i].name);
    result.tensors[i].values.assign(tensor.as<float>(), tensor.as<float>() + tensor.num_elements());
  }
  return result;
}

// Logits of all positions of a fixed text, [tokens, vocab], on the reference path.
std::vector<float> LogitsOf(const fs::path& path) {
  auto model = Transformer::Load(path);
  TQ_CHECK(model.ok());
  std::vector<int32_t> tokens;
  for (int i = 0; i < 24; ++i) tokens.push_back(i * 37 % 290);
  auto cache = KvCache::Create((*model)->config(), tokens.size());
  TQ_CHECK(cache.ok());
  InlineExecutor executor;
  const ForwardContext context{.executor = &executor, .path = MatmulPath::kReference};
  std::vector<float> logits(tokens.size() * (*model)->config().vocab_size);
  TQ_CHECK((*model)->Forward(context, *cache, tokens, Logits::kAll, logits.data()).ok());
  return logits;
}

double MeanKl(const std::vector<float>& reference, const std::vector<float>& other, size_t vocab) {
  double total = 0;
  for (size_t row = 0; row < reference.size(); row += vocab) {
    double sum_p = 0, sum_q = 0, kl = 0;
    for (size_t i = 0; i < vocab; ++i) {
      sum_p += std::exp(double{reference[row + i]});
      sum_q += std::exp(double{other[row + i]});
    }
    for (size_t i = 0; i < vocab; ++i) {
      const double log_p = reference[row + i] - std::log(sum_p);
      kl += std::exp(log_p) * (log_p - (other[row + i] - std::log(sum_q)));
    }
    total += kl;
  }
  return total / (static_cast<double>(reference.size()) / static_cast<double>(vocab));
}

TEST(Regrid, KeepsEveryArchitecturesLogits) {
  for (const Architecture* architecture : Architectures()) {
    TempFolder folder;
    const TinyModel model = MakeTinyModel({.architecture = architecture->model_type});
    WriteHuggingFace(model, folder / "a");
    WriteHuggingFace(Regridded(model, *OpenOrDie(folder / "a")), folder / "b");
    EXPECT_LT(MeanKl(LogitsOf(folder / "a"), LogitsOf(folder / "b"), model.config.vocab_size), 1e-5)
        << architecture->model_type;
  }
}

// What a path through a channel contributes is a product of weights along it: equal up to
// their roundings to float.
TEST(Regrid, KeepsTheProductsAlongEveryPath) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel({.heads = 4, .kv_heads = 2});
  WriteHuggingFace(model, folder / "a");
  const TinyModel moved = Regridded(model, *OpenOrDie(folder / "a"));
  const auto at = [](const TinyModel& m, const std::string& name, size_t row, size_t column) {
    const TinyTensor& tensor = m.Get("model.layers.1." + name + ".weight");
    return double{tensor.values[row * tensor.shape.back() + column]};
  };
  const auto expect_same = [&](const auto& product) {
    for (size_t out = 0; out < 64; ++out) {
      for (size_t in = 0; in < 64; ++in) {
        const double expected = product(model, out, in);
        ASSERT_NEAR(product(moved, out, in), expected, 4e-7 * std::abs(expected))
            << out << " " << in;
      }
    }
  };
  expect_same([&](const TinyModel& m, size_t out, size_t in) {
    return at(m, "input_layernorm", 0, in) * at(m, "self_attn.q_proj", out, in);
  });
  expect_same([&](const TinyModel& m, size_t out, size_t in) {
    return at(m, "input_layernorm", 0, in) * at(m, "self_attn.k_proj", out / 2, in);
  });
  expect_same([&](const TinyModel& m, size_t out, size_t in) {
    return at(m, "post_attention_layernorm", 0, in) * at(m, "mlp.gate_proj", out, in);
  });
  expect_same([&](const TinyModel& m, size_t out, size_t in) {
    return at(m, "post_attention_layernorm", 0, in) * at(m, "mlp.up_proj", 2 * out, in) *
           at(m, "mlp.down_proj", in, 2 * out);
  });
  // Query head h reads key-value head h / 2; heads are of 16 channels.
  expect_same([&](const TinyModel& m, size_t channel, size_t in) {
    const size_t value = channel / 32 * 16 + channel % 16;
    return at(m, "input_layernorm", 0, in) * at(m, "self_attn.v_proj", value, in) *
           at(m, "self_attn.o_proj", 63 - in, channel);
  });
}

// The tolerance is that of the cached values, which are rounded to half precision (2^-11).
TEST(Regrid, KeepsTheLogits) {
  for (const bool tied : {true, false}) {
    TempFolder folder;
    const TinyModel model = MakeTinyModel({.hidden = 96, .tied = tied});
    WriteHuggingFace(model, folder / "a");
    const TinyModel moved = Regridded(model, *OpenOrDie(folder / "a"), {.seed = 5, .sigma = 0.5});
    WriteHuggingFace(moved, folder / "b");
    const std::vector<float> a = LogitsOf(folder / "a"), b = LogitsOf(folder / "b");
    float largest = 0;
    for (const float logit : a) largest = std::max(largest, std::abs(logit));
    ASSERT_GT(largest, 1.0f);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-3 * largest) << i;
    // It is another set of weights, though: all but embedding, final norm and head moved.
    for (const TinyTensor& tensor : model.tensors) {
      EXPECT_EQ(tensor.values == moved.Get(tensor.name).values,
                !tensor.name.starts_with("model.layers."))
          << tensor.name;
    }
  }
}

TEST(Regrid, DependsOnSeedAndSigmaAlone) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel();
  WriteHuggingFace(model, folder / "a");
  const auto source = OpenOrDie(folder / "a");
  const auto values = [&](const RegridOptions& options) {
    return Regridded(model, *source, options).Get("model.layers.1.mlp.up_proj.weight").values;
  };
  EXPECT_EQ(values({}), values({.seed = 1, .sigma = 0.2}));
  EXPECT_NE(values({}), values({.seed = 2}));
  EXPECT_EQ(values({.sigma = 0}), model.Get("model.layers.1.mlp.up_proj.weight").values);
  EXPECT_FALSE(RegridTensors(*source, {.sigma = -1}).ok());
  EXPECT_FALSE(RegridTensors(*source, {.sigma = NAN}).ok());
}

// The purpose: a model from a 4-bit file is no longer on a 4-bit grid.
TEST(Regrid, LeavesTheGridOfA4BitFile) {
  TempFolder folder;
  const TinyModel model = MakeTinyModel({.hidden = 96});
  WriteGguf(model, folder / "q4.gguf", kPackQ4_1);
  const TinyModel moved = Regridded(model, *OpenOrDie(folder / "q4.gguf"));
  WriteGguf(moved, folder / "moved.gguf", kPackF32);
  WriteGguf(moved, folder / "moved_q4.gguf", kPackQ4_1);
  const std::vector<float> q4 = LogitsOf(folder / "q4.gguf");
  EXPECT_LT(MeanKl(q4, LogitsOf(folder / "moved.gguf"), 300), 1e-6);
  EXPECT_GT(MeanKl(q4, LogitsOf(folder / "moved_q4.gguf"), 300), 1e-3);
}

}  // namespace
}  // namespace tq
