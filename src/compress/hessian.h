// The input Hessian H = E[x x^T] of a group of matrices: accumulating it, carrying it
// into the rotated basis, and factoring it for rounding with feedback.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/dense_device.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// Sums x x^T over calibration tokens.
class HessianSum {
 public:
  // `name` is the group's, for errors. With a device the sum is made in its memory, and differs by
  // rounding.
  static StatusOr<HessianSum> Create(std::string_view name, uint64_t features,
                                     const DenseDevice* device = nullptr);

  // Adds n rows x, float [n, features]. NaN and infinity are an error naming the group,
  // the token and the feature.
  Status Add(const float* x, uint64_t n, Executor& executor);
  uint64_t count() const { return count_; }
  // Mean |x_j| over the rows so far, [features].
  std::vector<float> MeanMagnitude() const;
  const std::string& name() const { return name_; }

  // H = E[x x^T], float [features, features], symmetric; the sum is spent. At least one
  // row must have been added.
  StatusOr<Tensor> Finish(Executor& executor) &&;

 private:
  HessianSum(std::string_view name, uint64_t features)
      : name_(name), features_(features), magnitude_(features) {}

  std::string name_;
  uint64_t features_;
  // One of them: float [features, features], the upper triangle.
  Tensor sum_;
  std::unique_ptr<DenseDevice::Gram> on_device_;
  std::vector<double> magnitude_;  // sums of |x_j|
  uint64_t count_ = 0;
};

// H <- Hin diag(si) H diag(si) Hin^T in place: the Hessian of x' = Hin (si * x).
// `h`: float [n, n]; `in_scale`: n values; `in_block`: the order of Hin's blocks.
void RotateHessian(std::span<const float> in_scale, uint32_t in_block, Executor& executor,
                   Tensor& h);

// H + damping * mean(diag H) * I = C C^T with C lower triangular.
//
// Rounding with feedback (LDLQ; Chee et al., "QuIP", NeurIPS 2023, section 3; blocks of
// columns as in Tseng et al., "QuIP#", ICML 2024): with L = C blockdiag(C_jj)^-1, the
// loss tr(E H E^T) of an error E is sum_j |(E C)_j|^2, and column block j, quantised
// after all later ones, makes its term |(target_j - What_j) C_jj|^2 if
//   target_j = W_j + G_j C_jj^-1,   G_j = sum_{i > j} E_i C_ij,   E = W - What.
// So C alone serves every block size.
class HessianFactor {
 public:
  // Takes H, float [n, n], symmetric. The damping is doubled until the factorisation
  // succeeds. An all-zero H (dead inputs) is replaced by the identity. With a device it is factored
  // there, with a result that differs by rounding.
  static StatusOr<HessianFactor> Create(std::string_view name, Tensor h, double damping,
                                        Executor& executor, const DenseDevice* device = nullptr);

  uint64_t n() const { return n_; }
  // Row-major [n, n]; only the lower triangle, diagonal included, is C.
  const float* lower() const { return matrix_.as<float>(); }
  // The share of the mean diagonal that was added in the end.
  double damping() const { return damping_; }

 private:
  HessianFactor() = default;

  uint64_t n_ = 0;
  Tensor matrix_;
  double damping_ = 0;
};

}  // namespace tq
