// Quantising the matrices of one input group: what they share, then one matrix after the other.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "compress/methods/awq/layer_scales.h"
#include "compress/methods/group_coder.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// What a matrix became: tensors of the output file (plan.h names them; what belongs to the group,
// its in_scale, is among those of each of its matrices, a changed norm among those of the first)
// and how well it went.
struct QuantizedMatrix {
  std::vector<OutputTensor> tensors;
  MatrixReport report;
};

// The bytes of a matrix's tensors: its own, and with the group's first those that the group shares.
uint64_t BytesOfMatrix(std::span<const OutputTensor> tensors, const PlannedMatrix& matrix,
                       bool first_of_group);

// Weights of matrices of the source, float [rows, cols].
StatusOr<std::vector<Tensor>> LoadWeights(const ModelSource& source,
                                          std::span<const PlannedMatrix> matrices);

class GroupQuantizer {
 public:
  // Of a group of `matrices`, by the method that they are planned for; weights are read from
  // `source`. `hessian`: E[x x^T] of their input, if there is one. `scales`: of the layer, if the
  // method has them; they must outlive this.
  static StatusOr<GroupQuantizer> Load(const ModelSource& source, const QuantizeOptions& options,
                                       std::span<const PlannedMatrix> matrices,
                                       std::optional<Tensor> hessian, const LayerScales* scales,
                                       Executor& executor);

  // Matrix i with the codes of `codes`, the same matrix in some plan of this method. Its weights
  // are spent, unless they are kept for another call.
  enum class Weights { kSpend, kKeep };
  StatusOr<QuantizedMatrix> Quantize(size_t i, const PlannedMatrix& codes, Weights weights,
                                     Executor& executor);

 private:
  GroupQuantizer(std::vector<PlannedMatrix> matrices, std::vector<Tensor> weights,
                 const LayerScales* scales)
      : matrices_(std::move(matrices)), weights_(std::move(weights)), scales_(scales) {}

  std::vector<PlannedMatrix> matrices_;
  std::vector<Tensor> weights_;
  const LayerScales* scales_;
  std::unique_ptr<GroupCoder> coder_;
};

}  // namespace tq
