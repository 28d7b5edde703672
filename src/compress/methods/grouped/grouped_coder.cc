#include "compress/methods/grouped/grouped_coder.h"

#include <vector>

#include "checkpoint/packed_model.h"
#include "compress/output_error.h"

namespace tq {

StatusOr<CodingResult> GroupedCoder::Code(size_t, const PlannedMatrix& m, Tensor& weights,
                                          Executor& executor) const {
  float* w = weights.mutable_as<float>();
  CodingResult result;
  if (hessian_) result.norm = OutputError(*hessian_, w, m.rows, executor);
  const StatusOr<GroupedMatrix> rounded = Round(m, w, executor);
  if (!rounded.ok()) return rounded.status().WithContext(m.name);
  executor.ParallelFor(m.rows, 64, [&](size_t begin, size_t end, size_t) {
    std::vector<float> decoded(m.cols);
    for (uint64_t row = begin; row < end; ++row) {
      DecodeRows(*rounded, row, row + 1, decoded.data());
      for (uint64_t j = 0; j < m.cols; ++j) w[row * m.cols + j] -= decoded[j];
    }
  });
  if (hessian_) result.loss = OutputError(*hessian_, w, m.rows, executor);
  TQ_RETURN_IF_ERROR(AppendMatrix(m.name, *rounded, &result.tensors));
  return result;
}

}  // namespace tq
