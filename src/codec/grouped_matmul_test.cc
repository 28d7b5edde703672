// Products with grouped matrices against sums made weight by weight; equal to the bit at every
// level, for any number of rows of x and of threads.
#include "codec/grouped_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "base/random.h"
#include "codec/grouped_matrix_for_test.h"
#include "codec/grouped_rounding.h"
#include "device/thread_pool.h"
#include "kernels/fenced_bytes_for_test.h"
#include "kernels/grouped_matmul/grouped_activations.h"

namespace tq {
namespace {

using namespace tq::testing;  // NOLINT: the test support

constexpr float kPoison = -12345.0f;
constexpr ZeroKind kAllZeros[] = {ZeroKind::kHalf, ZeroKind::kPacked, ZeroKind::kSymmetric};

std::vector<Isa> Levels() {
  std::vector<Isa> levels;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) levels.push_back(isa);
  }
  return levels;
}

// Normal, with an outlier here and there as activations of language models have.
std::vector<float> RandomInput(uint64_t n, uint64_t cols) {
  std::vector<float> x(n * cols);
  Random random(28, "x", cols);
  for (float& value : x) {
    value = static_cast<float>(random.NextNormal() * (random.NextBelow(100) == 0 ? 20 : 1));
  }
  return x;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// y from a poisoned buffer whose end is watched.
std::vector<float> Multiply(const GroupedMatrix& matrix, const std::vector<float>& x, uint64_t n,
                            Isa isa, Executor& executor, MatmulPath path = MatmulPath::kFast) {
  const GroupedMatrix* const matrices[] = {&matrix};
  GroupedInput input;
  input.PrepareAt(isa, matrices, x.data(), n, path, executor);
  std::vector<float> y(n * matrix.rows + 16, kPoison);
  float* const out[] = {y.data()};
  GroupedMatmul(matrices, input, executor, out);
  for (uint64_t i = n * matrix.rows; i < y.size(); ++i) {
    EXPECT_EQ(y[i], kPoison) << "written past the end";
  }
  y.resize(n * matrix.rows);
  return y;
}

// The integers of a row of x in the order in which the matrix stores its columns, as floats.
std::vector<float> Rounded(const GroupedMatrix& m, const float* x) {
  const uint64_t blocks = (m.cols + 31) / 32;
  std::vector<float> values(blocks * 32), scale(blocks), sum(blocks);
  std::vector<int8_t> a(blocks * 32);
  for (uint64_t i = 0; i < m.cols; ++i) values[i] = x[m.ordered ? m.order.as<int32_t>()[i] : i];
  grouped::reference::Quantize(values.data(), blocks, a.data(), scale.data(), sum.data());
  for (uint64_t i = 0; i < values.size(); ++i) values[i] = a[i] * scale[i / 32];
  return values;
}

// The product's definition in double, and what the rounding of floats on the way may add to it:
// each block's value and factor, and the total's way through all blocks.
void ExpectProduct(const GroupedMatrix& m, const std::vector<float>& x, uint64_t n,
                   const std::vector<float>& y) {
  const double steps = 6 + static_cast<double>(m.cols) / 32;
  for (uint64_t i = 0; i < n; ++i) {
    const std::vector<float> rounded = Rounded(m, x.data() + i * m.cols);
    for (uint64_t r = 0; r < m.rows; ++r) {
      double sum = 0, magnitude = 0;
      for (uint64_t c = 0; c < m.cols; ++c) {
        const double weight = StoredWeight(m, r, c), part = weight * rounded[c];
        sum += part;
        // Codes and zeros meet the integers apart.
        const double step = HalfToFloat(m.scale.as<uint16_t>()[r * m.groups() + c / m.group_size]);
        magnitude += std::abs(part) + std::abs(step * (1 << m.bits) * rounded[c]);
      }
      ASSERT_NEAR(y[i * m.rows + r], sum, magnitude * steps * 0x1p-24)
          << "row " << r << " of row " << i;
    }
  }
}

TEST(GroupedMatmulTest, EveryLevelGivesTheDefinitionsProduct) {
  InlineExecutor executor;
  struct Sizes {
    uint64_t rows, cols, n;
  };
  int turn = 0;
  for (uint32_t bits = kTernaryBits; bits <= 8; ++bits) {
    for (uint32_t group : {32, 64, 96, 128, 2048}) {
      for (const auto& [rows, cols, n] : {Sizes{1, 1, 1},
                                          {1, 1, 3},
                                          {2, 31, 2},
                                          {5, 32, 4},
                                          {3, 33, 13},
                                          {4, 64, 1},
                                          {31, 100, 5},
                                          {32, 127, 6},
                                          {33, 129, 7},
                                          {40, 300, 12},
                                          {6, 320, 3},
                                          {7, 1100, 2},
                                          {5, 2049, 25}}) {
        ++turn;
        const GroupedLayout layout =
            MakeLayout(rows, cols, bits, group, kAllZeros[turn % 3], turn / 3 % 2 == 0);
        SCOPED_TRACE(fmt::format("{} x {}, {} bits, groups of {}, n {}, zeros {}", rows, cols, bits,
                                 group, n, turn % 3));
        const GroupedMatrix matrix = RandomGrouped(layout, turn);
        const std::vector<float> x = RandomInput(n, cols);
        const std::vector<float> y = Multiply(matrix, x, n, Isa::kReference, executor);
        ASSERT_NO_FATAL_FAILURE(ExpectProduct(matrix, x, n, y));
        for (Isa isa : Levels()) {
          ASSERT_TRUE(SameBits(Multiply(matrix, x, n, isa, executor), y)) << IsaName(isa);
        }
      }
    }
  }
}

// Groups that blocks do not divide, and the reference path: the float product.
TEST(GroupedMatmulTest, OtherGroupsAreMultipliedInFloat) {
  InlineExecutor executor;
  const auto in_float = [&](const GroupedMatrix& matrix, const std::vector<float>& x, uint64_t n) {
    std::vector<float> y(n * matrix.rows);
    GroupedMatmul(matrix, x.data(), n, executor, y.data());
    return y;
  };
  for (uint32_t group : {1, 7, 16, 33, 128}) {
    const GroupedMatrix matrix = RandomGrouped(
        MakeLayout(35, 200, 1 + group % 8, group, ZeroKind::kPacked, group % 2 == 0), group);
    for (uint64_t n : {1, 2, 7}) {
      const std::vector<float> x = RandomInput(n, 200);
      const MatmulPath path = group == 128 ? MatmulPath::kReference : MatmulPath::kFast;
      EXPECT_TRUE(
          SameBits(Multiply(matrix, x, n, CurrentIsa(), executor, path), in_float(matrix, x, n)));
    }
  }
}

// 8 bits for activations are little beside 4 for weights: 0.6 % of the product in the mean, where
// rounding the weights themselves takes 10 %.
TEST(GroupedMatmulTest, IsCloseToTheFloatProduct) {
  InlineExecutor executor;
  const uint64_t rows = 256, cols = 2048;
  std::vector<float> w(rows * cols), x(cols);
  Random random(4, "close");
  for (float& value : w) value = static_cast<float>(random.NextNormal());
  for (float& value : x) value = static_cast<float>(random.NextNormal());
  const GroupedMatrix matrix = *QuantizeToNearest(w.data(), rows, cols, 4, 128, executor);
  const std::vector<float> fast = Multiply(matrix, x, 1, CurrentIsa(), executor);
  const std::vector<float> exact =
      Multiply(matrix, x, 1, CurrentIsa(), executor, MatmulPath::kReference);
  double activations = 0, weights = 0, all = 0;
  for (uint64_t r = 0; r < rows; ++r) {
    double y = 0;
    for (uint64_t c = 0; c < cols; ++c) {
      y += static_cast<double>(w[r * cols + c]) * static_cast<double>(x[c]);
    }
    activations += std::pow(static_cast<double>(fast[r] - exact[r]), 2);
    weights += std::pow(static_cast<double>(exact[r]) - y, 2);
    all += y * y;
  }
  EXPECT_LT(std::sqrt(activations / all), 0.008);
  EXPECT_GT(std::sqrt(weights / all), 0.08);
}

TEST(GroupedMatmulTest, NeitherCompanyNorThreadsMatter) {
  InlineExecutor here;
  auto pool = *ThreadPool::Create(3);
  for (uint32_t bits : {kTernaryBits, 2u, 3u, 4u, 8u}) {
    const uint64_t rows = 133, cols = 700, n = 300;
    const GroupedMatrix matrix =
        RandomGrouped(MakeLayout(rows, cols, bits, 128, ZeroKind::kHalf, bits == 4), bits);
    const std::vector<float> x = RandomInput(n, cols);
    const std::vector<float> all = Multiply(matrix, x, n, CurrentIsa(), *pool);
    for (uint64_t count : {1, 2, 3, 12, 13, 40}) {
      const std::vector<float> part(x.end() - count * cols, x.end());
      const std::vector<float> expected(all.end() - count * rows, all.end());
      for (Executor* executor :
           {static_cast<Executor*>(&here), static_cast<Executor*>(pool.get())}) {
        ASSERT_TRUE(SameBits(Multiply(matrix, part, count, CurrentIsa(), *executor), expected))
            << "bits " << bits << " n " << count;
      }
    }
  }
}

// Robustness case 48.
TEST(GroupedMatmulTest, NonFiniteRowsStayApart) {
  InlineExecutor executor;
  const uint64_t rows = 37, cols = 90;
  const GroupedMatrix matrix = RandomGrouped(MakeLayout(rows, cols, 4, 32), 1);
  for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    for (uint64_t n : {1, 2, 5}) {
      std::vector<float> x = RandomInput(n, cols);
      const std::vector<float> good = Multiply(matrix, x, n, CurrentIsa(), executor);
      x[(n - 1) * cols + 47] = bad;
      for (Isa isa : Levels()) {
        const std::vector<float> y = Multiply(matrix, x, n, isa, executor);
        for (uint64_t i = 0; i < y.size(); ++i) {
          if (i / rows == n - 1) {
            EXPECT_TRUE(std::isnan(y[i]));
          } else {
            EXPECT_EQ(y[i], good[i]);
          }
        }
      }
    }
  }
}

// Matrices of one input, of several widths, orders and groups, some of them in float, give what
// each gives alone; the input is used again for other sizes.
TEST(GroupedMatmulTest, MatricesOfOneInputTogether) {
  auto pool = *ThreadPool::Create(2);
  GroupedInput input;
  for (uint64_t cols : {200, 64}) {
    std::vector<GroupedMatrix> made;
    for (uint32_t i = 0; i < 6; ++i) {
      made.push_back(RandomGrouped(
          MakeLayout(20 + 13 * i, cols, 1 + i, i == 4 ? 16 : 32, kAllZeros[i % 3], i % 2 == 1), i));
    }
    // The order of another, in memory of its own.
    made.push_back(made[1]);
    made[6].order =
        *Tensor::FromBytes(DType::kI32, {cols}, {made[1].order.data(), made[1].order.num_bytes()});
    std::vector<const GroupedMatrix*> matrices;
    for (const GroupedMatrix& matrix : made) matrices.push_back(&matrix);
    for (uint64_t n : {9, 1, 3}) {
      const std::vector<float> x = RandomInput(n, cols);
      std::vector<std::vector<float>> y;
      std::vector<float*> out;
      for (const GroupedMatrix& matrix : made) y.emplace_back(n * matrix.rows, kPoison);
      for (std::vector<float>& each : y) out.push_back(each.data());
      input.Prepare(matrices, x.data(), n, MatmulPath::kFast, *pool);
      EXPECT_EQ(input.FindOperand(made[1]), input.FindOperand(made[6]));
      EXPECT_NE(input.FindOperand(made[1]), input.FindOperand(made[5]));
      GroupedMatmul(matrices, input, *pool, out);
      for (size_t i = 0; i < made.size(); ++i) {
        EXPECT_TRUE(SameBits(y[i], Multiply(made[i], x, n, CurrentIsa(), *pool))) << i;
      }
    }
  }
}

TEST(GroupedMatmulTest, ReadsOnlyTheMatrix) {
  InlineExecutor executor;
  for (uint32_t bits = kTernaryBits; bits <= 8; ++bits) {
    for (uint64_t cols : {30, 129, 515}) {
      GroupedMatrix matrix =
          RandomGrouped(MakeLayout(35, cols, bits, 32, ZeroKind::kPacked, true), cols);
      const GroupedMatrix as_made = matrix;
      for (bool at_end : {false, true}) {
        const auto fence = [&](Tensor& tensor) {
          const auto fenced =
              std::make_shared<FencedBytes>(std::span(tensor.data(), tensor.num_bytes()), at_end);
          tensor = Tensor({tensor.dtype(), tensor.shape(), fenced->data()}, fenced);
        };
        for (Tensor* tensor : {&matrix.codes, &matrix.scale, &matrix.zero, &matrix.order}) {
          if (tensor->data() != nullptr) fence(*tensor);
        }
        for (uint64_t n : {1, 5}) {
          const std::vector<float> x = RandomInput(n, cols);
          for (Isa isa : Levels()) {
            ASSERT_TRUE(SameBits(Multiply(matrix, x, n, isa, executor),
                                 Multiply(as_made, x, n, isa, executor)));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tq
