#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "../../tests/support/tiny_model.h"
#include "codec/grouped_rounding.h"
#include "compress/methods/awq/awq_coder.h"
#include "compress/methods/awq/layer_scales.h"
#include "compress/methods/rtn/rtn_coder.h"
#include "compress/output_error.h"
#include "compress/testing.h"
#include "device/thread_pool.h"
#include "model/transformer.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

GroupedLayout Layout(uint64_t rows, uint64_t cols, uint32_t bits, uint32_t group_size,
                     ZeroKind zeros = ZeroKind::kPacked) {
  GroupedLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.bits = bits;
  layout.group_size = group_size;
  layout.zeros = zeros;
  return layout;
}

// Inputs of which every sixteenth channel is thirty times as large.
GroupInput InputWithOutliers(uint64_t cols, uint64_t seed) {
  std::vector<float> rows = testing::CorrelatedRows(4 * cols, cols, seed);
  GroupInput input;
  input.magnitude.assign(cols, 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % cols % 16 == 3) rows[i] *= 30;
    input.magnitude[i % cols] += std::abs(rows[i]) / static_cast<float>(4 * cols);
  }
  input.hessian = testing::Gram(rows, cols);
  return input;
}

double LossAt(const std::vector<float>& w, const GroupedLayout& layout, const GroupInput& input,
              double alpha) {
  InlineExecutor executor;
  const std::vector<float> scales = ChannelScales(input.magnitude, alpha);
  std::vector<float> error(w.size());
  std::vector<float> scaled(layout.cols), rounded(layout.cols);
  for (uint64_t row = 0; row < layout.rows; ++row) {
    for (uint64_t j = 0; j < layout.cols; ++j) scaled[j] = w[row * layout.cols + j] * scales[j];
    EXPECT_TRUE(RoundRowToNearest(layout, scaled.data(), rounded.data()));
    for (uint64_t j = 0; j < layout.cols; ++j) {
      error[row * layout.cols + j] = w[row * layout.cols + j] - rounded[j] / scales[j];
    }
  }
  return OutputError(input.hessian, error.data(), layout.rows, executor);
}

TEST(ChannelScalesTest, AreThePublishedOnes) {
  const std::vector<float> magnitude = {1, 4, 0, 16};
  EXPECT_THAT(ChannelScales(magnitude, 0), ::testing::Each(1.0f));
  const std::vector<float> half = ChannelScales(std::vector<float>{1, 4, 9, 16}, 0.5);
  // 1, 2, 3, 4 over sqrt(4 * 1).
  EXPECT_THAT(half, ::testing::ElementsAre(
                        ::testing::FloatNear(0.5f, 1e-6f), ::testing::FloatNear(1.0f, 1e-6f),
                        ::testing::FloatNear(1.5f, 1e-6f), ::testing::FloatNear(2.0f, 1e-6f)));
  for (const float s : ChannelScales(magnitude, 0.95)) EXPECT_TRUE(std::isfinite(s) && s > 0);
  EXPECT_THAT(ChannelScales(std::vector<float>(5, 0.0f), 0.5), ::testing::Each(1.0f));
}

TEST(SearchAlphaTest, FindsTheLeastErrorOfTheGrid) {
  InlineExecutor executor;
  const auto pool = ThreadPool::Create(3);
  for (const uint32_t bits : {2, 3, 4}) {
    for (const uint32_t group_size : {32, 128}) {
      const GroupedLayout layout = Layout(48, 128, bits, group_size);
      const GroupInput input = InputWithOutliers(128, bits);
      const std::vector<float> w = testing::NormalValues(48 * 128, group_size);
      const ScaledWeights matrix{w.data(), layout};
      const auto alpha = SearchAlpha({&matrix, 1}, input, executor);
      ASSERT_TRUE(alpha.ok());
      EXPECT_GT(*alpha, 0);
      const double least = LossAt(w, layout, input, *alpha);
      EXPECT_LT(least, 0.7 * LossAt(w, layout, input, 0)) << bits;
      for (int step = 0; step < 20; ++step) {
        EXPECT_LE(least, 1.0001 * LossAt(w, layout, input, step / 20.0));
      }
      EXPECT_EQ(*SearchAlpha({&matrix, 1}, input, **pool), *alpha);
    }
  }
}

TEST(SearchAlphaTest, NamesWhatItCannotRound) {
  InlineExecutor executor;
  const GroupInput input = InputWithOutliers(32, 1);
  std::vector<float> w = testing::NormalValues(2 * 32, 1);
  w[33] = 1e37f;
  const ScaledWeights matrix{w.data(), Layout(2, 32, 4, 32)};
  EXPECT_THAT(SearchAlpha({&matrix, 1}, input, executor).status().message(),
              HasSubstr("row 1 group 0"));
}

// Of every group no range loses more than the whole one, and of heavy-tailed weights some lose
// less.
TEST(RoundWithClippingTest, LosesLessInEveryGroup) {
  InlineExecutor executor;
  const auto pool = ThreadPool::Create(3);
  constexpr uint64_t kRows = 70, kCols = 100;
  const GroupInput input = InputWithOutliers(kCols, 2);
  std::vector<float> w = testing::NormalValues(kRows * kCols, 3);
  for (float& value : w) value = value * value * value;
  for (const ZeroKind zeros : {ZeroKind::kPacked, ZeroKind::kSymmetric}) {
    const GroupedLayout layout = Layout(kRows, kCols, 3, 32, zeros);
    const auto clipped = RoundWithClipping(layout, input.hessian, w.data(), executor);
    const auto nearest = QuantizeToNearest(w.data(), layout, executor);
    ASSERT_TRUE(clipped.ok() && nearest.ok());
    const auto again = RoundWithClipping(layout, input.hessian, w.data(), **pool);
    EXPECT_EQ(std::memcmp(clipped->codes.data(), again->codes.data(), clipped->codes.num_bytes()),
              0);
    std::vector<float> a(kRows * kCols), b(kRows * kCols);
    DecodeRows(*clipped, 0, kRows, a.data());
    DecodeRows(*nearest, 0, kRows, b.data());
    int better = 0;
    for (uint64_t row = 0; row < kRows; ++row) {
      for (uint64_t first = 0; first < kCols; first += 32) {
        const uint64_t count = std::min<uint64_t>(32, kCols - first);
        const auto loss = [&](const std::vector<float>& rounded) {
          double sum = 0;
          for (uint64_t i = first; i < first + count; ++i) {
            for (uint64_t j = first; j < first + count; ++j) {
              sum += static_cast<double>(w[row * kCols + i] - rounded[row * kCols + i]) *
                     input.hessian.as<float>()[i * kCols + j] *
                     (w[row * kCols + j] - rounded[row * kCols + j]);
            }
          }
          return sum;
        };
        EXPECT_LE(loss(a), loss(b) * (1 + 1e-4) + 1e-9);
        better += loss(a) < 0.9 * loss(b);
      }
    }
    EXPECT_GT(better, 50);
  }
}

PlannedMatrix Planned(std::string name, const GroupedLayout& layout) {
  PlannedMatrix m;
  m.group = GroupName(name);
  m.name = std::move(name);
  m.rows = layout.rows;
  m.cols = layout.cols;
  m.method = Method::kAwq;
  m.layout = layout;
  return m;
}

// Without scales (alpha = 0) and without clipping AWQ is rounding to nearest.
TEST(AwqTest, WithoutScalesIsRoundingToNearest) {
  InlineExecutor executor;
  const GroupedLayout layout = Layout(20, 64, 3, 32);
  const PlannedMatrix m = Planned("model.layers.0.self_attn.q_proj", layout);
  Tensor a = *Tensor::FromValues<float>(DType::kF32, {20, 64}, testing::NormalValues(20 * 64, 1));
  Tensor b = testing::Copy(a);
  const GroupInput input = InputWithOutliers(64, 1);
  const auto awq = AwqCoder(testing::Copy(input.hessian)).Code(0, m, a, executor);
  const auto rtn = RtnCoder(testing::Copy(input.hessian)).Code(0, m, b, executor);
  ASSERT_TRUE(awq.ok() && rtn.ok());
  ASSERT_EQ(awq->tensors.size(), rtn->tensors.size());
  for (size_t i = 0; i < awq->tensors.size(); ++i) {
    EXPECT_EQ(awq->tensors[i].name, rtn->tensors[i].name);
    EXPECT_EQ(std::memcmp(awq->tensors[i].tensor.data(), rtn->tensors[i].tensor.data(),
                          awq->tensors[i].tensor.num_bytes()),
              0);
  }
  EXPECT_EQ(awq->loss, rtn->loss);
  EXPECT_GT(awq->loss, 0);
}

std::vector<float> LogitsOf(Transformer& model) {
  InlineExecutor executor;
  ForwardContext context;
  context.executor = &executor;
  KvCache cache = *model.NewCache(16);
  std::vector<float> logits(model.config().vocab_size);
  EXPECT_TRUE(model
                  .Forward(context, cache, std::vector<int32_t>{5, 77, 130, 9, 12, 201, 44},
                           Logits::kLast, logits.data())
                  .ok());
  return logits;
}

// The scaled weights and norms of all layers make the model that they were made of.
class LayerScalesTest : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(LayerScalesTest, ScaledModelIsTheSame) {
  InlineExecutor executor;
  const auto& [architecture, dtype] = GetParam();
  for (const uint32_t kv_heads : {2, 4}) {
    testing::TempFolder folder;
    testing::TinyModel model = testing::MakeTinyModel(
        {.architecture = architecture, .kv_heads = kv_heads, .dtype = dtype});
    testing::WriteHuggingFace(model, folder / "model");
    const auto source = *ModelSource::Open(folder / "model");
    QuantizeOptions options;
    options.method = Method::kAwq;
    options.bits = 3;
    options.group_size = 32;
    const auto outline = OutlineModel(*source, options);
    const auto plan = PlanScalar(*outline, options);
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    size_t scaled_groups = 0;
    for (int64_t layer = 0; layer < 2; ++layer) {
      std::vector<PlannedGroup> groups;
      std::map<std::string, GroupInput> inputs;
      for (const MatrixGroup& group : GroupsOf(plan->matrices, true)) {
        if (group.layer != layer) continue;
        groups.push_back({group,
                          {plan->matrices.begin() + static_cast<ptrdiff_t>(group.begin),
                           plan->matrices.begin() + static_cast<ptrdiff_t>(group.end)}});
        inputs[groups.back().matrices[0].group] =
            InputWithOutliers(groups.back().matrices[0].cols, groups.size());
      }
      const auto scales = LayerScales::Search(*source, groups, inputs, executor);
      ASSERT_TRUE(scales.ok()) << scales.status().message();
      for (const PlannedGroup& group : groups) {
        const std::string& name = group.matrices[0].group;
        for (const PlannedMatrix& m : group.matrices) {
          scales->ScaleWeights(m, executor, model.Get(m.name + ".weight").values.data());
        }
        for (const float s : scales->scales(name)) {
          if (s == 1) continue;
          ++scaled_groups;
          break;
        }
        const OutputTensor* norm = scales->Norm(name);
        if (norm == nullptr) continue;
        EXPECT_EQ(norm->tensor.dtype(), dtype);
        Tensor values = *Tensor::Zeros(DType::kF32, norm->tensor.shape());
        ASSERT_TRUE(ConvertToFloat(norm->tensor.view(), values.mutable_as<float>()).ok());
        model.Get(norm->name)
            .values.assign(values.as<float>(), values.as<float>() + values.num_elements());
      }
    }
    // o has scales where every head has its own v, or a norm of its own.
    const bool o = kv_heads == 4 || source->config().sub_norms;
    EXPECT_EQ(scaled_groups, o && !source->config().qkv_bias ? 8u : 6u);
    // Scaled weights are no numbers of a 16-bit type.
    model.dtype = DType::kF32;
    testing::WriteHuggingFace(model, folder / "scaled");
    auto want = Transformer::Load(folder / "model"), got = Transformer::Load(folder / "scaled");
    ASSERT_TRUE(want.ok() && got.ok()) << got.status().message();
    const std::vector<float> a = LogitsOf(**want), b = LogitsOf(**got);
    double difference = 0, power = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += std::pow(a[i] - b[i], 2);
      power += a[i] * a[i];
    }
    // The KV cache rounds keys and values to fp16.
    EXPECT_LT(std::sqrt(difference / power), 2e-3) << architecture << " " << kv_heads;
  }
}
INSTANTIATE_TEST_SUITE_P(
    Models, LayerScalesTest,
    ::testing::Combine(::testing::Values("llama", "qwen2", "gemma3_text", "gemma2", "bitnet"),
                       ::testing::Values(DType::kF32, DType::kBF16, DType::kF16)));

}  // namespace
}  // namespace tq
