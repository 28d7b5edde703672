// The trellis method: common scales and a rotated Hessian for an input group, then one matrix after
// the other (docs/quantization.md).
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "compress/hessian.h"
#include "compress/methods/group_coder.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/scales.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// Chosen by measuring, see ScaleRule. Damping is more than rounding needs: it also shrinks
// the Hessian of one text towards that of others. Blocks of 256 and 512 gave the same KL as
// 128 (.452, .458, .451) and cost time on every product.
struct TrellisSettings {
  ScaleRule rule;                             // with a Hessian
  ScaleRule rule_without_hessian{0.5, 0, 1};  // embeddings that are only looked up, ablations
  double damping = 0.06;                      // share of the mean diagonal of the rotated Hessian
  uint64_t rotation_limit = 128;              // largest block of the Hadamard rotations
};

// A matrix as rounding would leave it, with the loss tr(E H E^T) of the error E and the norm
// tr(W H W^T).
struct DisturbedMatrix {
  Tensor weights;  // float [rows, cols]
  double loss = 0, norm = 0;
};

class TrellisCoder final : public GroupCoder {
 public:
  // See MakeGroupCoder. Scales are chosen and the Hessian is factored here: what depends on all
  // matrices of the group.
  static StatusOr<TrellisCoder> Create(const QuantizeOptions& options,
                                       const TrellisSettings& settings,
                                       std::span<const PlannedMatrix> matrices,
                                       std::span<const Tensor> weights,
                                       std::optional<Tensor> hessian, Executor& executor);

  // The tensors include the group's in_scale. Loss and norm are those of the damped Hessian.
  StatusOr<CodingResult> Code(size_t i, const PlannedMatrix& m, Tensor& weights,
                              Executor& executor) const override;
  // Matrix i, of these weights, with noise in place of the code's error (noise.h).
  StatusOr<DisturbedMatrix> Disturb(size_t i, const Tensor& weights, double error,
                                    Executor& executor) const;

 private:
  TrellisCoder(const QuantizeOptions& options, const TrellisSettings& settings,
               std::span<const PlannedMatrix> matrices)
      : options_(&options), settings_(settings), matrices_(matrices.begin(), matrices.end()) {}
  WeightTransform TransformOf(size_t i) const;

  const QuantizeOptions* options_;
  TrellisSettings settings_;
  std::vector<PlannedMatrix> matrices_;
  GroupScales scales_;
  uint32_t in_block_ = 1;
  std::optional<HessianFactor> factor_;
};

}  // namespace tq
