// Hessians and their factors on a CUDA device against those of the processor. Needs a device,
// cuBLAS and cuSOLVER.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "compress/calibrate.h"
#include "compress/hessian.h"
#include "compress/testing.h"
#include "device/thread_pool.h"
#include "kernels/cuda/device_test.h"
#include "model/memory_source_for_test.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

class HessianDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TQ_SKIP_WITHOUT_DEVICE();
    auto device = MakeCudaDenseDevice();
    ASSERT_TRUE(device.ok()) << device.status().message();
    device_ = *std::move(device);
    pool_ = *ThreadPool::Create(3);
  }
  HessianFactor Factor(const Tensor& h, double damping, const DenseDevice* device) {
    auto factor = HessianFactor::Create("g", testing::Copy(h), damping, *pool_, device);
    EXPECT_TRUE(factor.ok()) << factor.status().message();
    return *std::move(factor);
  }

  std::shared_ptr<const DenseDevice> device_;
  std::unique_ptr<ThreadPool> pool_;
};

double MeanDiagonal(const Tensor& h) {
  const uint64_t n = h.shape()[0];
  double sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += h.as<float>()[i * n + i];
  return sum / static_cast<double>(n);
}

// Largest difference of the lower triangles.
double Difference(const HessianFactor& a, const HessianFactor& b) {
  double worst = 0;
  for (uint64_t i = 0; i < a.n(); ++i) {
    for (uint64_t j = 0; j <= i; ++j) {
      worst = std::max(worst, std::abs(static_cast<double>(a.lower()[i * a.n() + j]) -
                                       b.lower()[i * a.n() + j]));
    }
  }
  return worst;
}

// Largest difference of C C^T from H with its damping.
double FactorError(const HessianFactor& factor, const Tensor& h) {
  const uint64_t n = factor.n();
  const double added = factor.damping() * MeanDiagonal(h);
  double worst = 0;
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (uint64_t k = 0; k <= j; ++k) {
        sum += static_cast<double>(factor.lower()[i * n + k]) * factor.lower()[j * n + k];
      }
      const double want = h.as<float>()[i * n + j] + (i == j ? added : 0);
      worst = std::max(worst, std::abs(sum - want));
    }
  }
  return worst;
}

// Float sums of the same products in another order: 1e-5 of the diagonal, which is 1.
TEST_F(HessianDeviceTest, SumsAreTheProcessors) {
  for (const uint64_t features : {1, 19, 64, 333}) {
    for (const std::vector<uint64_t>& counts :
         {std::vector<uint64_t>{1}, {1, 1, 30}, {700, 700, 700, 3}}) {
      SCOPED_TRACE(fmt::format("{} features, {} adds", features, counts.size()));
      auto cpu = HessianSum::Create("group", features);
      auto cuda = HessianSum::Create("group", features, device_.get());
      ASSERT_TRUE(cpu.ok() && cuda.ok()) << cuda.status().message();
      for (const uint64_t n : counts) {
        const std::vector<float> x = testing::CorrelatedRows(n, features, n);
        ASSERT_TRUE(cpu->Add(x.data(), n, *pool_).ok());
        ASSERT_TRUE(cuda->Add(x.data(), n, *pool_).ok());
      }
      EXPECT_EQ(cuda->count(), cpu->count());
      const auto want = std::move(*cpu).Finish(*pool_);
      const auto got = std::move(*cuda).Finish(*pool_);
      ASSERT_TRUE(want.ok() && got.ok()) << got.status().message();
      for (uint64_t i = 0; i < features; ++i) {
        for (uint64_t j = 0; j < features; ++j) {
          EXPECT_NEAR(got->as<float>()[i * features + j], want->as<float>()[i * features + j],
                      1e-5 * std::max(1.0, MeanDiagonal(*want)));
          EXPECT_EQ(got->as<float>()[i * features + j], got->as<float>()[j * features + i]);
        }
      }
    }
  }
}

// Robustness case 48.
TEST_F(HessianDeviceTest, NamesTheGroupOfANan) {
  auto sum = HessianSum::Create("model.layers.3.mlp.down", 4, device_.get());
  ASSERT_TRUE(sum.ok()) << sum.status().message();
  std::vector<float> x(12, 1.0f);
  ASSERT_TRUE(sum->Add(x.data(), 3, *pool_).ok());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -INFINITY}) {
    x[9] = bad;
    const Status status = sum->Add(x.data(), 3, *pool_);
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr("model.layers.3.mlp.down"));
    EXPECT_THAT(status.message(), HasSubstr("token 5, feature 1"));
  }
}

// Both factor H + damping; the condition number of these, about 100, multiplies float's rounding in
// the entries of C.
TEST_F(HessianDeviceTest, FactorsAreTheProcessors) {
  for (const uint64_t n : {1, 16, 127, 128, 129, 300, 517}) {
    SCOPED_TRACE(fmt::format("n {}", n));
    const Tensor h = testing::Gram(testing::CorrelatedRows(2 * n, n, n), n);
    const HessianFactor cpu = Factor(h, 0.06, nullptr), cuda = Factor(h, 0.06, device_.get());
    EXPECT_EQ(cuda.damping(), 0.06);
    EXPECT_LT(FactorError(cuda, h), 2e-5 * MeanDiagonal(h));
    EXPECT_LT(Difference(cpu, cuda), 1e-4 * std::sqrt(MeanDiagonal(h)));
  }
}

// Robustness case 47: too little damping for float is doubled, and what comes out factors H with
// the damping that was needed.
TEST_F(HessianDeviceTest, DampingGrowsUntilPivotsAreSound) {
  const uint64_t n = 150;
  const Tensor singular = testing::Gram(testing::CorrelatedRows(20, n, 1), n);
  Tensor indefinite = testing::Gram(testing::CorrelatedRows(400, n, 2), n);
  for (uint64_t i = 0; i < 3; ++i) {
    for (uint64_t j = 0; j < 3; ++j) {
      if (i != j) indefinite.mutable_as<float>()[i * n + j] = -3;
    }
  }
  for (const auto& [h, damping] : {std::pair(&singular, 1e-12), {&indefinite, 0.01}}) {
    const HessianFactor cpu = Factor(*h, damping, nullptr);
    const HessianFactor cuda = Factor(*h, damping, device_.get());
    EXPECT_GT(cpu.damping(), damping);
    EXPECT_GT(cuda.damping(), damping);
    EXPECT_LT(FactorError(cuda, *h), 2e-5 * MeanDiagonal(*h));
  }
  // With the damping of TrellisSettings no doubling is needed.
  EXPECT_EQ(Factor(singular, 0.06, device_.get()).damping(), 0.06);
}

TEST_F(HessianDeviceTest, DeadInputsAreTheIdentity) {
  const Tensor zeros = *Tensor::Zeros(DType::kF32, {140, 140});
  const HessianFactor cpu = Factor(zeros, 0.06, nullptr), cuda = Factor(zeros, 0.06, device_.get());
  EXPECT_EQ(cuda.damping(), 0.06);
  EXPECT_LT(Difference(cpu, cuda), 1e-6);
}

TEST_F(HessianDeviceTest, RefusesNan) {
  for (const uint64_t at : {5u, 1u}) {  // on the diagonal and above it
    Tensor h = testing::Gram(testing::CorrelatedRows(8, 4, 1), 4);
    h.mutable_as<float>()[at] = std::numeric_limits<float>::quiet_NaN();
    const auto factor =
        HessianFactor::Create("model.layers.1.mlp.down", std::move(h), 0.06, *pool_, device_.get());
    ASSERT_FALSE(factor.ok());
    EXPECT_EQ(factor.status().code(), StatusCode::kDataLoss);
    EXPECT_THAT(factor.status().message(), HasSubstr("model.layers.1.mlp.down"));
  }
}

TEST_F(HessianDeviceTest, AreTheSameEveryTime) {
  const uint64_t features = 200, n = 1500;
  const std::vector<float> x = testing::CorrelatedRows(n, features, 1);
  std::vector<Tensor> hessians;
  std::vector<HessianFactor> factors;
  for (int run = 0; run < 2; ++run) {
    auto sum = HessianSum::Create("group", features, device_.get());
    ASSERT_TRUE(sum.ok() && sum->Add(x.data(), n, *pool_).ok());
    hessians.push_back(*std::move(*sum).Finish(*pool_));
    factors.push_back(Factor(hessians.back(), 0.06, device_.get()));
  }
  EXPECT_EQ(std::memcmp(hessians[0].data(), hessians[1].data(), hessians[0].num_bytes()), 0);
  EXPECT_EQ(Difference(factors[0], factors[1]), 0);
}

// Layers run on both; rounding grows from layer to layer: 1e-4 of the mean diagonal.
TEST_F(HessianDeviceTest, ALayersHessiansAreTheProcessors) {
  const MemorySource source = RandomSource(SmallConfig(), 1);
  CalibrationTokens tokens;
  tokens.context = 24;
  Random random(1, "tokens");
  for (uint64_t i = 0; i < 30 * tokens.context; ++i) {
    tokens.ids.push_back(static_cast<int32_t>(random.NextBelow(SmallConfig().vocab_size)));
  }
  auto cpu = CalibrationStream::Create(source, tokens, 1 << 30, "");
  auto cuda = CalibrationStream::Create(source, tokens, 1 << 30, "", device_.get());
  ASSERT_TRUE(cpu.ok() && cuda.ok());
  const auto compare = [&](HessianSum of_cpu, HessianSum of_cuda) {
    SCOPED_TRACE(of_cuda.name());
    EXPECT_EQ(of_cpu.count(), of_cuda.count());
    const Tensor want = *std::move(of_cpu).Finish(*pool_);
    const Tensor got = *std::move(of_cuda).Finish(*pool_);
    for (uint64_t i = 0; i < want.num_elements(); ++i) {
      // Keys and values are rounded to half precision between: to another neighbour here and there.
      ASSERT_NEAR(got.as<float>()[i], want.as<float>()[i], 1e-3 * MeanDiagonal(want)) << i;
    }
  };
  for (uint32_t layer = 0; layer < SmallConfig().num_layers; ++layer) {
    std::set<std::string> groups;
    for (const char* group : {"self_attn.qkv", "self_attn.o", "mlp.gate_up", "mlp.down"}) {
      groups.insert(fmt::format("model.layers.{}.{}", layer, group));
    }
    auto a = cpu->RunLayer(groups, *pool_);
    auto b = cuda->RunLayer(groups, *pool_);
    ASSERT_TRUE(a.ok() && b.ok()) << b.status().message();
    ASSERT_EQ(b->size(), 4u);
    for (size_t i = 0; i < 4; ++i) compare(std::move((*a)[i]), std::move((*b)[i]));
  }
  auto a = cpu->HeadInput(*pool_), b = cuda->HeadInput(*pool_);
  ASSERT_TRUE(a.ok() && b.ok()) << b.status().message();
  compare(*std::move(a), *std::move(b));
}

}  // namespace
}  // namespace tq
