// What the methods of scalar codes in groups (GPTQ, AWQ, rounding to nearest, ternary) have in
// common: the tensors that they write, and how their errors are measured.
#pragma once

#include <optional>
#include <utility>

#include "base/status.h"
#include "codec/grouped_matrix.h"
#include "compress/methods/group_coder.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

class GroupedCoder : public GroupCoder {
 public:
  // Loss and norm are those of the Hessian as it is, without damping.
  StatusOr<CodingResult> Code(size_t i, const PlannedMatrix& m, Tensor& weights,
                              Executor& executor) const final;

 protected:
  // `hessian`: E[x x^T] of the group's input, float [cols, cols], or none.
  explicit GroupedCoder(std::optional<Tensor> hessian) : hessian_(std::move(hessian)) {}
  const Tensor* hessian() const { return hessian_ ? &*hessian_ : nullptr; }

  // A matrix of m.layout near w, float [rows, cols].
  virtual StatusOr<GroupedMatrix> Round(const PlannedMatrix& m, const float* w,
                                        Executor& executor) const = 0;

 private:
  std::optional<Tensor> hessian_;
};

}  // namespace tq
