// A weight matrix as plain scalar codes in groups of columns, asymmetric: the honest
// baseline (round to nearest).
//   W[r, c] = scale[r, g] * (q[r, c] - zero[r, g]),  g = c / group_size
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

struct GroupedMatrix {
  uint64_t rows = 0, cols = 0;
  uint32_t bits = 4;         // 2..8
  uint32_t group_size = 32;  // the last group of a row may be shorter
  Tensor codes;              // U8 [rows, ceil(cols * bits / 8)]: q, least significant bit first
  Tensor scale;              // F16 [rows, groups]
  Tensor zero;               // F16 [rows, groups]

  uint64_t num_bytes() const;
};

// `X.layout`: [format = 1, code = 2, rows, cols, bits, group_size]. Parse checks everything.
std::vector<int32_t> LayoutToInts(const GroupedMatrix& matrix);
StatusOr<GroupedMatrix> GroupedMatrixFromTensors(const Tensor& layout, Tensor codes, Tensor scale,
                                                 Tensor zero);

// Rounds W (float [rows, cols]) to nearest: per group min..max over 2^bits levels. The step
// is rounded up to fp16, and is at least 2^-15 of the group's greatest magnitude, so that
// the zero point fits fp16 (it matters only for groups that are nearly constant); an error
// is then at most half a step, plus 2^-11 of the magnitude at the ends of the range.
// Weights that are not finite, or a step above 65504, are errors naming row and column.
StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t bits, uint32_t group_size, Executor& executor);

// W[begin..end), float [end - begin, cols].
void DecodeRows(const GroupedMatrix& matrix, uint64_t begin, uint64_t end, float* out);

// y [n, rows] = x W^T, x float [n, cols]; decodes a block of rows at a time.
void GroupedMatmul(const GroupedMatrix& matrix, const float* x, uint64_t n, Executor& executor,
                   float* y);

}  // namespace tq
