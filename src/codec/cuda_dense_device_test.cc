// Float32 products, sums and factors of a CUDA device against those of the processor. Needs a
// device, cuBLAS and cuSOLVER.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "codec/dense_device.h"
#include "codec/dense_matmul.h"
#include "device/thread_pool.h"
#include "kernels/cuda/device_test.h"

namespace tq {
namespace {

constexpr double kEpsilon = 1.0 / (1 << 24);  // of float's rounding

class DenseDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    TQ_SKIP_WITHOUT_DEVICE();
    auto device = MakeCudaDenseDevice();
    ASSERT_TRUE(device.ok()) << device.status().message();
    device_ = *std::move(device);
    pool_ = *ThreadPool::Create(3);
  }

  std::shared_ptr<const DenseDevice> device_;
  std::unique_ptr<ThreadPool> pool_;
};

std::vector<float> NormalValues(uint64_t n, std::string_view name) {
  Random random(3, name);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.NextNormal());
  return values;
}

double Norm(const float* x, uint64_t n) {
  double sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return std::sqrt(sum);
}

// Sums of k products of normal values err by some epsilons of |x| |w| in float; factors cut to
// TF32 (11 bits) would err by 2^-12 / sqrt(k) of it, 130 epsilons at k = 1000.
TEST_F(DenseDeviceTest, ProductsAreTheProcessors) {
  struct Case {
    uint64_t n, in;
    std::vector<uint64_t> out;
  };
  // The last does not fit into the staging memory at once.
  for (const Case& c :
       {Case{1, 1, {1}}, Case{1, 64, {33, 7, 1}}, Case{3, 7, {5}}, Case{17, 300, {257, 64}},
        Case{264, 1000, {127, 31}}, Case{5003, 1000, {3001}}}) {
    SCOPED_TRACE(fmt::format("n {}, in {}, out[0] {}", c.n, c.in, c.out[0]));
    const std::vector<float> x = NormalValues(c.n * c.in, "x");
    std::vector<Tensor> matrices;
    std::vector<std::vector<float>> results;
    std::vector<float*> y;
    for (const uint64_t out : c.out) {
      matrices.push_back(*Tensor::FromValues<float>(
          DType::kF32, {out, c.in}, NormalValues(out * c.in, fmt::format("w{}", out))));
      results.emplace_back(c.n * out, -1.0f);
    }
    for (auto& result : results) y.push_back(result.data());
    const auto weights = device_->Upload(matrices, "weights");
    ASSERT_TRUE(weights.ok()) << weights.status().message();
    const Status status = (*weights)->Multiply(x.data(), c.n, *pool_, y);
    ASSERT_TRUE(status.ok()) << status.message();
    for (size_t m = 0; m < matrices.size(); ++m) {
      const uint64_t out = c.out[m];
      const float* w = matrices[m].as<float>();
      std::vector<float> want(c.n * out);
      DenseMatmul(x.data(), c.n, c.in, w, out, *pool_, want.data());
      std::vector<double> w_norms(out);
      for (uint64_t j = 0; j < out; ++j) w_norms[j] = Norm(w + j * c.in, c.in);
      double worst = 0;
      for (uint64_t i = 0; i < c.n; ++i) {
        const double x_norm = Norm(x.data() + i * c.in, c.in);
        for (uint64_t j = 0; j < out; ++j) {
          const double error =
              std::abs(static_cast<double>(results[m][i * out + j]) - want[i * out + j]);
          worst = std::max(worst, error / (x_norm * w_norms[j]));
        }
      }
      EXPECT_LT(worst, 32 * kEpsilon);
    }
  }
}

TEST_F(DenseDeviceTest, ProductsAreTheSameEveryTime) {
  const uint64_t n = 100, in = 777, out = 513;
  const std::vector<float> x = NormalValues(n * in, "x");
  const Tensor w = *Tensor::FromValues<float>(DType::kF32, {out, in}, NormalValues(out * in, "w"));
  std::vector<float> results[2];
  for (auto& result : results) {
    result.resize(n * out);
    const auto weights = device_->Upload({&w, 1}, "weights");
    ASSERT_TRUE(weights.ok()) << weights.status().message();
    ASSERT_TRUE((*weights)->Multiply(x.data(), n, *pool_, std::array{result.data()}).ok());
  }
  EXPECT_EQ(results[0], results[1]);
}

// Sums of n products in float: tolerance 1e-5 of the diagonal.
TEST_F(DenseDeviceTest, SumsOfSquaresAreTheProcessors) {
  // Counts on either side of the rows that are gathered.
  for (const uint64_t n :
       {uint64_t{1}, uint64_t{37}, DenseDevice::kGramRows, 2 * DenseDevice::kGramRows + 501}) {
    for (const uint64_t features : {1, 5, 31, 64, 333}) {
      SCOPED_TRACE(fmt::format("n {}, features {}", n, features));
      const std::vector<float> x = NormalValues(n * features, "x");
      std::vector<float> want(features * features);
      AccumulateHessian(x.data(), n, features, *pool_, want.data());
      std::vector<float> sums[2];
      for (auto& sum : sums) {
        sum.assign(features * features, -1.0f);
        auto gram = device_->NewGram(features, "a sum");
        ASSERT_TRUE(gram.ok()) << gram.status().message();
        // At once, and in uneven pieces.
        uint64_t piece = &sum == &sums[0] ? n : 1;
        for (uint64_t done = 0; done < n; done += piece, piece = 3 * piece + 1) {
          piece = std::min(piece, n - done);
          ASSERT_TRUE((*gram)->Add(x.data() + done * features, piece, *pool_).ok());
        }
        const Status status = (*gram)->Read(sum.data());
        ASSERT_TRUE(status.ok()) << status.message();
      }
      EXPECT_EQ(sums[0], sums[1]);
      for (uint64_t i = 0; i < features; ++i) {
        for (uint64_t j = 0; j < features; ++j) {
          const float value = sums[0][i * features + j];
          if (j < i) {
            EXPECT_EQ(value, 0);
            continue;
          }
          const double scale =
              std::sqrt(static_cast<double>(want[i * features + i]) * want[j * features + j]);
          EXPECT_NEAR(value, want[i * features + j], 1e-5 * scale) << i << " " << j;
        }
      }
    }
  }
}

// x^T x / n + 0.1 of 2 n rows x: float [n, n].
std::vector<float> PositiveDefinite(uint64_t n, Executor& executor) {
  const std::vector<float> x = NormalValues(2 * n * n, "rows");
  std::vector<float> a(n * n);
  AccumulateHessian(x.data(), 2 * n, n, executor, a.data());
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = i; j < n; ++j) {
      a[i * n + j] = a[i * n + j] / static_cast<float>(n) + (i == j ? 0.1f : 0.0f);
      a[j * n + i] = a[i * n + j];
    }
  }
  return a;
}

TEST_F(DenseDeviceTest, FactorsGiveTheMatrix) {
  for (const uint64_t n : {1, 2, 31, 64, 129, 1500}) {
    SCOPED_TRACE(fmt::format("n {}", n));
    const std::vector<float> a = PositiveDefinite(n, *pool_);
    std::vector<float> c = a;
    const StatusOr<bool> factored = device_->FactorLower(n, c.data(), "a factor");
    ASSERT_TRUE(factored.ok()) << factored.status().message();
    ASSERT_TRUE(*factored);
    const uint64_t step = n / 100 + 1;  // of the entries that are looked at
    for (uint64_t i = 0; i < n; i += step) {
      for (uint64_t j = 0; j <= i; j += step) {
        double sum = 0;
        for (uint64_t k = 0; k <= j; ++k) {
          sum += static_cast<double>(c[i * n + k]) * c[j * n + k];
        }
        EXPECT_NEAR(sum, a[i * n + j], 2e-5) << i << " " << j;
      }
    }
    // The upper triangle is for another attempt.
    for (uint64_t i = 0; i < n; ++i) {
      ASSERT_EQ(std::memcmp(c.data() + i * n + i + 1, a.data() + i * n + i + 1,
                            (n - i - 1) * sizeof(float)),
                0)
          << i;
    }
  }
}

TEST_F(DenseDeviceTest, WhatHasNoFactorStaysAsItWas) {
  for (const uint64_t n : {1, 40, 300}) {
    std::vector<float> a = PositiveDefinite(n, *pool_);
    a[n * n - 1] = -1;
    std::vector<float> c = a;
    const StatusOr<bool> factored = device_->FactorLower(n, c.data(), "a factor");
    ASSERT_TRUE(factored.ok()) << factored.status().message();
    EXPECT_FALSE(*factored);
    EXPECT_EQ(c, a);
  }
}

// Robustness case 72.
TEST_F(DenseDeviceTest, TooLittleMemoryIsAnErrorThatSaysHowMuch) {
  const StatusOr<uint64_t> free = device_->FreeBytes();
  ASSERT_TRUE(free.ok());
  const auto features = static_cast<uint64_t>(std::sqrt(static_cast<double>(*free) / 4)) + 1000;
  const auto gram = device_->NewGram(features, "the Hessian of down");
  ASSERT_FALSE(gram.ok());
  EXPECT_EQ(gram.status().code(), StatusCode::kResourceExhausted);
  for (const std::string& part :
       {std::string("the Hessian of down"), fmt::format("{}", DenseDevice::GramBytes(features))}) {
    EXPECT_THAT(gram.status().message(), testing::HasSubstr(part));
  }
  // The device is of use still.
  EXPECT_TRUE(device_->NewGram(10, "a sum").ok());
}

}  // namespace
}  // namespace tq
