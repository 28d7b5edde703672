#include "compress/feedback.h"

#include <algorithm>

#include "base/checked.h"
#include "kernels/gemm/gemm_f32.h"

namespace tq {
namespace {

// Inverse of a lower triangular matrix, float [n, n], by forward substitution in double.
void InvertLower(const float* lower, uint64_t stride, uint64_t n, float* inverse,
                 uint64_t inverse_stride) {
  std::vector<double> column(n);
  for (uint64_t j = 0; j < n; ++j) {
    for (uint64_t i = 0; i < n; ++i) {
      double sum = i == j ? 1.0 : 0.0;
      for (uint64_t k = j; k < i; ++k) sum -= lower[i * stride + k] * column[k];
      column[i] = i < j ? 0.0 : sum / lower[i * stride + i];
      inverse[i * inverse_stride + j] = static_cast<float>(column[i]);
    }
  }
}

double SumOfSquares(const float* values, uint64_t n) {
  double sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += static_cast<double>(values[i]) * values[i];
  return sum;
}

}  // namespace

std::vector<float> InvertDiagonal(const HessianFactor& factor, uint64_t block) {
  const uint64_t n = factor.n();
  std::vector<float> inverses(CeilDiv(n, block) * block * block, 0.0f);
  for (uint64_t j = 0; j < n; j += block) {
    InvertLower(factor.lower() + j * n + j, n, std::min(block, n - j), inverses.data() + j * block,
                block);
  }
  return inverses;
}

Feedback::Feedback(const HessianFactor* factor, uint64_t cols, uint64_t block)
    : factor_(factor), cols_(cols), block_(block) {
  TQ_CHECK(kSuperBlock % block == 0);
  if (factor == nullptr) return;
  TQ_CHECK(factor->n() == cols);
  inverses_ = InvertDiagonal(*factor, block);
}

void Feedback::ProductBelow(const float* a, uint64_t rows, uint64_t begin, uint64_t end,
                            float* out) const {
  const uint64_t width = end - begin;
  if (factor_ == nullptr || end == cols_) {
    std::fill_n(out, rows * width, 0.0f);
    return;
  }
  gemm::MatmulNn({.n = rows,
                  .m = width,
                  .k = cols_ - end,
                  .a = a + end,
                  .lda = cols_,
                  .b = factor_->lower() + end * cols_ + begin,
                  .ldb = cols_,
                  .c = out,
                  .ldc = width});
}

double Feedback::Norm(const float* w, uint64_t rows) const {
  if (factor_ == nullptr) return SumOfSquares(w, rows * cols_);
  const float* c = factor_->lower();
  std::vector<float> product(rows * kSuperBlock);
  double norm = 0;
  for (uint64_t begin = 0; begin < cols_; begin += kSuperBlock) {
    const uint64_t end = std::min(begin + kSuperBlock, cols_);
    const uint64_t width = end - begin;
    ProductBelow(w, rows, begin, end, product.data());
    for (uint64_t r = 0; r < rows; ++r) {
      float* out = product.data() + r * width;
      for (uint64_t i = 0; i < width; ++i) {
        const float value = w[r * cols_ + begin + i];
        const float* c_row = c + (begin + i) * cols_ + begin;
        for (uint64_t j = 0; j <= i; ++j) out[j] += value * c_row[j];
      }
    }
    norm += SumOfSquares(product.data(), rows * width);
  }
  return norm;
}

double Feedback::RoundBlock(float* w, uint64_t rows, uint64_t super, uint64_t width,
                            uint64_t column_block, float* carried, float* target, float* decoded,
                            const BlockRounder& rounder) const {
  const uint64_t first = column_block * block_;
  const uint64_t size = std::min(block_, cols_ - first);
  const uint64_t at = first - super;  // of the block in its super-block
  const float* inverse = factor_ ? inverses_.data() + first * block_ : nullptr;
  std::fill_n(target, rows * block_, 0.0f);
  for (uint64_t r = 0; r < rows; ++r) {
    float* t = target + r * block_;
    std::copy_n(w + r * cols_ + first, size, t);
    if (factor_ == nullptr) continue;
    const float* g = carried + r * width + at;
    for (uint64_t i = 0; i < size; ++i) {
      for (uint64_t j = 0; j <= i; ++j) t[j] += g[i] * inverse[i * block_ + j];
    }
  }
  rounder(column_block, target, decoded);
  double loss = 0;
  for (uint64_t r = 0; r < rows; ++r) {
    float* e = w + r * cols_ + first;
    for (uint64_t j = 0; j < size; ++j) e[j] -= decoded[r * block_ + j];
    if (factor_ == nullptr) {
      loss += SumOfSquares(e, size);
      continue;
    }
    // G += E_j C_j over this block and the earlier ones of the super-block.
    float* g = carried + r * width;
    for (uint64_t i = 0; i < size; ++i) {
      const float* c = factor_->lower() + (first + i) * cols_ + super;
      const uint64_t last = at + i + 1;  // the lower triangle ends here
      for (uint64_t j = 0; j < last; ++j) g[j] += e[i] * c[j];
    }
    loss += SumOfSquares(g + at, size);
  }
  return loss;
}

double Feedback::Round(float* w, uint64_t rows, const BlockRounder& rounder) const {
  std::vector<float> carried(rows * kSuperBlock);
  std::vector<float> target(rows * block_), decoded(rows * block_);
  double loss = 0;
  for (uint64_t end = cols_; end > 0;) {
    const uint64_t super = (end - 1) / kSuperBlock * kSuperBlock;
    const uint64_t width = end - super;
    ProductBelow(w, rows, super, end, carried.data());
    for (uint64_t b = CeilDiv(end, block_); b > super / block_; --b) {
      loss += RoundBlock(w, rows, super, width, b - 1, carried.data(), target.data(),
                         decoded.data(), rounder);
    }
    end = super;
  }
  return loss;
}

}  // namespace tq
