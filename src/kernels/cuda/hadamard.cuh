// Block Hadamard transforms on a GPU, with butterflies and sums in the order of hadamard.h and no
// fused multiply-add: by a thread block in shared memory, or by a warp in registers with four
// values a lane.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/activations.h"

namespace tq::cuda {

// Values that a thread block transforms, where the order is smaller.
inline constexpr uint64_t kSpan = 256;
// Shared memory for the values of a thread block: any device since sm_80 has 99 KiB, some of which
// kernels use otherwise. The same for all launches, as it is an attribute of the kernel.
inline constexpr int kMaxShared = 96 << 10;
inline constexpr int kMaxLog2 = 14;  // of a power of two, alone or in an order

// Values of a block.
inline uint64_t OrderOf(const HadamardShape& shape) {
  return static_cast<uint64_t>(shape.m) << shape.log2;
}
// Whether there are kernels for it.
inline bool IsValid(const HadamardShape& shape) {
  const bool known =
      shape.m == 1 || shape.m == 12 || shape.m == 20 || shape.m == 28 || shape.m == 36;
  return known && shape.log2 >= 0 && shape.log2 <= kMaxLog2 &&
         OrderOf(shape) * sizeof(float) <= static_cast<uint64_t>(kMaxShared);
}
// Values that a thread block takes: whole blocks of the transform, kSpan of them or one.
inline uint64_t SpanOf(const HadamardShape& shape) {
  const uint64_t order = OrderOf(shape);
  return order >= kSpan ? order : kSpan / order * order;
}
// Rows of M of one column of a block: x [kOrder, width] with rows `stride` apart, in place.
template <int kOrder>
__device__ __forceinline__ void MixColumn(const float* matrix, uint32_t stride, float* x) {
  float column[kOrder];
#pragma unroll
  for (int a = 0; a < kOrder; ++a) column[a] = x[a * stride];
  for (int a = 0; a < kOrder; ++a) {
    const float* row = matrix + a * kOrder;
    float sum = __fmul_rn(row[0], column[0]);
#pragma unroll
    for (int c = 1; c < kOrder; ++c) sum = __fadd_rn(sum, __fmul_rn(row[c], column[c]));
    x[a * stride] = sum;
  }
}
// The same for all columns of x [n] by all threads.
template <int kOrder>
__device__ __forceinline__ void MixColumns(const HadamardShape& shape, uint32_t n, float* x) {
  const uint32_t width = 1u << shape.log2;
  for (uint32_t i = threadIdx.x; i < n / kOrder; i += blockDim.x) {
    MixColumn<kOrder>(shape.matrix, width, x + i / width * width * kOrder + i % width);
  }
}

// The transform of x [n] in shared memory by all threads of the thread block, but for its scale.
// Begins and ends with a barrier.
__device__ inline void Transform(const HadamardShape& shape, uint32_t n, float* x) {
  __syncthreads();
  for (int k = 0; k < shape.log2; ++k) {
    const uint32_t half = 1u << k;
    for (uint32_t i = threadIdx.x; i < n / 2; i += blockDim.x) {
      const uint32_t j = i / half * 2 * half + i % half;
      const float a = x[j], b = x[j + half];
      x[j] = a + b;
      x[j + half] = a - b;
    }
    __syncthreads();
  }
  if (shape.m == 12) MixColumns<12>(shape, n, x);
  if (shape.m == 20) MixColumns<20>(shape, n, x);
  if (shape.m == 28) MixColumns<28>(shape, n, x);
  if (shape.m == 36) MixColumns<36>(shape, n, x);
  if (shape.m != 1) __syncthreads();
}

// Whether a warp does it in registers.
inline bool IsWarpHadamard(const HadamardShape& shape) { return shape.m == 1 && shape.log2 == 7; }

// H of 128 values, four neighbours a lane, without its scale; butterflies in the order of
// hadamard.h.
__device__ __forceinline__ void WarpHadamard(float (&x)[4]) {
  const float a = x[0] + x[1], b = x[0] - x[1], c = x[2] + x[3], d = x[2] - x[3];
  x[0] = a + c, x[2] = a - c, x[1] = b + d, x[3] = b - d;
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
#pragma unroll
    for (float& value : x) {
      const float other = __shfl_xor_sync(~0u, value, step);
      value = (lane & step) != 0 ? other - value : value + other;
    }
  }
}

}  // namespace tq::cuda
