// The activation kernels. Floats are added in the order of their twins on the CPU, with no fused
// multiply-add, so that all bits are the same.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/steps.cuh"

namespace tq::cuda {
namespace {

using trellis::Code;

// Layouts of activations depend on V alone: any code of it.
template <int V>
constexpr Code kCode = {V, V == 4 ? 2 : 4, 16};

constexpr int kThreads = 256;
// Units that a thread block lays out: an item of 4 or 8 slots per thread.
constexpr uint32_t kLayOutUnits = kThreads / (4 * kUnitTiles);
// Columns with the padding of any V.
constexpr uint64_t PaddedColumns(uint64_t cols) {
  return UnitsAcross(kCode<4>, cols) * UnitColumns(kCode<4>);
}

// A span of a: scaled, rotated, combined. partial [n][spans]: the largest |a| of each as its
// float's bits, so that a NaN or an infinity shows.
template <int V>
__global__ void __launch_bounds__(kThreads)
    RotateKernel(const PrepareArgs args, uint32_t span, uint32_t padded, uint32_t* partial) {
  extern __shared__ float a[];
  __shared__ uint32_t largest_of_all;
  ptx::StartNextKernel();
  if (threadIdx.x == 0) largest_of_all = 0;
  const auto cols = static_cast<uint32_t>(args.cols);
  const uint32_t begin = blockIdx.x * span, count = min(span, cols - begin);
  const float* x = args.x + blockIdx.y * args.cols + begin;
  float* out = args.scratch + uint64_t{blockIdx.y} * padded + begin;
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    a[i] = __fmul_rn(x[i], FromHalf(args.in_scale[begin + i]));
  }
  Transform(args.hadamard, count, a);
  uint32_t largest = 0;
  for (uint32_t i = threadIdx.x * V; i < count; i += blockDim.x * V) {
    float run[V];
#pragma unroll
    for (int v = 0; v < V; ++v) run[v] = __fmul_rn(a[i + v], args.hadamard.scale);
    Combine<V>(run);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      out[i + v] = run[v];
      largest = max(largest, __float_as_uint(run[v]) & 0x7fffffffu);
    }
  }
  if (begin + count == cols) {
    for (uint32_t i = cols + threadIdx.x; i < padded; i += blockDim.x) out[i - begin] = 0;
  }
  largest = __reduce_max_sync(~0u, largest);
  if (threadIdx.x % 32 == 0) atomicMax(&largest_of_all, largest);
  __syncthreads();
  if (threadIdx.x == 0) {
    partial[blockIdx.y * gridDim.x + blockIdx.x] = largest_of_all;
    if (blockIdx.x == 0) args.sum[blockIdx.y] = 0;
  }
}

// Rounds the kSlots values of a lane's windows in a tile and stores their digits. Returns their
// sum.
template <int V>
__device__ __forceinline__ int LayOutTile(const float* tile, int c, float inverse,
                                          uint32_t* high_out, uint32_t* low_out) {
  constexpr Code C = kCode<V>;
  constexpr int kSlots = SlotsPerTile(C);
  uint32_t high[kSlots / 4] = {}, low[kSlots / 4] = {};
  int sum = 0;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int q = RoundActivation(tile[SlotColumn(C, c, slot)], inverse);
    const int low_digit = LowDigit(q);
    sum += q;
    high[slot / 4] |= ((q - low_digit) / 128 & 255u) << 8 * (slot % 4);
    low[slot / 4] |= (low_digit & 255u) << 8 * (slot % 4);
  }
#pragma unroll
  for (int w = 0; w < kSlots / 4; ++w) high_out[w] = high[w], low_out[w] = low[w];
  return sum;
}

// kLayOutUnits units of one row of x: integers and their digits (trellis_units.h).
template <int V>
__global__ void __launch_bounds__(kThreads)
    LayOutKernel(const PrepareArgs args, uint32_t spans, uint32_t padded, const uint32_t* partial) {
  constexpr Code C = kCode<V>;
  constexpr int kSlots = SlotsPerTile(C);
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  const uint32_t row = blockIdx.y;
  uint32_t bits = 0;
  for (uint32_t i = threadIdx.x % 32; i < spans; i += 32) {
    bits = max(bits, partial[row * spans + i]);
  }
  bits = __reduce_max_sync(~0u, bits);
  const Rounding rounding = RoundingOf(bits);

  const uint32_t tile = threadIdx.x % kUnitTiles, c = threadIdx.x / kUnitTiles % 4;
  const uint32_t unit = blockIdx.x * kLayOutUnits + threadIdx.x / kUnitTiles / 4;
  int sum = 0;
  if (unit < UnitsAcross(C, args.cols)) {
    const uint64_t digits = 2 * args.n, at = (uint64_t{unit} * 4 + c) * digits + 2 * row;
    auto* out = reinterpret_cast<uint32_t*>(args.activations + (at * kUnitTiles + tile) * kSlots);
    uint32_t* low = out + kUnitTiles * kSlots / 4;
    if (rounding.zero) {
      for (int w = 0; w < kSlots / 4; ++w) out[w] = low[w] = 0;
    } else {
      const uint64_t column = (uint64_t{unit} * kUnitTiles + tile) * trellis::ShapeOf(C).columns;
      sum = LayOutTile<V>(args.scratch + uint64_t{row} * padded + column, static_cast<int>(c),
                          rounding.inverse, out, low);
    }
  }
  sum = __reduce_add_sync(~0u, sum);
  if (threadIdx.x % 32 == 0 && sum != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(args.sum + row),
              static_cast<unsigned long long>(static_cast<int64_t>(sum)));
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) args.scale[row] = rounding.scale;
}

// Where a matrix' thread blocks begin, and the rows of each: whole blocks of its transform.
struct FinishGrid {
  uint32_t first_block[kMaxFinishMatrices + 1];
  uint32_t span[kMaxFinishMatrices];
};

// A span of y of one row of x.
__global__ void __launch_bounds__(kThreads)
    FinishKernel(const __grid_constant__ FinishArgs args, const FinishGrid grid) {
  extern __shared__ float y[];
  int m = 0;
  while (blockIdx.x >= grid.first_block[m + 1]) ++m;
  const FinishMatrix& matrix = args.matrices[m];
  const uint64_t begin = uint64_t{blockIdx.x - grid.first_block[m]} * grid.span[m];
  const uint64_t b = blockIdx.y;
  const auto count = static_cast<uint32_t>(min(uint64_t{grid.span[m]}, matrix.rows - begin));
  int64_t* sums = args.sums + b * args.sum_stride;
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    y[i] = FinishSum(matrix, begin + i, b, sums);
  }
  if (begin == 0) ClearPadding(matrix, sums, threadIdx.x, blockDim.x);
  Transform(matrix.hadamard, count, y);
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    matrix.y[b * matrix.rows + begin + i] =
        __fmul_rn(__fmul_rn(y[i], matrix.hadamard.scale), FromHalf(matrix.out_scale[begin + i]));
  }
}

template <int V>
int Prepare(const PrepareArgs& args, cudaStream_t stream) {
  const uint64_t span = SpanOf(args.hadamard);
  const auto spans = static_cast<unsigned>((args.cols + span - 1) / span);
  const auto padded = static_cast<uint32_t>(PaddedColumns(args.cols));
  const auto rows = static_cast<unsigned>(args.n);
  auto* partial = reinterpret_cast<uint32_t*>(args.scratch + args.n * padded);
  cudaError_t error = cudaFuncSetAttribute(RotateKernel<V>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared);
  if (error != cudaSuccess) return error;
  RotateKernel<V><<<dim3(spans, rows), kThreads, span * sizeof(float), stream>>>(
      args, static_cast<uint32_t>(span), padded, partial);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  const uint64_t units = UnitsAcross(kCode<V>, args.cols);
  const dim3 grid(static_cast<unsigned>((units + kLayOutUnits - 1) / kLayOutUnits), rows);
  return LaunchOverlapped(LayOutKernel<V>, {grid, kThreads, 0, stream}, args, spans, padded,
                          partial);
}

}  // namespace

uint64_t PrepareScratchFloats(uint64_t n, uint64_t cols) {
  // A row of floats, and the largest of each span: spans have kSpan / 2 columns at least.
  return n * (PaddedColumns(cols) + cols / (kSpan / 2) + 1);
}

int LaunchPrepare(const PrepareArgs& args, void* stream) {
  if (args.n < 1 || args.n > kMaxGemvRows || args.cols < 1 || args.cols > UINT32_MAX / 2 ||
      args.values < 1 || !IsValid(args.hadamard) || args.cols % OrderOf(args.hadamard) != 0 ||
      args.cols % static_cast<uint64_t>(args.values) != 0) {
    return cudaErrorInvalidValue;
  }
  const auto on = static_cast<cudaStream_t>(stream);
  switch (args.values) {
    case 1:
      return Prepare<1>(args, on);
    case 2:
      return Prepare<2>(args, on);
    case 4:
      return Prepare<4>(args, on);
    default:
      return cudaErrorInvalidValue;
  }
}

int LaunchFinish(const FinishArgs& args, void* stream) {
  if (args.n < 1 || args.n > kMaxGemvRows || args.num_matrices < 1 ||
      args.num_matrices > kMaxFinishMatrices) {
    return cudaErrorInvalidValue;
  }
  FinishGrid grid = {};
  uint64_t blocks = 0, most = 0;
  for (int m = 0; m < kMaxFinishMatrices; ++m) {
    if (m < args.num_matrices) {
      const FinishMatrix& matrix = args.matrices[m];
      if (matrix.rows < 1 || matrix.rows > UINT32_MAX || !IsValid(matrix.hadamard) ||
          matrix.rows % OrderOf(matrix.hadamard) != 0 || matrix.num_segments < 1 ||
          matrix.num_segments > kMaxFinishSegments) {
        return cudaErrorInvalidValue;
      }
      const uint64_t span = SpanOf(matrix.hadamard);
      grid.span[m] = static_cast<uint32_t>(span);
      blocks += (matrix.rows + span - 1) / span;
      most = std::max(most, span);
    }
    grid.first_block[m + 1] = static_cast<uint32_t>(blocks);
  }
  const cudaError_t error =
      cudaFuncSetAttribute(FinishKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared);
  if (error != cudaSuccess) return error;
  FinishKernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(args.n)), kThreads,
                 most * sizeof(float), static_cast<cudaStream_t>(stream)>>>(args, grid);
  return cudaGetLastError();
}

}  // namespace tq::cuda
