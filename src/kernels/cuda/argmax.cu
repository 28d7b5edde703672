#include <cuda_runtime.h>

#include "kernels/cuda/argmax.h"

namespace tq::cuda {
namespace {

constexpr uint32_t kThreads = 256, kPerThread = 8;

// Larger values first, then lower ids: the least key wins.
__device__ __forceinline__ uint64_t KeyOf(float value, uint32_t id) {
  const uint32_t bits = __float_as_uint(value == 0 ? 0.0f : value);  // -0 is no less than 0
  const uint32_t rising = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{~rising} << 32 | id;
}

__global__ void __launch_bounds__(kThreads)
    ArgmaxKernel(const float* logits, uint32_t n, ArgmaxResult* result) {
  __shared__ unsigned long long best_of_all;
  if (threadIdx.x == 0) best_of_all = UINT64_MAX;
  __syncthreads();
  uint64_t best = UINT64_MAX;
  const uint32_t begin = blockIdx.x * kThreads * kPerThread;
#pragma unroll
  for (uint32_t i = 0; i < kPerThread; ++i) {
    const uint32_t id = begin + i * kThreads + threadIdx.x;
    if (id >= n) break;
    const float value = logits[id];
    if (!isfinite(value)) atomicMin(&result->first_bad, id);
    const uint64_t key = KeyOf(value, id);
    best = key < best ? key : best;
  }
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(~0u, best, step);
    best = other < best ? other : best;
  }
  if (threadIdx.x % 32 == 0) atomicMin(&best_of_all, static_cast<unsigned long long>(best));
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicMin(reinterpret_cast<unsigned long long*>(&result->best), best_of_all);
  }
}

}  // namespace

int LaunchArgmax(const float* logits, uint32_t n, ArgmaxResult* result, void* stream) {
  if (n < 1) return cudaErrorInvalidValue;
  constexpr uint32_t kPerBlock = kThreads * kPerThread;
  ArgmaxKernel<<<n / kPerBlock + (n % kPerBlock != 0 ? 1 : 0), kThreads, 0,
                 static_cast<cudaStream_t>(stream)>>>(logits, n, result);
  return cudaGetLastError();
}

}  // namespace tq::cuda
