#include "compress/methods/gptq/round_gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "codec/dense_device_for_test.h"
#include "codec/grouped_rounding.h"
#include "compress/output_error.h"
#include "compress/testing.h"
#include "device/thread_pool.h"

namespace tq {
namespace {

using ::testing::HasSubstr;

// Inputs whose channels are correlated and of different strength.
Tensor SomeHessian(uint64_t cols, uint64_t seed) {
  std::vector<float> rows = testing::LowRankRows(4 * cols, cols, seed);
  const std::vector<float> strength = testing::NormalValues(cols, seed + 100);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] *= std::exp(strength[i % cols]);
  return testing::Gram(rows, cols);
}

GroupedLayout Layout(uint64_t rows, uint64_t cols, uint32_t bits, uint32_t group_size,
                     bool symmetric = false, bool ordered = false) {
  GroupedLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.bits = bits;
  layout.group_size = group_size;
  layout.zeros = symmetric ? ZeroKind::kSymmetric : ZeroKind::kPacked;
  layout.ordered = ordered;
  return layout;
}

StatusOr<GroupedMatrix> Gptq(const GroupedLayout& layout, const Tensor& h,
                             const std::vector<float>& w, Executor& executor) {
  TQ_ASSIGN_OR_RETURN(
      const GptqInput input,
      GptqInput::Create("g", h, layout.group_size,
                        layout.ordered ? ColumnOrder::kByActivation : ColumnOrder::kAsStored,
                        executor));
  return RoundGptq(input, layout, w.data(), executor);
}

std::vector<float> Decode(const GroupedMatrix& matrix) {
  std::vector<float> out(matrix.rows * matrix.cols);
  DecodeRows(matrix, 0, matrix.rows, out.data());
  return out;
}

double Loss(const GroupedMatrix& matrix, const Tensor& h, std::vector<float> w) {
  InlineExecutor executor;
  const std::vector<float> decoded = Decode(matrix);
  for (size_t i = 0; i < w.size(); ++i) w[i] -= decoded[i];
  return OutputError(h, w.data(), matrix.rows, executor);
}

// The inverse of a positive definite matrix by Gauss-Jordan elimination.
std::vector<double> Inverse(std::vector<double> a, uint64_t n) {
  std::vector<double> inverse(n * n);
  for (uint64_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (uint64_t k = 0; k < n; ++k) {
    const double pivot = a[k * n + k];
    for (uint64_t j = 0; j < n; ++j) {
      a[k * n + j] /= pivot;
      inverse[k * n + j] /= pivot;
    }
    for (uint64_t i = 0; i < n; ++i) {
      const double factor = a[i * n + k];
      if (i == k || factor == 0) continue;
      for (uint64_t j = 0; j < n; ++j) {
        a[i * n + j] -= factor * a[k * n + j];
        inverse[i * n + j] -= factor * inverse[k * n + j];
      }
    }
  }
  return inverse;
}

// GPTQ as its paper derives it from optimal brain surgery (arXiv 2210.17323, section 3.1 and
// equations 2 and 3), in double: the inverse of H is kept for the columns still to come. Returns
// what W becomes, [rows, cols].
std::vector<float> Textbook(const GroupedLayout& layout, const Tensor& h,
                            const std::vector<float>& weights) {
  const uint64_t n = layout.cols, rows = layout.rows;
  std::vector<uint64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (layout.ordered) {
    std::stable_sort(order.begin(), order.end(), [&](uint64_t a, uint64_t b) {
      return h.as<float>()[a * (n + 1)] > h.as<float>()[b * (n + 1)];
    });
  }
  double mean = 0;
  for (uint64_t i = 0; i < n; ++i) mean += h.as<float>()[i * (n + 1)] / static_cast<double>(n);
  std::vector<double> damped(n * n);
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j < n; ++j) {
      damped[i * n + j] = h.as<float>()[order[i] * n + order[j]] + (i == j ? 0.01 * mean : 0);
    }
  }
  std::vector<double> inverse = Inverse(damped, n), w(rows * n);
  for (uint64_t r = 0; r < rows; ++r) {
    for (uint64_t i = 0; i < n; ++i) w[r * n + i] = weights[r * n + order[i]];
  }
  std::vector<float> result(rows * n);
  std::vector<GroupGrid> grids(rows);
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t r = 0; r < rows; ++r) {
      if (i % layout.group_size == 0) {
        const uint64_t count = std::min<uint64_t>(layout.group_size, n - i);
        const std::vector<double> group(w.begin() + static_cast<ptrdiff_t>(r * n + i),
                                        w.begin() + static_cast<ptrdiff_t>(r * n + i + count));
        const auto [min, max] = std::ranges::minmax(group);
        grids[r] = *MakeGrid(min, max, layout.bits, layout.zeros);
      }
      const double value = grids[r].Nearest(w[r * n + i]);
      result[r * n + order[i]] = static_cast<float>(value);
      const double error = (w[r * n + i] - value) / inverse[i * n + i];
      for (uint64_t j = i; j < n; ++j) w[r * n + j] -= error * inverse[i * n + j];
    }
    // Without column i.
    const std::vector<double> column(inverse.begin() + static_cast<ptrdiff_t>(i * n),
                                     inverse.begin() + static_cast<ptrdiff_t>((i + 1) * n));
    for (uint64_t a = 0; a < n; ++a) {
      for (uint64_t b = 0; b < n; ++b) inverse[a * n + b] -= column[a] * column[b] / column[i];
    }
  }
  return result;
}

// 160 columns fill neither a block of 64 nor one of 128. In floats a value near the middle of two
// levels may fall to the other, and the rest of its row with it: that is rare.
TEST(GptqTest, IsTheTextbooks) {
  InlineExecutor executor;
  constexpr uint64_t kRows = 12, kCols = 160;
  uint64_t differing = 0, all = 0;
  for (const uint32_t bits : {2, 3, 4, 8}) {
    const Tensor h = SomeHessian(kCols, bits);
    for (const uint32_t group_size : {32, 128, 160}) {
      for (const bool symmetric : {false, true}) {
        for (const bool ordered : {false, true}) {
          const GroupedLayout layout = Layout(kRows, kCols, bits, group_size, symmetric, ordered);
          const std::vector<float> w = testing::NormalValues(kRows * kCols, group_size);
          const auto matrix = Gptq(layout, h, w, executor);
          ASSERT_TRUE(matrix.ok()) << matrix.status().message();
          const std::vector<float> got = Decode(*matrix), want = Textbook(layout, h, w);
          uint64_t rows = 0;
          for (uint64_t r = 0; r < kRows; ++r) {
            rows += !std::equal(got.begin() + static_cast<ptrdiff_t>(r * kCols),
                                got.begin() + static_cast<ptrdiff_t>((r + 1) * kCols),
                                want.begin() + static_cast<ptrdiff_t>(r * kCols));
          }
          EXPECT_LE(rows, 2u) << bits << " bits, groups of " << group_size << ", symmetric "
                              << symmetric << ", ordered " << ordered;
          differing += rows;
          all += kRows;
        }
      }
    }
  }
  EXPECT_LE(differing, all / 50);
}

TEST(GptqTest, LosesLessThanRoundingToNearest) {
  InlineExecutor executor;
  constexpr uint64_t kRows = 24, kCols = 192;
  for (uint32_t bits = 2; bits <= 8; ++bits) {
    const Tensor h = SomeHessian(kCols, 20 + bits);
    for (const uint32_t group_size : {32, 64, 128, 192}) {
      for (const bool symmetric : {false, true}) {
        const GroupedLayout layout = Layout(kRows, kCols, bits, group_size, symmetric);
        const std::vector<float> w = testing::NormalValues(kRows * kCols, bits);
        const auto nearest = QuantizeToNearest(w.data(), layout, executor);
        const auto gptq = Gptq(layout, h, w, executor);
        ASSERT_TRUE(nearest.ok() && gptq.ok());
        EXPECT_LT(Loss(*gptq, h, w), 0.9 * Loss(*nearest, h, w))
            << bits << " bits, groups of " << group_size << ", symmetric " << symmetric;
      }
    }
  }
}

TEST(GptqTest, OrderByActivationIsNoWorseOnAverage) {
  InlineExecutor executor;
  constexpr uint64_t kRows = 16, kCols = 128;
  double ordered = 0, stored = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const Tensor h = SomeHessian(kCols, 300 + seed);
    const std::vector<float> w = testing::NormalValues(kRows * kCols, seed);
    for (const bool by_activation : {false, true}) {
      const auto matrix = Gptq(Layout(kRows, kCols, 3, 32, false, by_activation), h, w, executor);
      ASSERT_TRUE(matrix.ok());
      (by_activation ? ordered : stored) += std::log(Loss(*matrix, h, w));
    }
  }
  EXPECT_LE(ordered, stored);
}

TEST(GptqTest, SameForAnyNumberOfThreads) {
  InlineExecutor one;
  const auto three = ThreadPool::Create(3);
  const GroupedLayout layout = Layout(100, 160, 3, 64, false, true);
  const Tensor h = SomeHessian(160, 5);
  const std::vector<float> w = testing::NormalValues(100 * 160, 6);
  const auto a = Gptq(layout, h, w, one), b = Gptq(layout, h, w, **three);
  ASSERT_TRUE(a.ok() && b.ok());
  for (const auto& [x, y] : {std::pair{&a->codes, &b->codes},
                             {&a->scale, &b->scale},
                             {&a->zero, &b->zero},
                             {&a->order, &b->order}}) {
    EXPECT_EQ(std::memcmp(x->data(), y->data(), x->num_bytes()), 0);
  }
}

TEST(GptqTest, FactorsOnADevice) {
  InlineExecutor executor;
  const DenseDeviceForTest device(uint64_t{1} << 30);
  const GroupedLayout layout = Layout(16, 160, 3, 64);
  const Tensor h = SomeHessian(160, 7);
  const std::vector<float> w = testing::NormalValues(16 * 160, 8);
  const auto here = Gptq(layout, h, w, executor);
  const auto input = GptqInput::Create("g", h, 64, ColumnOrder::kAsStored, executor, &device);
  ASSERT_TRUE(here.ok() && input.ok());
  const auto there = RoundGptq(*input, layout, w.data(), executor);
  ASSERT_TRUE(there.ok());
  const double want = Loss(*here, h, w);
  EXPECT_NEAR(Loss(*there, h, w), want, 0.02 * want);
}

// Robustness case 43, case 47: dead inputs, inputs that are all dead, weights of zero.
TEST(GptqTest, DeadInputs) {
  InlineExecutor executor;
  constexpr uint64_t kRows = 4, kCols = 96;
  for (const bool ordered : {false, true}) {
    Tensor h = SomeHessian(kCols, 9);
    for (uint64_t j = 0; j < kCols; ++j) {
      for (const uint64_t dead : {0, 40}) {
        h.mutable_as<float>()[dead * kCols + j] = h.mutable_as<float>()[j * kCols + dead] = 0;
      }
    }
    std::vector<float> w = testing::NormalValues(kRows * kCols, 10);
    std::fill_n(w.begin(), kCols, 0.0f);
    const auto matrix = Gptq(Layout(kRows, kCols, 4, 32, false, ordered), h, w, executor);
    ASSERT_TRUE(matrix.ok()) << matrix.status().message();
    const std::vector<float> decoded = Decode(*matrix);
    for (uint64_t j = 0; j < kCols; ++j) EXPECT_EQ(decoded[j], 0);
    for (uint64_t r = 1; r < kRows; ++r)
      EXPECT_NEAR(decoded[r * kCols + 40], w[r * kCols + 40], 0.6);
    const Tensor zeros = *Tensor::Zeros(DType::kF32, {kCols, kCols});
    EXPECT_TRUE(Gptq(Layout(kRows, kCols, 4, 32, false, ordered), zeros, w, executor).ok());
  }
}

// Robustness case 42, case 44.
TEST(GptqTest, NamesWhatItCannotRound) {
  InlineExecutor executor;
  const Tensor h = SomeHessian(64, 1);
  std::vector<float> w = testing::NormalValues(3 * 64, 1);
  for (const uint32_t group_size : {32, 64}) {
    std::vector<float> bad = w;
    bad[64 + 5] = 1e36f;
    EXPECT_THAT(Gptq(Layout(3, 64, 4, group_size), h, bad, executor).status().message(),
                HasSubstr("row 1 group 0 are too large"));
    bad[2 * 64] = std::numeric_limits<float>::quiet_NaN();
    bad[64 + 5] = 0;
    EXPECT_THAT(Gptq(Layout(3, 64, 4, group_size), h, bad, executor).status().message(),
                HasSubstr("row 2 column 0 is not finite"));
  }
  EXPECT_THAT(Gptq(Layout(3, 64, 4, 48), h, w, executor).status().message(),
              HasSubstr("groups of 48 columns"));
}

}  // namespace
}  // namespace tq
