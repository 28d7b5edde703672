// Pairs and fours of values in half precision, as words.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace tq::cuda {

__device__ __forceinline__ __half2 AsHalves(uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}
__device__ __forceinline__ uint32_t AsBits(__half2 halves) {
  return *reinterpret_cast<const uint32_t*>(&halves);
}
__device__ __forceinline__ uint32_t PackHalves(float first, float second) {
  return AsBits(__floats2half2_rn(first, second));
}
__device__ __forceinline__ uint2 PackHalves(const float (&x)[4]) {
  return {PackHalves(x[0], x[1]), PackHalves(x[2], x[3])};
}
__device__ __forceinline__ void UnpackHalves(uint2 bits, float (&x)[4]) {
  const float2 low = __half22float2(AsHalves(bits.x)), high = __half22float2(AsHalves(bits.y));
  x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}

}  // namespace tq::cuda
