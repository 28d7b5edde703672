// Products with unpacked float matrices on an executor. Results are the same for any
// number of threads (kernels/gemm/gemm_f32.h says why).
#pragma once

#include <cstdint>

#include "device/executor.h"

namespace tq {

// y [n, m] = x [n, k] w [m, k]^T, all contiguous and row-major; y overlaps neither input.
void DenseMatmul(const float* x, uint64_t n, uint64_t k, const float* w, uint64_t m,
                 Executor& executor, float* y);

// c [n, m] += a [n, k] b [k, m], with row strides in elements.
struct DenseUpdate {
  uint64_t n = 0, m = 0, k = 0;
  const float* a = nullptr;
  uint64_t lda = 0;
  const float* b = nullptr;
  uint64_t ldb = 0;
  float* c = nullptr;
  uint64_t ldc = 0;
};
void DenseMultiplyAdd(const DenseUpdate& update, Executor& executor);

// h [k, k] += x^T x for x [n, k]; only the upper triangle (column >= row) of h is touched.
void AccumulateHessian(const float* x, uint64_t n, uint64_t k, Executor& executor, double* h);
// Copies the upper triangle of h [k, k] below the diagonal.
void MirrorUpperTriangle(uint64_t k, double* h);

}  // namespace tq
