// Channel scales of a group of matrices, and weights in the rotated basis.
//
//   W = magnitude * diag(so) Hout^T W' Hin diag(si)
//
// The magnitude, one number per matrix, makes W' of unit power; it ends in the float
// scales of the trellis segments. si is shared by the group, so is each matrix's own; both are
// signed (random signs: the randomised Hadamard transform) and rounded to fp16, and these rounded
// values are used in all arithmetic that follows.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// A matrix to be quantised: float [rows, cols] under its name.
struct NamedWeights {
  std::string name;
  uint64_t rows = 0, cols = 0;
  const float* values = nullptr;
};

// si_j ~ (column rms)_j^weight_power * h_jj^-input_power; so_i ~ (row rms)_i^row_power.
//
// With white noise of equal power in the rotated basis and no feedback, the loss is least
// at si = sqrt(rms_j / sqrt(h_jj)); with ideal feedback only the determinant of the rotated
// Hessian counts, which gives si = rms_j. For rows without output mixing so = rms_i; with
// it the loss (sum rms_i^2 / so_i^2)(sum so_i^2) is least at so = sqrt(rms_i).
//
// Measured (llama-30m at 2.0 bits, L = 12, KL on WikiText-2 valid, mean of 3 seeds +- s.e.;
// weight, input, row powers, damping; seeds differ by 3 %):
//   1, 0, 1, .01      .483 +- .011      .5, .25, .5, .025  .457 +- .001
//   1, 0, .5, .025    .470 +- .011      .5, .25, .5, .15   .462 +- .015
//   1, 0, .5, .15     .448 +- .008      .7, .15, .5, .06   .451 +- .005
//   .7, .15, .75, .06 .457 +- .013      (.75, .25 and .5, .4 are worse by 6 and 8 %)
struct ScaleRule {
  double weight_power = 0.7;
  double input_power = 0.15;
  double row_power = 0.5;
};

struct GroupScales {
  Tensor in_scale;                // F16 [cols]
  std::vector<Tensor> out_scale;  // F16 [rows] per matrix
  std::vector<double> magnitude;  // per matrix
};

// `hessian_diagonal`: cols values, or empty for none (taken as equal). No scale is zero or
// not finite, whatever the weights; `group` and `seed` name the streams of random signs.
StatusOr<GroupScales> ChooseScales(std::string_view group, std::span<const NamedWeights> matrices,
                                   std::span<const float> hessian_diagonal, const ScaleRule& rule,
                                   uint64_t seed, Executor& executor);

// The fp16 values as floats.
std::vector<float> HalfToFloats(const Tensor& half);

// The transform between W and W' of one matrix.
struct WeightTransform {
  std::vector<float> out_scale;  // rows
  uint32_t out_block = 1;
  std::vector<float> in_scale;  // cols
  uint32_t in_block = 1;
  double magnitude = 1;
};

// W <- W' = Hout diag(1/so) W diag(1/si) Hin^T / magnitude in place, and back; w is float
// [rows, cols].
void RotateWeights(const WeightTransform& transform, Executor& executor, float* w);
void UnrotateWeights(const WeightTransform& transform, Executor& executor, float* w);

}  // namespace tq
