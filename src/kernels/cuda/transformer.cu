// Norms, rotary positions and activations, all bound by their launch: plain kernels.
#include <cuda_runtime.h>

#include "kernels/cuda/steps.cuh"
#include "kernels/cuda/transformer.h"

namespace tq::cuda {
namespace {

constexpr int kNormThreads = 512;
constexpr int kThreads = 256;
// Sums of its blocks fit into 48 KiB.
constexpr uint64_t kMaxNormSize = uint64_t{1} << 20;

// A row per thread block, a block of it per warp and turn.
__global__ void __launch_bounds__(kNormThreads) NormKernel(const NormArgs args) {
  extern __shared__ float squares[];  // [blocks]
  const auto size = static_cast<uint32_t>(args.size), lane = threadIdx.x % 32;
  const uint32_t blocks = (size + kStepBlock - 1) / kStepBlock;
  float* x = args.x + uint64_t{blockIdx.x} * size;
  const float* added = args.added == nullptr ? nullptr : args.added + uint64_t{blockIdx.x} * size;
  bool finite = true;
  for (uint32_t block = threadIdx.x / 32; block < blocks; block += kNormThreads / 32) {
    float values[4] = {};
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      const uint32_t i = block * kStepBlock + 4 * lane + j;
      if (i >= size) break;
      values[j] = x[i];
      if (added != nullptr) x[i] = values[j] = __fadd_rn(values[j], added[i]);
      finite = finite && isfinite(values[j]);
    }
    const float sum = BlockSquares(values);
    if (lane == 0) squares[block] = sum;
  }
  if (!finite) atomicMin(args.first_bad, args.place);
  __syncthreads();
  const float scale = NormScale(SumOfBlocks(squares, blocks), size, args.eps);
  float* y = args.y + uint64_t{blockIdx.x} * size;
  for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
    y[i] = Normed(x[i], scale, args.weight[i]);
  }
}

__global__ void RopeTableKernel(const RopeTableArgs args) {
  const uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= args.n * args.half) return;
  const double position = static_cast<double>(*args.base + i / args.half);
  double sine, cosine;
  sincos(position * args.frequencies[i % args.half], &sine, &cosine);
  args.cosines[i] = static_cast<float>(cosine);
  args.sines[i] = static_cast<float>(sine);
}

// A head of queries, keys or values of one position per thread block.
__global__ void RopeKernel(const RopeArgs args) {
  const uint32_t d = args.head_dim, half = d / 2;
  const uint32_t head = blockIdx.x, row = blockIdx.y;
  const float* cosines = args.cosines + uint64_t{row} * half;
  const float* sines = args.sines + uint64_t{row} * half;
  if (head < args.heads) {
    float* q = args.queries + (uint64_t{row} * args.heads + head) * d;
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
      const float a = q[i], b = q[i + half];
      q[i] = Turned(a, b, cosines[i], sines[i], false);
      q[i + half] = Turned(b, a, cosines[i], sines[i], true);
    }
    return;
  }
  const bool is_key = head < args.heads + args.kv_heads;
  const uint32_t kv_head = head - args.heads - (is_key ? 0 : args.kv_heads);
  const float* x =
      (is_key ? args.keys : args.values) + (uint64_t{row} * args.kv_heads + kv_head) * d;
  uint16_t* out = (is_key ? args.cache.keys : args.cache.values) + kv_head * args.cache.stride +
                  uint64_t{*args.base + row} * d;
  for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
    const float a = x[i], b = x[i + half];
    const float first = is_key ? Turned(a, b, cosines[i], sines[i], false) : a;
    const float second = is_key ? Turned(b, a, cosines[i], sines[i], true) : b;
    out[i] = __half_as_ushort(__float2half_rn(first));
    out[i + half] = __half_as_ushort(__float2half_rn(second));
  }
}

__global__ void SiluMultiplyKernel(float* gate, const float* up, uint64_t size) {
  const uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size) gate[i] = SiluTimes(gate[i], up[i]);
}

unsigned Blocks(uint64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }
bool Fits(uint64_t value, uint64_t most) { return value >= 1 && value <= most; }

}  // namespace

int LaunchNorm(const NormArgs& args, void* stream) {
  if (!Fits(args.n, kMaxTransformerRows) || !Fits(args.size, kMaxNormSize)) {
    return cudaErrorInvalidValue;
  }
  const uint64_t shared = (args.size + kStepBlock - 1) / kStepBlock * sizeof(float);
  NormKernel<<<static_cast<unsigned>(args.n), kNormThreads, shared,
               static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

int LaunchRopeTable(const RopeTableArgs& args, void* stream) {
  if (!Fits(args.n, kMaxTransformerRows) || !Fits(args.half, kMaxHeadDim / 2)) {
    return cudaErrorInvalidValue;
  }
  RopeTableKernel<<<Blocks(args.n * args.half), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      args);
  return cudaGetLastError();
}

int LaunchRope(const RopeArgs& args, void* stream) {
  if (!Fits(args.n, kMaxTransformerRows) || !Fits(args.head_dim, kMaxHeadDim) ||
      args.head_dim % 2 != 0 || !Fits(args.heads, UINT16_MAX) || !Fits(args.kv_heads, UINT16_MAX)) {
    return cudaErrorInvalidValue;
  }
  const dim3 grid(args.heads + 2 * args.kv_heads, static_cast<unsigned>(args.n));
  RopeKernel<<<grid, 64, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

int LaunchSiluMultiply(float* gate, const float* up, uint64_t size, void* stream) {
  if (!Fits(size, uint64_t{INT32_MAX} * kThreads)) return cudaErrorInvalidValue;
  SiluMultiplyKernel<<<Blocks(size), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(gate, up,
                                                                                       size);
  return cudaGetLastError();
}

}  // namespace tq::cuda
