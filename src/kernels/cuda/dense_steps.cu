// A thread block takes a row. Where transforms have 128 values its warps keep it in registers, four
// neighbours a lane, from one product's output to the next one's input.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/dense_steps.h"
#include "kernels/cuda/dense_weights.h"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/steps.cuh"

namespace tq::cuda {
namespace {

constexpr uint32_t kMaxWarps = 32;
// Blocks of kStepBlock values that a warp keeps.
constexpr uint32_t kTurns = 4;
constexpr uint64_t kMaxKept = uint64_t{kMaxWarps} * kTurns * kStepBlock;
constexpr int kThreads = 256;
constexpr uint64_t kMaxRows = 65535;  // of x: a grid's second dimension

// The same in every thread. Begins and ends with a barrier.
__device__ __forceinline__ float BlockSum(float of_warp, float* warps) {
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = of_warp;
  __syncthreads();
  const float sum = SumOfBlocks(warps, blockDim.x / 32);
  __syncthreads();
  return sum;
}

// What becomes of a row of x', from the sum of its squares.
struct Normalising {
  float inverse, scale;
  __device__ __forceinline__ Normalising(float squares, uint64_t cols) {
    const float rms = __fsqrt_rn(__fdiv_rn(squares, static_cast<float>(cols)));
    const bool finite = isfinite(squares), zero = rms < trellis::kSmallestActivation;
    inverse = !finite || zero ? 0 : __fdiv_rn(1, rms);
    scale = !finite ? __int_as_float(0x7fc00000) : zero ? 0 : rms;
  }
};

__device__ __forceinline__ uint2 ToHalves(const float (&x)[4], float factor) {
  const __half2 low = __floats2half2_rn(x[0] * factor, x[1] * factor);
  const __half2 high = __floats2half2_rn(x[2] * factor, x[3] * factor);
  return {*reinterpret_cast<const uint32_t*>(&low), *reinterpret_cast<const uint32_t*>(&high)};
}
__device__ __forceinline__ void FromHalves(uint2 bits, float (&x)[4]) {
  const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
  const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}

// What the sums of a row of the matrix are worth in row b of x.
__device__ __forceinline__ float SumScale(const DenseOutput& from, uint64_t row, uint64_t b) {
  int s = 0;
  while (s + 1 < from.num_segments && row >= from.segments[s + 1].row_begin) ++s;
  return __fmul_rn(from.scale[b], from.segments[s].weight_scale / kDenseUnit);
}

// y of four neighbours of a block of 128, by a warp.
__device__ __forceinline__ void FinishFour(const DenseOutput& from, uint64_t row, uint64_t b,
                                           float (&y)[4]) {
  FromHalves(*reinterpret_cast<const uint2*>(from.sums + b * from.stride + row), y);
  const FourHalves out_scale(from.out_scale + row);
  // Segments begin at multiples of 64 rows, so that four have the same.
  const float scale = SumScale(from, row, b);
#pragma unroll
  for (float& value : y) value = __fmul_rn(value, scale);
  WarpHadamard(y);
#pragma unroll
  for (float& value : y) value = __fmul_rn(value, from.hadamard.scale);
  out_scale.Scale(y);
}

// Where rows come from: each has Load for four neighbours of row b, called by whole warps.
struct FromFloats {
  const float* x;
  uint64_t cols;
  static constexpr bool kNorms = false;
  __device__ __forceinline__ void Load(uint64_t b, uint32_t column, float (&out)[4]) const {
    LoadFour(x + b * cols + column, out);
  }
};
struct FromResidual {
  DenseOutput added;
  NormArgs norm;
  static constexpr bool kNorms = true;
  __device__ __forceinline__ void Load(uint64_t b, uint32_t column, float (&x)[4]) const {
    float* at = norm.x + b * norm.size + column;
    LoadFour(at, x);
    if (added.num_segments > 0) {
      float y[4];
      FinishFour(added, column, b, y);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = __fadd_rn(x[j], y[j]);
      StoreFour(x, at);
    }
    bool finite = true;
#pragma unroll
    for (float value : x) finite = finite && isfinite(value);
    if (!finite) atomicMin(norm.first_bad, norm.place);
  }
};
struct FromGate {
  DenseOutput gate, up;
  static constexpr bool kNorms = false;
  __device__ __forceinline__ void Load(uint64_t b, uint32_t column, float (&x)[4]) const {
    float factor[4];
    FinishFour(gate, column, b, x);
    FinishFour(up, column, b, factor);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = SiluTimes(x[j], factor[j]);
  }
};

// Grid: rows of x.
template <typename Source>
__global__ void __launch_bounds__(32 * kMaxWarps, 1)
    KeptRowKernel(const __grid_constant__ Source from, const __grid_constant__ DenseInput to) {
  __shared__ float sums[kMaxWarps];
  const uint32_t warps = blockDim.x / 32, blocks = static_cast<uint32_t>(to.cols / kStepBlock);
  const uint64_t b = blockIdx.x;
  const auto block = [&](uint32_t turn) { return turn * warps + threadIdx.x / 32; };
  const auto column = [&](uint32_t turn) {
    return block(turn) * kStepBlock + threadIdx.x % 32 * 4;
  };
  float x[kTurns][4] = {};
#pragma unroll
  for (uint32_t t = 0; t < kTurns; ++t) {
    if (block(t) < blocks) from.Load(b, column(t), x[t]);
  }
  if constexpr (Source::kNorms) {
    float squares = 0;
#pragma unroll
    for (uint32_t t = 0; t < kTurns; ++t) squares += BlockSquares(x[t]);
    const float scale = NormScale(BlockSum(squares, sums), from.norm.size, from.norm.eps);
#pragma unroll
    for (uint32_t t = 0; t < kTurns; ++t) {
      if (block(t) >= blocks) continue;
      float weight[4];
      LoadFour(from.norm.weight + column(t), weight);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[t][j] = Normed(x[t][j], scale, weight[j]);
    }
  }
  float squares = 0;
#pragma unroll
  for (uint32_t t = 0; t < kTurns; ++t) {
    if (block(t) >= blocks) continue;
    FourHalves(to.in_scale + column(t)).Scale(x[t]);
    WarpHadamard(x[t]);
#pragma unroll
    for (float& value : x[t]) value = __fmul_rn(value, to.hadamard.scale);
    squares += BlockSquares(x[t]);
  }
  const Normalising normalising(BlockSum(squares, sums), to.cols);
#pragma unroll
  for (uint32_t t = 0; t < kTurns; ++t) {
    if (block(t) >= blocks) continue;
    *reinterpret_cast<uint2*>(to.x + b * to.stride + column(t)) =
        ToHalves(x[t], normalising.inverse);
  }
  for (uint64_t i = to.cols + threadIdx.x; i < to.stride; i += blockDim.x) {
    to.x[b * to.stride + i] = 0;
  }
  if (threadIdx.x == 0) to.scale[b] = normalising.scale;
}

// A row of any transform, a span at a time, by way of x itself.
__global__ void __launch_bounds__(kThreads)
    AnyRowKernel(float* x, const __grid_constant__ DenseInput to, uint32_t span) {
  extern __shared__ float a[];
  __shared__ float sums[kThreads / 32];
  float* row = x + blockIdx.x * to.cols;
  float squares = 0;
  for (uint64_t begin = 0; begin < to.cols; begin += span) {
    const auto count = static_cast<uint32_t>(min(uint64_t{span}, to.cols - begin));
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
      a[i] = __fmul_rn(row[begin + i], FromHalf(to.in_scale[begin + i]));
    }
    Transform(to.hadamard, count, a);
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
      const float value = __fmul_rn(a[i], to.hadamard.scale);
      squares = __fmaf_rn(value, value, squares);
      row[begin + i] = value;
    }
    __syncthreads();
  }
  const Normalising normalising(BlockSum(WarpSum(squares), sums), to.cols);
  uint16_t* out = to.x + blockIdx.x * to.stride;
  for (uint64_t i = threadIdx.x; i < to.stride; i += blockDim.x) {
    const float value = i < to.cols ? __fmul_rn(row[i], normalising.inverse) : 0;
    out[i] = __half_as_ushort(__float2half_rn(value));
  }
  if (threadIdx.x == 0) to.scale[blockIdx.x] = normalising.scale;
}

// Grid: spans of y, rows of x.
template <bool kWarps>
__global__ void __launch_bounds__(kThreads)
    FinishKernel(const __grid_constant__ DenseOutput from, float* y, uint32_t span) {
  const uint64_t b = blockIdx.y, begin = uint64_t{blockIdx.x} * span;
  const auto count = static_cast<uint32_t>(min(uint64_t{span}, from.rows - begin));
  float* out = y + b * from.rows + begin;
  if constexpr (kWarps) {
    for (uint32_t i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) {
      float values[4];
      FinishFour(from, begin + i, b, values);
      StoreFour(values, out + i);
    }
  } else {
    extern __shared__ float a[];
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
      const float sum = FromHalf(from.sums[b * from.stride + begin + i]);
      a[i] = __fmul_rn(sum, SumScale(from, begin + i, b));
    }
    Transform(from.hadamard, count, a);
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
      out[i] = __fmul_rn(__fmul_rn(a[i], from.hadamard.scale), FromHalf(from.out_scale[begin + i]));
    }
  }
}

bool IsValid(const DenseInput& to, uint64_t n) {
  return n >= 1 && n <= kMaxRows && to.cols >= 1 && to.stride >= to.cols &&
         to.stride <= UINT32_MAX && IsValid(to.hadamard) && to.cols % OrderOf(to.hadamard) == 0;
}
bool IsValid(const DenseOutput& from) {
  return from.rows >= 1 && from.rows <= UINT32_MAX && from.stride >= from.rows &&
         IsValid(from.hadamard) && from.rows % OrderOf(from.hadamard) == 0 &&
         from.num_segments >= 1 && from.num_segments <= kMaxFinishSegments;
}

template <typename Source>
int LaunchKeptRow(const Source& from, uint64_t n, const DenseInput& to, void* stream) {
  const uint64_t blocks = to.cols / kStepBlock;
  const auto warps = static_cast<unsigned>((blocks + kTurns - 1) / kTurns);
  KeptRowKernel<<<static_cast<unsigned>(n), 32 * warps, 0, static_cast<cudaStream_t>(stream)>>>(
      from, to);
  return cudaGetLastError();
}

}  // namespace

bool CanKeepRow(const DenseInput& input) {
  return IsWarpHadamard(input.hadamard) && input.cols % kStepBlock == 0 && input.cols <= kMaxKept &&
         input.stride % 4 == 0;
}
bool CanKeepRow(const DenseOutput& output) {
  return IsWarpHadamard(output.hadamard) && output.stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(output.sums) % sizeof(uint2) == 0;
}

int LaunchDensePrepare(float* x, uint64_t n, const DenseInput& to, void* stream) {
  if (!IsValid(to, n)) return cudaErrorInvalidValue;
  if (CanKeepRow(to)) return LaunchKeptRow(FromFloats{x, to.cols}, n, to, stream);
  const uint64_t span = SpanOf(to.hadamard);
  const cudaError_t error =
      cudaFuncSetAttribute(AnyRowKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared);
  if (error != cudaSuccess) return error;
  AnyRowKernel<<<static_cast<unsigned>(n), kThreads, span * sizeof(float),
                 static_cast<cudaStream_t>(stream)>>>(x, to, static_cast<uint32_t>(span));
  return cudaGetLastError();
}

int LaunchDenseFinish(const DenseOutput& from, uint64_t n, float* y, void* stream) {
  if (!IsValid(from) || n < 1 || n > kMaxRows) return cudaErrorInvalidValue;
  const auto on = static_cast<cudaStream_t>(stream);
  const bool warps = CanKeepRow(from);
  const uint64_t span = warps ? 4 * kThreads : SpanOf(from.hadamard);
  const dim3 grid(static_cast<unsigned>((from.rows + span - 1) / span), static_cast<unsigned>(n));
  if (warps) {
    FinishKernel<true><<<grid, kThreads, 0, on>>>(from, y, static_cast<uint32_t>(span));
    return cudaGetLastError();
  }
  const cudaError_t error = cudaFuncSetAttribute(
      FinishKernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared);
  if (error != cudaSuccess) return error;
  FinishKernel<false>
      <<<grid, kThreads, span * sizeof(float), on>>>(from, y, static_cast<uint32_t>(span));
  return cudaGetLastError();
}

int LaunchDenseNorm(const DenseNormArgs& args, void* stream) {
  const bool adds = args.added.num_segments != 0;
  if (!IsValid(args.to, args.norm.n) || !CanKeepRow(args.to) || args.norm.size != args.to.cols ||
      (adds &&
       (!IsValid(args.added) || !CanKeepRow(args.added) || args.added.rows != args.to.cols))) {
    return cudaErrorInvalidValue;
  }
  return LaunchKeptRow(FromResidual{args.added, args.norm}, args.norm.n, args.to, stream);
}

int LaunchDenseSilu(const DenseSiluArgs& args, void* stream) {
  for (const DenseOutput* from : {&args.gate, &args.up}) {
    if (!IsValid(*from) || !CanKeepRow(*from) || from->rows != args.to.cols) {
      return cudaErrorInvalidValue;
    }
  }
  if (!IsValid(args.to, args.n) || !CanKeepRow(args.to)) return cudaErrorInvalidValue;
  return LaunchKeptRow(FromGate{args.gate, args.up}, args.n, args.to, stream);
}

}  // namespace tq::cuda
