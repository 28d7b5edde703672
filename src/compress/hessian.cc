#include "compress/hessian.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "base/checked.h"
#include "base/log.h"
#include "codec/dense_matmul.h"
#include "codec/rotation.h"
#include "kernels/gemm/gemm_f32.h"
#include "model/transformer_ops.h"

namespace tq {
namespace {

using RowMatrixD = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Columns of a panel of the Cholesky factorisation: the panel's own n x 128 product is
// done by triangular inverse, everything else by matrix products.
constexpr uint64_t kPanel = 128;
// Side of the squares in which a matrix is transposed: two of 16 KiB fit the L1 cache.
constexpr uint64_t kTransposeTile = 64;
// Values that a thread looks through at once.
constexpr uint64_t kFiniteGrain = 1 << 16;
// Columns whose magnitudes a thread adds up at once: some cache lines of a row.
constexpr uint64_t kMagnitudeGrain = 64;
// A pivot below this share of its block's largest value is lost in float's rounding of that: noise,
// not a factor.
constexpr double kLeastPivot = 1e-4;
// Doubling the damping this often reaches 1e10 times the mean diagonal.
constexpr int kMaxDoublings = 40;

// a[i, j] = a[j, i] for j < i (copy upper to lower) or a transpose in place.
enum class Mirror { kTranspose, kUpperToLower };

void MirrorInPlace(float* a, uint64_t n, Mirror mirror, Executor& executor) {
  const uint64_t tiles = CeilDiv(n, kTransposeTile);
  executor.ParallelFor(tiles, 1, [&](size_t begin, size_t end, size_t) {
    for (uint64_t ti = begin; ti < end; ++ti) {
      for (uint64_t tj = 0; tj <= ti; ++tj) {
        const uint64_t i_end = std::min(n, (ti + 1) * kTransposeTile);
        for (uint64_t i = ti * kTransposeTile; i < i_end; ++i) {
          const uint64_t j_end = std::min(i, (tj + 1) * kTransposeTile);
          for (uint64_t j = tj * kTransposeTile; j < j_end; ++j) {
            float& lower = a[i * n + j];
            float& upper = a[j * n + i];
            if (mirror == Mirror::kTranspose) {
              std::swap(lower, upper);
            } else {
              lower = upper;
            }
          }
        }
      }
    }
  });
}

// Factors one diagonal block in double: block (float, stride n, lower triangle) becomes
// its Cholesky factor, `inverse` the inverse of the factor. False if not positive definite.
bool FactorDiagonalBlock(float* block, uint64_t stride, uint64_t size, RowMatrixD& inverse) {
  RowMatrixD a(size, size);
  for (uint64_t i = 0; i < size; ++i) {
    for (uint64_t j = 0; j <= i; ++j) a(i, j) = a(j, i) = block[i * stride + j];
  }
  const Eigen::LLT<RowMatrixD> llt(a);
  if (llt.info() != Eigen::Success) return false;
  const RowMatrixD lower = llt.matrixL();
  const double smallest = lower.diagonal().minCoeff();
  const double largest = std::sqrt(std::max(0.0, a.diagonal().maxCoeff()));
  if (!(smallest > kLeastPivot * largest) || !std::isfinite(largest)) return false;
  inverse = lower.triangularView<Eigen::Lower>().solve(RowMatrixD::Identity(size, size));
  for (uint64_t i = 0; i < size; ++i) {
    for (uint64_t j = 0; j <= i; ++j) block[i * stride + j] = static_cast<float>(lower(i, j));
  }
  return true;
}

// c [n, m] = a [n, k] b [m, k]^T, rows of c in parallel.
void ProductNt(gemm::Args args, Executor& executor) {
  executor.ParallelFor(args.n, 32, [&](size_t begin, size_t end, size_t) {
    gemm::Args part = args;
    part.n = end - begin;
    part.a += begin * args.lda;
    part.c += begin * args.ldc;
    gemm::MatmulNt(part);
  });
}

// Left-looking blocked Cholesky of the lower triangle; the upper one is left alone.
// False if a pivot fails.
bool FactorLower(float* a, uint64_t n, Executor& executor) {
  std::vector<float> product(n * kPanel);
  std::vector<float> panel(n * kPanel);
  std::vector<float> inverse_float(kPanel * kPanel);
  RowMatrixD inverse;
  for (uint64_t k = 0; k < n; k += kPanel) {
    const uint64_t width = std::min(kPanel, n - k);
    const uint64_t rows = n - k;
    if (k > 0) {  // subtract C[k:, :k] C[k : k + width, :k]^T
      ProductNt({.n = rows,
                 .m = width,
                 .k = k,
                 .a = a + k * n,
                 .lda = n,
                 .b = a + k * n,
                 .ldb = n,
                 .c = product.data(),
                 .ldc = width},
                executor);
      for (uint64_t i = 0; i < rows; ++i) {
        float* row = a + (k + i) * n + k;
        const uint64_t last = std::min(width, i + 1);  // the upper triangle stays
        for (uint64_t j = 0; j < last; ++j) row[j] -= product[i * width + j];
      }
    }
    if (!FactorDiagonalBlock(a + k * n + k, n, width, inverse)) return false;
    if (rows == width) break;
    // C[below, panel] = A[below, panel] C_kk^-T
    for (uint64_t i = 0; i < width * width; ++i) {
      inverse_float[i] = static_cast<float>(inverse.data()[i]);
    }
    const uint64_t below = rows - width;
    for (uint64_t i = 0; i < below; ++i) {
      std::copy_n(a + (k + width + i) * n + k, width, panel.data() + i * width);
    }
    ProductNt({.n = below,
               .m = width,
               .k = width,
               .a = panel.data(),
               .lda = width,
               .b = inverse_float.data(),
               .ldb = width,
               .c = a + (k + width) * n + k,
               .ldc = n},
              executor);
  }
  return true;
}

// Whether a factor that was made elsewhere passes what FactorDiagonalBlock asks of its blocks. What
// is left of a diagonal entry when its block's turn comes is the sum of squares of the factor's row
// in the block.
bool PivotsAreSound(const float* factor, uint64_t n) {
  for (uint64_t begin = 0; begin < n; begin += kPanel) {
    const uint64_t end = std::min(begin + kPanel, n);
    double largest = 0;
    for (uint64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (uint64_t j = begin; j <= i; ++j) {
        sum += static_cast<double>(factor[i * n + j]) * factor[i * n + j];
      }
      if (!std::isfinite(sum)) return false;
      largest = std::max(largest, sum);
    }
    for (uint64_t i = begin; i < end; ++i) {
      if (!(factor[i * n + i] > kLeastPivot * std::sqrt(largest))) return false;
    }
  }
  return true;
}

// One attempt of HessianFactor::Create; the upper triangle stays.
StatusOr<bool> TryToFactor(std::string_view name, float* a, uint64_t n, Executor& executor,
                           const DenseDevice* device) {
  if (device == nullptr) return FactorLower(a, n, executor);
  TQ_ASSIGN_OR_RETURN(const bool factored,
                      device->FactorLower(n, a, fmt::format("the Hessian of {}", name)));
  return factored && PivotsAreSound(a, n);
}

uint64_t FirstNonFiniteOf(const float* x, uint64_t size, Executor& executor) {
  std::atomic<uint64_t> first{size};
  executor.ParallelFor(size, kFiniteGrain, [&](size_t begin, size_t end, size_t) {
    const uint64_t bad = begin + FirstNonFinite(x + begin, end - begin);
    if (bad == end) return;
    uint64_t seen = first.load();
    while (bad < seen && !first.compare_exchange_weak(seen, bad)) {
    }
  });
  return first.load();
}

}  // namespace

StatusOr<HessianSum> HessianSum::Create(std::string_view name, uint64_t features,
                                        const DenseDevice* device) {
  HessianSum sum(name, features);
  if (device != nullptr) {
    TQ_ASSIGN_OR_RETURN(sum.on_device_,
                        device->NewGram(features, fmt::format("the Hessian of {}", name)));
  } else {
    TQ_ASSIGN_OR_RETURN(sum.sum_, Tensor::Zeros(DType::kF32, {features, features}));
  }
  return sum;
}

Status HessianSum::Add(const float* x, uint64_t n, Executor& executor) {
  const uint64_t bad = FirstNonFiniteOf(x, n * features_, executor);
  if (bad < n * features_) {
    return DataLoss("calibration: the input of {} is {} at token {}, feature {}", name_, x[bad],
                    count_ + bad / features_, bad % features_);
  }
  if (on_device_ != nullptr) {
    TQ_RETURN_IF_ERROR(on_device_->Add(x, n, executor));
  } else {
    AccumulateHessian(x, n, features_, executor, sum_.mutable_as<float>());
  }
  executor.ParallelFor(features_, kMagnitudeGrain, [&](size_t begin, size_t end, size_t) {
    for (uint64_t row = 0; row < n; ++row) {
      for (uint64_t j = begin; j < end; ++j) magnitude_[j] += std::abs(x[row * features_ + j]);
    }
  });
  count_ += n;
  return OkStatus();
}

std::vector<float> HessianSum::MeanMagnitude() const {
  std::vector<float> means;
  for (const double sum : magnitude_) {
    means.push_back(static_cast<float>(sum / static_cast<double>(std::max<uint64_t>(count_, 1))));
  }
  return means;
}

StatusOr<Tensor> HessianSum::Finish(Executor& executor) && {
  TQ_CHECK(count_ > 0);
  const uint64_t n = features_;
  if (on_device_ != nullptr) {
    TQ_ASSIGN_OR_RETURN(sum_, Tensor::Zeros(DType::kF32, {n, n}));
    TQ_RETURN_IF_ERROR(on_device_->Read(sum_.mutable_as<float>()));
    on_device_.reset();
  }
  float* h = sum_.mutable_as<float>();
  const float factor = static_cast<float>(1 / static_cast<double>(count_));
  executor.ParallelFor(n, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      for (uint64_t j = i; j < n; ++j) h[i * n + j] *= factor;
    }
  });
  MirrorInPlace(h, n, Mirror::kUpperToLower, executor);
  return std::move(sum_);
}

void RotateHessian(std::span<const float> in_scale, uint32_t in_block, Executor& executor,
                   Tensor& h) {
  const uint64_t n = h.shape()[0];
  TQ_CHECK(in_scale.size() == n);
  float* a = h.mutable_as<float>();
  executor.ParallelFor(n, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      float* row = a + i * n;
      for (uint64_t j = 0; j < n; ++j) row[j] *= in_scale[i] * in_scale[j];
      BlockHadamard(row, n, in_block, HadamardSide::kForward);
    }
  });
  // S H S Hin^T, transposed: Hin S H S; its rows rotated: Hin S H S Hin^T.
  MirrorInPlace(a, n, Mirror::kTranspose, executor);
  executor.ParallelFor(n, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      BlockHadamard(a + i * n, n, in_block, HadamardSide::kForward);
    }
  });
}

StatusOr<HessianFactor> HessianFactor::Create(std::string_view name, Tensor h, double damping,
                                              Executor& executor, const DenseDevice* device) {
  HessianFactor factor;
  const uint64_t n = factor.n_ = h.shape()[0];
  float* a = h.mutable_as<float>();
  std::vector<float> diagonal(n);
  double mean = 0;
  for (uint64_t i = 0; i < n; ++i) {
    diagonal[i] = a[i * n + i];
    mean += diagonal[i];
  }
  mean /= static_cast<double>(n);
  if (!std::isfinite(mean)) {
    return DataLoss("the Hessian of {} is not finite (mean diagonal {})", name, mean);
  }
  if (!(mean > 0)) {
    Warn("the inputs of {} are all zero on the calibration text; it is rounded without them", name);
    std::fill_n(a, n * n, 0.0f);
    std::fill(diagonal.begin(), diagonal.end(), 1.0f);
    mean = 1;
  }
  for (int attempt = 0; attempt <= kMaxDoublings; ++attempt, damping *= 2) {
    MirrorInPlace(a, n, Mirror::kUpperToLower, executor);
    for (uint64_t i = 0; i < n; ++i) {
      a[i * n + i] = static_cast<float>(diagonal[i] + damping * mean);
    }
    TQ_ASSIGN_OR_RETURN(const bool factored, TryToFactor(name, a, n, executor, device));
    if (factored) {
      factor.damping_ = damping;
      factor.matrix_ = std::move(h);
      return factor;
    }
  }
  return DataLoss("the Hessian of {} cannot be factored even with damping {}", name, damping);
}

}  // namespace tq
