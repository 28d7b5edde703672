// A weight matrix as plain scalar codes in groups of columns, asymmetric: the honest
// baseline (round to nearest).
//   W[r, c] = scale[r, g] * (q[r, c] - zero[r, g]),  g = c / group_size
#pragma once

#include <cstdint>

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

// Rounds W (float [rows, cols]) to nearest: per group min..max over 2^bits levels.
StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t bits, uint32_t group_size, Executor& executor);

// float [end - begin, cols].
void DecodeRows(const GroupedMatrix& matrix, uint64_t begin, uint64_t end, float* out);

// y [n, rows] = x W^T, x float [n, cols]; decodes a block of rows at a time.
void GroupedMatmul(const GroupedMatrix& matrix, const float* x, uint64_t n, Executor& executor,
                   float* y);

}  // namespace tq
