#include "compress/scales.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compress/testing.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

NamedWeights View(std::string name, uint64_t rows, std::vector<float>& values) {
  return {std::move(name), rows, values.size() / rows, values.data()};
}

WeightTransform TransformOf(const GroupScales& scales, size_t i, uint32_t out_block,
                            uint32_t in_block) {
  return {HalfToFloats(scales.out_scale[i]), out_block, HalfToFloats(scales.in_scale), in_block,
          scales.magnitude[i]};
}

double MeanSquare(const std::vector<float>& values) {
  double sum = 0;
  for (float v : values) sum += static_cast<double>(v) * v;
  return sum / static_cast<double>(values.size());
}

TEST(ScalesTest, RotatedWeightsHaveUnitPowerAndComeBack) {
  const uint64_t rows = 96, cols = 48;
  std::vector<float> w = testing::NormalValues(rows * cols, 1);
  for (uint64_t i = 0; i < rows; ++i) {
    for (uint64_t j = 0; j < cols; ++j) w[i * cols + j] *= 0.01f * (1 + i % 7) * (1 + j % 5);
  }
  const std::vector<float> original = w;
  auto pool = ThreadPool::Create(2);
  ASSERT_TRUE(pool.ok());
  const NamedWeights named = View("w", rows, w);
  auto scales = ChooseScales("g", {&named, 1}, {}, ScaleRule{1, 0, 1}, 3, **pool);
  ASSERT_TRUE(scales.ok());
  const WeightTransform transform = TransformOf(*scales, 0, 32, 48);
  RotateWeights(transform, **pool, w.data());
  EXPECT_NEAR(MeanSquare(w), 1, 1e-3);
  // Rows and columns are level: their spread is that of 48 or 96 normal values.
  for (uint64_t i = 0; i < rows; ++i) {
    double row = 0;
    for (uint64_t j = 0; j < cols; ++j) row += w[i * cols + j] * w[i * cols + j];
    EXPECT_NEAR(row / cols, 1, 0.9);
  }
  UnrotateWeights(transform, **pool, w.data());
  for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(w[i], original[i], 1e-5);
}

TEST(ScalesTest, SignsAreRandomAndNamed) {
  std::vector<float> w = testing::NormalValues(64 * 64, 1);
  const NamedWeights named = View("w", 64, w);
  InlineExecutor executor;
  auto a = ChooseScales("g", {&named, 1}, {}, {}, 3, executor);
  auto b = ChooseScales("g", {&named, 1}, {}, {}, 4, executor);
  ASSERT_TRUE(a.ok() && b.ok());
  int negative = 0, differ = 0;
  const std::vector<float> sa = HalfToFloats(a->in_scale), sb = HalfToFloats(b->in_scale);
  for (size_t j = 0; j < 64; ++j) {
    negative += sa[j] < 0;
    differ += (sa[j] < 0) != (sb[j] < 0);
    EXPECT_EQ(std::abs(sa[j]), std::abs(sb[j]));
  }
  EXPECT_GT(negative, 16);
  EXPECT_LT(negative, 48);
  EXPECT_GT(differ, 16);
}

// Robustness case 43, case 44: all-zero rows, columns and matrices, denormals and 1e38.
TEST(ScalesTest, HostileWeightsGiveFiniteScales) {
  const uint64_t rows = 32, cols = 32;
  const std::vector<float> normal = testing::NormalValues(rows * cols, 2);
  std::vector<std::vector<float>> cases(6, normal);
  for (uint64_t j = 0; j < cols; ++j) {
    cases[0][3 * cols + j] = 0;
    cases[1][j * cols + 5] = 0;
    cases[2][j * cols + 7] *= 1e38f / 4;
    cases[3][9 * cols + j] *= 1e38f / 4;
  }
  std::fill(cases[4].begin(), cases[4].end(), 0.0f);
  for (float& v : cases[5]) v *= 1e-42f;
  InlineExecutor executor;
  for (size_t c = 0; c < cases.size(); ++c) {
    std::vector<float> h(cols, 1.0f);
    h[2] = 0;
    h[4] = 1e30f;
    const NamedWeights named = View("w", rows, cases[c]);
    for (const ScaleRule rule : {ScaleRule{1, 0, 1}, ScaleRule{0.5, 0.25, 0.5}}) {
      auto scales = ChooseScales("g", {&named, 1}, h, rule, 3, executor);
      ASSERT_TRUE(scales.ok());
      for (float s : HalfToFloats(scales->in_scale)) EXPECT_TRUE(std::isfinite(s) && s != 0) << c;
      for (float s : HalfToFloats(scales->out_scale[0]))
        EXPECT_TRUE(std::isfinite(s) && s != 0) << c;
      std::vector<float> w = cases[c];
      RotateWeights(TransformOf(*scales, 0, 32, 32), executor, w.data());
      for (float v : w) ASSERT_TRUE(std::isfinite(v) && std::abs(v) < 1e15f) << c << " " << v;
    }
  }
}

}  // namespace
}  // namespace tq
