// Products with unpacked float matrices on an executor. Results are the same for any
// number of threads (kernels/gemm/gemm_f32.h says why).
#pragma once

#include <cstdint>

#include "device/executor.h"

namespace tq {

// y [n, m] = x [n, k] w [m, k]^T, all contiguous and row-major; y overlaps neither input.
void DenseMatmul(const float* x, uint64_t n, uint64_t k, const float* w, uint64_t m,
                 Executor& executor, float* y);

// The same of weights in bfloat16, [m, k], which become floats piece by piece: the bits of
// DenseMatmul.
void DenseMatmulBFloat16(const float* x, uint64_t n, uint64_t k, const uint16_t* w, uint64_t m,
                         Executor& executor, float* y);

// h [k, k] += x^T x for x [n, k]; only the upper triangle (column >= row) of h is touched.
void AccumulateHessian(const float* x, uint64_t n, uint64_t k, Executor& executor, float* h);

}  // namespace tq
