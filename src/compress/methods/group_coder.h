// A method of quantising: how the matrices of one input group become codes.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "checkpoint/safetensors.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

struct CodingResult {
  std::vector<OutputTensor> tensors;  // of the output file (plan.h names them)
  // With the error E = W - What and the Hessian H of the input: tr(E H E^T) and tr(W H W^T). 0:
  // not known.
  double loss = 0, norm = 0;
};

class GroupCoder {
 public:
  virtual ~GroupCoder() = default;
  // Matrix i of the group with the codes of `m`, the same matrix in some plan. `weights`, float
  // [rows, cols], become the error E. The same for any number of threads.
  virtual StatusOr<CodingResult> Code(size_t i, const PlannedMatrix& m, Tensor& weights,
                                      Executor& executor) const = 0;
};

// The coder of a method for matrices with one input and their weights, float [rows, cols], which
// are read here alone. `hessian`: E[x x^T] of the input, or none for methods that do without
// (NeedsHessian). `options` must outlive the coder.
StatusOr<std::unique_ptr<GroupCoder>> MakeGroupCoder(Method method, const QuantizeOptions& options,
                                                     std::span<const PlannedMatrix> matrices,
                                                     std::span<const Tensor> weights,
                                                     std::optional<Tensor> hessian,
                                                     Executor& executor);

}  // namespace tq
