#include "compress/feedback.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "compress/testing.h"

namespace tq {
namespace {

// Rounds every value to a multiple of `step`.
BlockRounder Grid(uint64_t rows, uint64_t block, float step) {
  return [=](uint64_t, const float* target, float* decoded) {
    for (uint64_t i = 0; i < rows * block; ++i) decoded[i] = step * std::round(target[i] / step);
  };
}

struct Problem {
  uint64_t rows = 5, cols;
  std::vector<float> w;
  Tensor h;  // damped like the factor
  std::optional<HessianFactor> factor;

  explicit Problem(uint64_t n) : cols(n), w(testing::NormalValues(rows * n, 4)) {
    h = testing::Gram(testing::LowRankRows(4 * n, n, 11), n);
    InlineExecutor executor;
    factor = *HessianFactor::Create("g", testing::Copy(h), 0.01, executor);
    double mean = 0;
    for (uint64_t i = 0; i < n; ++i) mean += h.as<float>()[i * n + i] / static_cast<double>(n);
    for (uint64_t i = 0; i < n; ++i)
      h.mutable_as<float>()[i * n + i] += static_cast<float>(0.01 * mean);
  }
  double Form(const std::vector<float>& a) const {
    double sum = 0;
    for (uint64_t r = 0; r < rows; ++r) {
      sum += testing::QuadraticForm(h, std::span(a).subspan(r * cols, cols));
    }
    return sum;
  }
};

TEST(FeedbackTest, NormIsTheQuadraticForm) {
  for (const uint64_t cols : {16, 48, 130, 272}) {
    const Problem p(cols);
    const Feedback feedback(&*p.factor, cols, 16);
    const double want = p.Form(p.w);
    EXPECT_NEAR(feedback.Norm(p.w.data(), p.rows), want, 1e-4 * want) << cols;
  }
}

// The returned loss is that of the error left in w, and w - error is on the grid.
TEST(FeedbackTest, LossIsThatOfTheError) {
  for (const uint64_t block : {16, 32}) {
    for (const uint64_t cols : {16, 40, 130, 272}) {
      const Problem p(cols);
      const Feedback feedback(&*p.factor, cols, block);
      std::vector<float> error = p.w;
      const double loss = feedback.Round(error.data(), p.rows, Grid(p.rows, block, 0.5f));
      const double want = p.Form(error);
      EXPECT_NEAR(loss, want, 1e-3 * want) << block << " " << cols;
      for (size_t i = 0; i < error.size(); ++i) {
        const float what = p.w[i] - error[i];
        EXPECT_NEAR(what, 0.5f * std::round(what / 0.5f), 1e-5);
      }
    }
  }
}

TEST(FeedbackTest, BeatsPlainRounding) {
  const Problem p(272);
  const Feedback with(&*p.factor, p.cols, 16), without(nullptr, p.cols, 16);
  std::vector<float> error = p.w, plain = p.w;
  const double loss = with.Round(error.data(), p.rows, Grid(p.rows, 16, 1.0f));
  const double plain_loss = without.Round(plain.data(), p.rows, Grid(p.rows, 16, 1.0f));
  double squares = 0;
  for (float e : plain) squares += e * e;
  EXPECT_NEAR(plain_loss, squares, 1e-3);
  EXPECT_LT(loss, 0.6 * p.Form(plain));
}

// A row's result does not depend on the rows beside it.
TEST(FeedbackTest, RowsAreIndependent) {
  const Problem p(130);
  const Feedback feedback(&*p.factor, p.cols, 16);
  std::vector<float> all = p.w;
  feedback.Round(all.data(), p.rows, Grid(p.rows, 16, 0.5f));
  for (uint64_t r = 0; r < p.rows; ++r) {
    std::vector<float> one(p.w.begin() + r * p.cols, p.w.begin() + (r + 1) * p.cols);
    feedback.Round(one.data(), 1, Grid(1, 16, 0.5f));
    for (uint64_t j = 0; j < p.cols; ++j) EXPECT_EQ(one[j], all[r * p.cols + j]);
  }
}

}  // namespace
}  // namespace tq
