#include "compress/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "codec/dense_device_for_test.h"
#include "codec/rotation.h"
#include "compress/testing.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

// (C C^T)_ij of a factor.
double Product(const HessianFactor& factor, uint64_t i, uint64_t j) {
  double sum = 0;
  for (uint64_t k = 0; k <= std::min(i, j); ++k) {
    sum += static_cast<double>(factor.lower()[i * factor.n() + k]) *
           factor.lower()[j * factor.n() + k];
  }
  return sum;
}

TEST(HessianSumTest, MatchesPlainSums) {
  const uint64_t n = 37, features = 19;
  const std::vector<float> x = testing::CorrelatedRows(n, features, 7);
  InlineExecutor executor;
  auto sum = HessianSum::Create("group", features);
  ASSERT_TRUE(sum.ok());
  ASSERT_TRUE(sum->Add(x.data(), 30, executor).ok());
  ASSERT_TRUE(sum->Add(x.data() + 30 * features, 7, executor).ok());
  auto h = std::move(*sum).Finish(executor);
  ASSERT_TRUE(h.ok());
  for (uint64_t i = 0; i < features; ++i) {
    for (uint64_t j = 0; j < features; ++j) {
      double want = 0;
      for (uint64_t t = 0; t < n; ++t) want += x[t * features + i] * x[t * features + j];
      EXPECT_NEAR(h->as<float>()[i * features + j], want / n, 1e-5);
    }
  }
}

TEST(HessianSumTest, ADeviceGivesTheSame) {
  const uint64_t n = 37, features = 19;
  const std::vector<float> x = testing::CorrelatedRows(n, features, 7);
  InlineExecutor executor;
  const DenseDeviceForTest device(1 << 20);
  std::vector<Tensor> hessians;
  for (const DenseDevice* place :
       {static_cast<const DenseDevice*>(nullptr), static_cast<const DenseDevice*>(&device)}) {
    auto sum = HessianSum::Create("group", features, place);
    ASSERT_TRUE(sum.ok() && sum->Add(x.data(), n, executor).ok());
    hessians.push_back(*std::move(*sum).Finish(executor));
  }
  EXPECT_EQ(std::memcmp(hessians[0].data(), hessians[1].data(), hessians[0].num_bytes()), 0);
  EXPECT_EQ(*device.FreeBytes(), 1u << 20);
}

// Robustness case 48. The first of several is named, whichever thread finds it.
TEST(HessianSumTest, NamesTheGroupOfANan) {
  const uint64_t n = 30000, features = 4;
  auto sum = HessianSum::Create("model.layers.3.mlp.down", features);
  ASSERT_TRUE(sum.ok());
  std::vector<float> x(n * features, 1.0f);
  auto pool = ThreadPool::Create(3);
  for (const uint64_t at : {n * features - 1, n * features / 2, uint64_t{9}}) {
    x[at] = std::numeric_limits<float>::quiet_NaN();
    const Status status = sum->Add(x.data(), n, **pool);
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find("model.layers.3.mlp.down"), std::string::npos);
    const std::string where = fmt::format("token {}, feature {}", at / features, at % features);
    EXPECT_NE(status.message().find(where), std::string::npos) << status.message();
  }
}

// x^T H x for x drawn anew equals x'^T H' x' for x' = Hin (x / si): weights and inputs move
// oppositely.
TEST(RotateHessianTest, KeepsTheQuadraticForm) {
  const uint64_t n = 96;
  const std::vector<float> samples = testing::CorrelatedRows(300, n, 3);
  Tensor h = testing::Gram(samples, n);
  const Tensor original = testing::Copy(h);
  Random random(5, "scales");
  std::vector<float> si(n), w(n), rotated(n);
  for (uint64_t j = 0; j < n; ++j) {
    si[j] = static_cast<float>(random.NextSign() * (0.5 + random.NextUniform()));
    w[j] = static_cast<float>(random.NextNormal());
    rotated[j] = w[j] / si[j];
  }
  BlockHadamard(rotated.data(), n, 48, HadamardSide::kForward);
  auto pool = ThreadPool::Create(2);
  ASSERT_TRUE(pool.ok());
  RotateHessian(si, 48, **pool, h);
  const double want = testing::QuadraticForm(original, w);
  EXPECT_NEAR(testing::QuadraticForm(h, rotated), want, 1e-4 * want);
}

TEST(HessianFactorTest, ReproducesTheDampedHessian) {
  for (const uint64_t n : {1, 16, 127, 128, 129, 300}) {
    Tensor h = testing::Gram(testing::CorrelatedRows(2 * n, n, n), n);
    const Tensor original = testing::Copy(h);
    double mean = 0;
    for (uint64_t i = 0; i < n; ++i)
      mean += original.as<float>()[i * n + i] / static_cast<double>(n);
    auto pool = ThreadPool::Create(2);
    ASSERT_TRUE(pool.ok());
    auto factor = HessianFactor::Create("g", std::move(h), 0.01, **pool);
    ASSERT_TRUE(factor.ok()) << factor.status().message();
    EXPECT_EQ(factor->damping(), 0.01);
    for (uint64_t i = 0; i < n; ++i) {
      for (uint64_t j = 0; j <= i; ++j) {
        const double want = original.as<float>()[i * n + j] + (i == j ? 0.01 * mean : 0.0);
        EXPECT_NEAR(Product(*factor, i, j), want, 2e-5 * mean) << n << " " << i << " " << j;
      }
    }
  }
}

TEST(HessianFactorTest, SameForAnyNumberOfThreads) {
  const uint64_t n = 200;
  const Tensor original = testing::Gram(testing::CorrelatedRows(100, n, 9), n);
  InlineExecutor one;
  auto three = ThreadPool::Create(3);
  ASSERT_TRUE(three.ok());
  auto a = HessianFactor::Create("g", testing::Copy(original), 0.01, one);
  auto b = HessianFactor::Create("g", testing::Copy(original), 0.01, **three);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(std::memcmp(a->lower(), b->lower(), n * n * sizeof(float)), 0);
}

// Robustness case 47.
TEST(HessianFactorTest, SurvivesSingularIndefiniteAndDead) {
  const uint64_t n = 150;
  InlineExecutor executor;
  // One token: rank 1.
  auto singular = HessianFactor::Create("g", testing::Gram(testing::CorrelatedRows(1, n, 1), n),
                                        0.01, executor);
  EXPECT_TRUE(singular.ok());
  // All inputs dead.
  auto zeros = Tensor::Zeros(DType::kF32, {n, n});
  ASSERT_TRUE(zeros.ok());
  auto dead = HessianFactor::Create("g", *std::move(zeros), 0.01, executor);
  ASSERT_TRUE(dead.ok());
  EXPECT_NEAR(Product(*dead, 3, 3), 1.01, 1e-5);
  EXPECT_NEAR(Product(*dead, 140, 3), 0, 1e-5);
  // Some inputs dead.
  Tensor partly = testing::Gram(testing::CorrelatedRows(400, n, 2), n);
  for (uint64_t j = 0; j < n; ++j) {
    partly.mutable_as<float>()[5 * n + j] = partly.mutable_as<float>()[j * n + 5] = 0;
  }
  EXPECT_TRUE(HessianFactor::Create("g", std::move(partly), 0.01, executor).ok());
  // A negative eigenvalue: damping grows until it is gone.
  Tensor indefinite = testing::Gram(testing::CorrelatedRows(400, n, 2), n);
  for (uint64_t i = 0; i < 3; ++i) {
    for (uint64_t j = 0; j < 3; ++j) {
      if (i != j) indefinite.mutable_as<float>()[i * n + j] = -3;
    }
  }
  auto doubled = HessianFactor::Create("g", std::move(indefinite), 0.01, executor);
  ASSERT_TRUE(doubled.ok());
  EXPECT_GT(doubled->damping(), 0.01);
}

// What a device factors without looking at its pivots is looked at here.
TEST(HessianFactorTest, PivotsOfADeviceAreChecked) {
  const uint64_t n = 150;
  const Tensor h = testing::Gram(testing::CorrelatedRows(20, n, 1), n);
  InlineExecutor executor;
  const DenseDeviceForTest device(1 << 20);
  for (const double damping : {1e-12, 0.06}) {
    auto cpu = HessianFactor::Create("g", testing::Copy(h), damping, executor);
    auto other = HessianFactor::Create("g", testing::Copy(h), damping, executor, &device);
    ASSERT_TRUE(cpu.ok() && other.ok());
    EXPECT_EQ(cpu->damping() > damping, damping < 1e-6);
    EXPECT_EQ(other->damping() > damping, damping < 1e-6);
    double mean = 0, worst = 0;
    for (uint64_t i = 0; i < n; ++i) mean += h.as<float>()[i * n + i] / static_cast<double>(n);
    for (uint64_t i = 0; i < n; ++i) {
      for (uint64_t j = 0; j <= i; ++j) {
        const double want = h.as<float>()[i * n + j] + (i == j ? other->damping() * mean : 0);
        worst = std::max(worst, std::abs(Product(*other, i, j) - want));
      }
    }
    EXPECT_LT(worst, 2e-5 * mean);
  }
  const auto refused = HessianFactor::Create(
      "mlp.down", testing::Copy(*Tensor::Zeros(DType::kF32, {600, 600})), 0.06, executor, &device);
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(refused.status().message().find("the Hessian of mlp.down takes 1440000 bytes"),
            std::string::npos)
      << refused.status().message();
}

TEST(HessianFactorTest, RefusesNan) {
  auto h = Tensor::Zeros(DType::kF32, {4, 4});
  ASSERT_TRUE(h.ok());
  h->mutable_as<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  InlineExecutor executor;
  const auto factor =
      HessianFactor::Create("model.layers.1.mlp.down", *std::move(h), 0.01, executor);
  ASSERT_FALSE(factor.ok());
  EXPECT_NE(factor.status().message().find("model.layers.1.mlp.down"), std::string::npos);
}

}  // namespace
}  // namespace tq
