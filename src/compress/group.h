// Quantising the matrices of one input group: common scales and Hessian, then one matrix
// after the other.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "compress/hessian.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/scales.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// What a matrix became: tensors of the output file (plan.h names them; the group's in_scale
// is among those of each of its matrices) and how well it went.
struct QuantizedMatrix {
  std::vector<OutputTensor> tensors;
  MatrixReport report;
};

// Chosen by measuring, see ScaleRule. Damping is more than rounding needs: it also shrinks
// the Hessian of one text towards that of others. Blocks of 256 and 512 gave the same KL as
// 128 (.452, .458, .451) and cost time on every product.
struct GroupSettings {
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

class GroupQuantizer {
 public:
  // The group's matrices in the plan's order and their weights, float [rows, cols], and
  // E[x x^T] of their input, if there is one. Scales are chosen and the Hessian is factored
  // here: what depends on all matrices of the group.
  static StatusOr<GroupQuantizer> Create(const QuantizeOptions& options,
                                         const GroupSettings& settings,
                                         std::vector<PlannedMatrix> matrices,
                                         std::vector<Tensor> weights, std::optional<Tensor> hessian,
                                         Executor& executor);

  // The same of a group of `matrices`, weights read from `source`.
  static StatusOr<GroupQuantizer> Load(const ModelSource& source, const QuantizeOptions& options,
                                       const std::vector<PlannedMatrix>& matrices,
                                       const MatrixGroup& group, std::optional<Tensor> hessian,
                                       Executor& executor);

  size_t size() const { return matrices_.size(); }
  const PlannedMatrix& matrix(size_t i) const { return matrices_[i]; }
  // Matrix i with the codes of `codes`, the same matrix in some plan. Its weights are spent, unless
  // they are kept for another call.
  enum class Weights { kSpend, kKeep };
  StatusOr<QuantizedMatrix> Quantize(size_t i, const PlannedMatrix& codes, Weights weights,
                                     Executor& executor);
  // Matrix i with noise in place of the code's error (noise.h). Trellis method; matrices that
  // were not quantised yet.
  StatusOr<DisturbedMatrix> Disturb(size_t i, double error, Executor& executor) const;

 private:
  GroupQuantizer(const QuantizeOptions& options, const GroupSettings& settings,
                 std::vector<PlannedMatrix> matrices, std::vector<Tensor> weights)
      : options_(&options),
        settings_(settings),
        matrices_(std::move(matrices)),
        weights_(std::move(weights)) {}
  WeightTransform TransformOf(size_t i) const;
  // `weights` become the error.
  StatusOr<QuantizedMatrix> QuantizeTrellis(size_t i, const PlannedMatrix& m, Tensor& weights,
                                            Executor& executor);
  StatusOr<QuantizedMatrix> QuantizeRtn(const PlannedMatrix& m, Tensor& weights,
                                        Executor& executor);

  const QuantizeOptions* options_;
  GroupSettings settings_;
  std::vector<PlannedMatrix> matrices_;
  std::vector<Tensor> weights_;
  GroupScales scales_;
  uint32_t in_block_ = 1;
  std::optional<HessianFactor> factor_;
};

}  // namespace tq
