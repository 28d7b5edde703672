#include "compress/noise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compress/testing.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using testing::CorrelatedRows;
using testing::Gram;
using testing::LowRankRows;
using testing::NormalValues;

HessianFactor Factor(uint64_t cols, Executor& executor) {
  return *HessianFactor::Create("test", Gram(CorrelatedRows(4 * cols, cols, 1), cols), 0.01,
                                executor);
}

// Without a Hessian the error is that of a code on Gaussian values: power D, and no correlation
// with what was decoded.
TEST(NoiseTest, HasThePowerOfACode) {
  auto pool = *ThreadPool::Create(2);
  const uint64_t rows = 200, cols = 160;
  const std::vector<float> w = NormalValues(rows * cols, 2);
  for (const double error : {.0045, .0711, .526}) {
    std::vector<float> e = w;
    const Feedback feedback(nullptr, cols, kNoiseBlock);
    const NoiseLoss noise = RoundWithNoise(feedback, rows, cols, error, {1, "w"}, e.data(), *pool);
    double power = 0, with_decoded = 0, norm = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      power += static_cast<double>(e[i]) * e[i];
      with_decoded += static_cast<double>(e[i]) * (w[i] - e[i]);
      norm += static_cast<double>(w[i]) * w[i];
    }
    EXPECT_NEAR(power / norm, error, 0.03 * error);
    EXPECT_NEAR(with_decoded / norm, 0, 0.02 * std::sqrt(error));
    EXPECT_NEAR(noise.loss, power, 1e-3 * power);
    EXPECT_NEAR(noise.norm, norm, 1e-3 * norm);
  }
}

// With feedback the outputs lose less than by noise of the same power without.
TEST(NoiseTest, FeedbackShapesIt) {
  auto pool = *ThreadPool::Create(2);
  const uint64_t rows = 70, cols = 96;
  const HessianFactor factor =
      *HessianFactor::Create("test", Gram(LowRankRows(400, cols, 1), cols), 0.01, *pool);
  const Feedback shaped(&factor, cols, kNoiseBlock), white(nullptr, cols, kNoiseBlock);
  const std::vector<float> w = NormalValues(rows * cols, 3);
  std::vector<float> e = w, plain = w;
  const NoiseLoss noise = RoundWithNoise(shaped, rows, cols, 0.1, {1, "w"}, e.data(), *pool);
  RoundWithNoise(white, rows, cols, 0.1, {1, "w"}, plain.data(), *pool);
  EXPECT_GT(noise.loss, 0);
  EXPECT_LT(noise.loss, 0.6 * shaped.Norm(plain.data(), rows));
  // The loss that was returned is that of the error.
  EXPECT_NEAR(shaped.Norm(e.data(), rows), noise.loss, 1e-3 * noise.loss);
}

TEST(NoiseTest, DependsOnTheKeyAloneNotOnThreads) {
  const uint64_t rows = 300, cols = 48;
  const std::vector<float> w = NormalValues(rows * cols, 4);
  const auto run = [&](size_t threads, uint64_t seed, std::string_view name) {
    auto pool = *ThreadPool::Create(threads);
    const HessianFactor factor = Factor(cols, *pool);
    const Feedback feedback(&factor, cols, kNoiseBlock);
    std::vector<float> e = w;
    RoundWithNoise(feedback, rows, cols, 0.2, {seed, name}, e.data(), *pool);
    return e;
  };
  const std::vector<float> one = run(1, 1, "a");
  EXPECT_EQ(one, run(3, 1, "a"));
  EXPECT_NE(one, run(1, 2, "a"));
  EXPECT_NE(one, run(1, 1, "b"));
}

TEST(NoiseTest, NoNoiseForNoErrorAndAllForOne) {
  auto pool = *ThreadPool::Create(1);
  const std::vector<float> w = NormalValues(5 * 20, 5);  // a last block of 4 columns
  const Feedback feedback(nullptr, 20, kNoiseBlock);
  std::vector<float> e = w;
  RoundWithNoise(feedback, 5, 20, 0, {1, "w"}, e.data(), *pool);
  for (const float value : e) EXPECT_EQ(value, 0);
  e = w;
  RoundWithNoise(feedback, 5, 20, 1, {1, "w"}, e.data(), *pool);
  EXPECT_EQ(e, w);
}

}  // namespace
}  // namespace tq
