#include "codec/dense_matmul.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "device/thread_pool.h"
#include "tensor/dtype.h"

namespace tq {
namespace {

std::vector<float> RandomFloats(size_t count, uint64_t seed) {
  Random random(seed, "dense_matmul_test");
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.NextNormal());
  return values;
}

std::unique_ptr<ThreadPool> Pool(size_t threads) {
  auto pool = ThreadPool::Create(threads);
  EXPECT_TRUE(pool.ok());
  return *std::move(pool);
}

TEST(DenseMatmul, SameBitsForAnyThreadsAndBatch) {
  const uint64_t n = 530, k = 70, m = 203;
  const std::vector<float> x = RandomFloats(n * k, 1), w = RandomFloats(m * k, 2);
  std::vector<float> one(n * m), three(n * m), single(m);
  InlineExecutor here;
  auto pool = Pool(3);
  DenseMatmul(x.data(), n, k, w.data(), m, here, one.data());
  DenseMatmul(x.data(), n, k, w.data(), m, *pool, three.data());
  EXPECT_EQ(one, three);
  for (uint64_t i : {uint64_t{0}, uint64_t{5}, uint64_t{512}, n - 1}) {
    DenseMatmul(x.data() + i * k, 1, k, w.data(), m, *pool, single.data());
    EXPECT_TRUE(std::equal(single.begin(), single.end(), one.begin() + i * m)) << i;
  }
  for (uint64_t i = 0; i < n; i += 37) {
    for (uint64_t j = 0; j < m; ++j) {
      double exact = 0, size = 0;
      for (uint64_t p = 0; p < k; ++p) {
        exact += static_cast<double>(x[i * k + p]) * w[j * k + p];
        size += std::abs(static_cast<double>(x[i * k + p]) * w[j * k + p]);
      }
      ASSERT_NEAR(one[i * m + j], exact, std::ldexp((k + 1) * size, -23));
    }
  }
}

TEST(DenseMatmul, BFloat16GivesTheBitsOfItsFloats) {
  InlineExecutor here;
  auto pool = Pool(3);
  for (const auto& [n, k, m] : std::vector<std::array<uint64_t, 3>>{
           {1, 1, 1}, {1, 192, 48}, {1, 500, 203}, {3, 191, 47}, {30, 193, 49}, {530, 70, 100}}) {
    const std::vector<float> x = RandomFloats(n * k, 1);
    std::vector<float> w = RandomFloats(m * k, 2);
    std::vector<uint16_t> narrow;
    for (float& value : w) {
      narrow.push_back(FloatToBFloat16(value));
      value = BFloat16ToFloat(narrow.back());
    }
    std::vector<float> expected(n * m), one(n * m), three(n * m);
    DenseMatmul(x.data(), n, k, w.data(), m, here, expected.data());
    DenseMatmulBFloat16(x.data(), n, k, narrow.data(), m, here, one.data());
    DenseMatmulBFloat16(x.data(), n, k, narrow.data(), m, *pool, three.data());
    EXPECT_EQ(one, expected) << n << " x " << k << " x " << m;
    EXPECT_EQ(three, expected) << n << " x " << k << " x " << m;
  }
}

TEST(AccumulateHessian, SameBitsForAnyThreadsAndCloseToDouble) {
  const uint64_t n = 300, k = 131;
  const std::vector<float> x = RandomFloats(n * k, 6);
  std::vector<float> one(k * k), two(k * k);
  InlineExecutor here;
  auto pool = Pool(2);
  AccumulateHessian(x.data(), n, k, here, one.data());
  AccumulateHessian(x.data(), n, k, *pool, two.data());
  EXPECT_EQ(one, two);
  for (uint64_t i = 0; i < k; ++i) {
    for (uint64_t j = i; j < k; ++j) {
      double exact = 0, size = 0;
      for (uint64_t p = 0; p < n; ++p) {
        exact += static_cast<double>(x[p * k + i]) * x[p * k + j];
        size += std::abs(static_cast<double>(x[p * k + i]) * x[p * k + j]);
      }
      ASSERT_NEAR(one[i * k + j], exact, std::ldexp(195 * size, -23));
    }
  }
}

}  // namespace
}  // namespace tq
