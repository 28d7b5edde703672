// Where transforms have 128 values, warps take 512 neighbours of a row, 16 a lane, so that of the
// seven levels of a transform four are within lanes; a thread block that takes a whole row keeps it
// in registers from one product's output to the next one's input.
#include <cuda_runtime.h>

#include "kernels/cuda/dense_steps.h"
#include "kernels/cuda/dense_weights.h"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/steps.cuh"

namespace tq::cuda {
namespace {

constexpr uint32_t kMaxWarps = 32;
constexpr uint32_t kWarpValues = 512;
constexpr uint64_t kMaxKept = uint64_t{kMaxWarps} * kWarpValues;
constexpr uint32_t kRopeWarps = 4;
constexpr int kThreads = 256;
constexpr uint64_t kMaxRows = 65535;  // of x: what a grid's second dimension takes

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
    const bool finite = isfinite(squares), zero = rms == 0;
    inverse = !finite || zero ? 0 : __fdiv_rn(1, rms);
    scale = !finite ? __int_as_float(0x7fc00000) : zero ? 0 : rms;
  }
};

// A lane's values: four neighbours at each of four places 32 apart in a block of 128 that eight
// lanes share, so that loads and stores are of whole sectors.
struct Values {
  float at[4][4];
};
struct Place {
  uint32_t first;  // column of the first
  bool inside;     // of the row
  __device__ __forceinline__ Place(uint32_t warp, uint64_t cols)
      : first(warp * kWarpValues + threadIdx.x % 32 / 8 * kStepBlock + threadIdx.x % 8 * 4),
        inside(first < cols) {}
  __device__ __forceinline__ uint32_t column(int t) const { return first + 32 * t; }
};

template <typename Function>
__device__ __forceinline__ void Map(Values& values, const Function& function) {
#pragma unroll
  for (int i = 0; i < 16; ++i) values.at[i / 4][i % 4] = function(values.at[i / 4][i % 4]);
}
__device__ __forceinline__ void Load(const float* from, const Place& place, Values& values) {
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    if (place.inside) {
      LoadFour(from + place.column(t), values.at[t]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) values.at[t][j] = 0;
    }
  }
}
__device__ __forceinline__ void Store(const Values& values, const Place& place, float* to) {
  if (!place.inside) return;
#pragma unroll
  for (int t = 0; t < 4; ++t) StoreFour(values.at[t], to + place.column(t));
}
// Times halves, IEEE binary16.
__device__ __forceinline__ void Scale(const uint16_t* halves, const Place& place, Values& values) {
  if (!place.inside) return;
#pragma unroll
  for (int t = 0; t < 4; ++t) FourHalves(halves + place.column(t)).Scale(values.at[t]);
}

// H of each block of 128, with butterflies in the order of hadamard.h.
__device__ __forceinline__ void Hadamard(float scale, Values& values) {
  auto& x = values.at;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const float a = x[t][0] + x[t][1], b = x[t][0] - x[t][1];
    const float c = x[t][2] + x[t][3], d = x[t][2] - x[t][3];
    x[t][0] = a + c, x[t][2] = a - c, x[t][1] = b + d, x[t][3] = b - d;
  }
#pragma unroll
  for (uint32_t step = 1; step < 8; step *= 2) {
    const float sign = (threadIdx.x & step) != 0 ? -1 : 1;
    Map(values,
        [&](float value) { return __fmaf_rn(value, sign, __shfl_xor_sync(~0u, value, step)); });
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float a = x[0][j] + x[1][j], b = x[0][j] - x[1][j];
    const float c = x[2][j] + x[3][j], d = x[2][j] - x[3][j];
    x[0][j] = (a + c) * scale, x[2][j] = (a - c) * scale;
    x[1][j] = (b + d) * scale, x[3][j] = (b - d) * scale;
  }
}
__device__ __forceinline__ float Squares(const Values& values) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    sum = __fmaf_rn(values.at[i / 4][i % 4], values.at[i / 4][i % 4], sum);
  }
  return WarpSum(sum);
}

// What the sums of a row of the matrix are worth in row b of x.
__device__ __forceinline__ float SumScale(const DenseOutput& from, uint64_t row, uint64_t b) {
  return __fmul_rn(from.scale[b], SegmentOf(from, row).weight_scale / kDenseUnit);
}

// y of row b, by whole warps.
__device__ __forceinline__ void Finish(const DenseOutput& from, uint64_t b, const Place& place,
                                       Values& y) {
  const uint16_t* sums = from.sums + b * from.stride;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const uint2 halves =
        place.inside ? *reinterpret_cast<const uint2*>(sums + place.column(t)) : uint2{0, 0};
    UnpackHalves(halves, y.at[t]);
  }
  // Segments begin at multiples of 64 rows.
#pragma unroll
  for (int t = 0; t < 4; t += 2) {
    const float scale = place.inside ? SumScale(from, place.column(t), b) : 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) y.at[t][j] *= scale, y.at[t + 1][j] *= scale;
  }
  Hadamard(from.hadamard.scale, y);
  Scale(from.out_scale, place, y);
}

// Where rows come from: each has Get for a lane's values of row b, called by whole warps.
struct FromFloats {
  const float* x;
  uint64_t cols;
  static constexpr bool kNorms = false;
  __device__ __forceinline__ void Get(uint64_t b, const Place& place, Values& values) const {
    Load(x + b * cols, place, values);
  }
};
struct FromResidual {
  DenseOutput added;
  NormArgs norm;
  static constexpr bool kNorms = true;
  __device__ __forceinline__ void Get(uint64_t b, const Place& place, Values& x) const {
    float* row = norm.x + b * norm.size;
    Load(row, place, x);
    if (added.num_segments > 0) {
      Values y;
      Finish(added, b, place, y);
#pragma unroll
      for (int t = 0; t < 4; ++t) {
#pragma unroll
        for (int j = 0; j < 4; ++j) x.at[t][j] = __fadd_rn(x.at[t][j], y.at[t][j]);
      }
      Store(x, place, row);
    }
    bool finite = true;
#pragma unroll
    for (int i = 0; i < 16; ++i) finite = finite && isfinite(x.at[i / 4][i % 4]);
    if (!finite) atomicMin(norm.first_bad, norm.place);
  }
};
struct FromGate {
  DenseOutput gate, up;
  static constexpr bool kNorms = false;
  __device__ __forceinline__ void Get(uint64_t b, const Place& place, Values& x) const {
    Values factor;
    Finish(gate, b, place, x);
    Finish(up, b, place, factor);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float value = x.at[t][j];
        // To 17 bits at least where it counts, for a value that becomes one of 11.
        x.at[t][j] = __fdividef(value, 1 + __expf(-value)) * factor.at[t][j];
      }
    }
  }
};

// Grid: rows of x.
template <typename Source>
__global__ void __launch_bounds__(32 * kMaxWarps, 1)
    KeptRowKernel(const __grid_constant__ Source from, const __grid_constant__ DenseInput to) {
  __shared__ float sums[kMaxWarps];
  const uint64_t b = blockIdx.x;
  const Place place(threadIdx.x / 32, to.cols);
  Values x;
  from.Get(b, place, x);
  if constexpr (Source::kNorms) {
    const float scale = NormScale(BlockSum(Squares(x), sums), from.norm.size, from.norm.eps);
    Values weight;
    Load(from.norm.weight, place, weight);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
#pragma unroll
      for (int j = 0; j < 4; ++j) x.at[t][j] = Normed(x.at[t][j], scale, weight.at[t][j]);
    }
  }
  Scale(to.in_scale, place, x);
  Hadamard(to.hadamard.scale, x);
  const Normalising normalising(BlockSum(Squares(x), sums), to.cols);
  Map(x, [&](float value) { return value * normalising.inverse; });
  if (place.inside) {
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      *reinterpret_cast<uint2*>(to.x + b * to.stride + place.column(t)) = PackHalves(x.at[t]);
    }
  }
  for (uint64_t i = to.cols + threadIdx.x; i < to.stride; i += blockDim.x) {
    to.x[b * to.stride + i] = 0;
  }
  // It may be the scale that Get has read: the sum above is a barrier.
  if (threadIdx.x == 0) to.scale[b] = normalising.scale;
}

// A warp's values of queries, keys or values, turned. The other half of a head is in the same lane.
__device__ __forceinline__ void Turn(const RopeArgs& rope, uint64_t b, const Place& place,
                                     Values& y) {
  const uint32_t half = rope.head_dim / 2;
  const int apart = static_cast<int>(half / 32);  // 2, or 1 for heads of 64
  if (!place.inside) return;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    if ((t & apart) != 0) continue;
    const uint64_t at = b * half + place.column(t) % half;
    float cosines[4], sines[4];
    LoadFour(rope.cosines + at, cosines);
    LoadFour(rope.sines + at, sines);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& second = apart == 2 ? y.at[(t + 2) % 4][j] : y.at[(t + 1) % 4][j];
      const float first = y.at[t][j], other = second;
      y.at[t][j] = Turned(first, other, cosines[j], sines[j], false);
      second = Turned(other, first, cosines[j], sines[j], true);
    }
  }
}

// Grid: thread blocks of kRopeWarps warps through the queries, then the keys, then the values; rows
// of x.
__global__ void __launch_bounds__(32 * kRopeWarps)
    RopeKernel(const __grid_constant__ DenseRopeArgs args, uint32_t q_warps, uint32_t kv_warps) {
  const uint32_t warp = blockIdx.x * kRopeWarps + threadIdx.x / 32;
  const uint64_t b = blockIdx.y;
  const RopeArgs& rope = args.rope;
  Values y;
  if (warp < q_warps) {
    const Place place(warp, args.q.rows);
    Finish(args.q, b, place, y);
    Turn(rope, b, place, y);
    Store(y, place, rope.queries + b * args.q.rows);
    return;
  }
  if (warp >= q_warps + 2 * kv_warps) return;
  const bool is_value = warp >= q_warps + kv_warps;
  const Place place(warp - q_warps - (is_value ? kv_warps : 0), args.k.rows);
  if (is_value) {
    Finish(args.v, b, place, y);
  } else {
    Finish(args.k, b, place, y);
    Turn(rope, b, place, y);
  }
  if (!place.inside) return;
  uint16_t* cache = is_value ? rope.cache.values : rope.cache.keys;
  const uint64_t position = uint64_t{*rope.base} + b;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const uint32_t head = place.column(t) / rope.head_dim, at = place.column(t) % rope.head_dim;
    *reinterpret_cast<uint2*>(cache + head * rope.cache.stride + position * rope.head_dim + at) =
        PackHalves(y.at[t]);
  }
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

// Grid: thread blocks of kThreads through y, rows of x.
__global__ void __launch_bounds__(kThreads)
    FinishKernel(const __grid_constant__ DenseOutput from, float* y) {
  const uint64_t b = blockIdx.y;
  const Place place(blockIdx.x * (kThreads / 32) + threadIdx.x / 32, from.rows);
  Values values;
  Finish(from, b, place, values);
  Store(values, place, y + b * from.rows);
}

// Of any transform. Grid: spans of y, rows of x.
__global__ void __launch_bounds__(kThreads)
    AnyFinishKernel(const __grid_constant__ DenseOutput from, float* y, uint32_t span) {
  extern __shared__ float a[];
  const uint64_t b = blockIdx.y, begin = uint64_t{blockIdx.x} * span;
  const auto count = static_cast<uint32_t>(min(uint64_t{span}, from.rows - begin));
  float* out = y + b * from.rows + begin;
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    const float sum = FromHalf(from.sums[b * from.stride + begin + i]);
    a[i] = __fmul_rn(sum, SumScale(from, begin + i, b));
  }
  Transform(from.hadamard, count, a);
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    out[i] = __fmul_rn(__fmul_rn(a[i], from.hadamard.scale), FromHalf(from.out_scale[begin + i]));
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

bool IsAligned(const float* x) { return reinterpret_cast<uintptr_t>(x) % sizeof(float4) == 0; }
unsigned WarpsOf(uint64_t values) {
  return static_cast<unsigned>((values + kWarpValues - 1) / kWarpValues);
}

template <typename Source>
int LaunchKeptRow(const Source& from, uint64_t n, const DenseInput& to, void* stream) {
  const unsigned warps = WarpsOf(to.cols);
  KeptRowKernel<<<static_cast<unsigned>(n), 32 * warps, 0, static_cast<cudaStream_t>(stream)>>>(
      from, to);
  return cudaGetLastError();
}

}  // namespace

bool CanKeepRow(const DenseInput& input) {
  return IsWarpHadamard(input.hadamard) && input.cols % kStepBlock == 0 && input.cols <= kMaxKept &&
         input.stride % 4 == 0;
}
bool CanKeepRope(uint32_t head_dim) { return head_dim == 64 || head_dim == 128; }
bool CanKeepRow(const DenseOutput& output) {
  for (int s = 0; s < output.num_segments; ++s) {
    if (output.segments[s].row_begin % 64 != 0) return false;
  }
  return IsWarpHadamard(output.hadamard) && output.stride % 4 == 0 &&
         output.rows % kStepBlock == 0 &&
         reinterpret_cast<uintptr_t>(output.sums) % sizeof(uint2) == 0;
}

int LaunchDensePrepare(float* x, uint64_t n, const DenseInput& to, void* stream) {
  if (!IsValid(to, n)) return cudaErrorInvalidValue;
  if (CanKeepRow(to) && IsAligned(x)) return LaunchKeptRow(FromFloats{x, to.cols}, n, to, stream);
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
  const auto rows = static_cast<unsigned>(n);
  if (CanKeepRow(from) && IsAligned(y)) {
    constexpr unsigned kWarps = kThreads / 32;
    const dim3 grid((WarpsOf(from.rows) + kWarps - 1) / kWarps, rows);
    FinishKernel<<<grid, kThreads, 0, on>>>(from, y);
    return cudaGetLastError();
  }
  const uint64_t span = SpanOf(from.hadamard);
  const cudaError_t error = cudaFuncSetAttribute(
      AnyFinishKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>((from.rows + span - 1) / span), rows);
  AnyFinishKernel<<<grid, kThreads, span * sizeof(float), on>>>(from, y,
                                                                static_cast<uint32_t>(span));
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

int LaunchDenseRope(const DenseRopeArgs& args, void* stream) {
  const RopeArgs& rope = args.rope;
  const uint64_t kv = uint64_t{rope.kv_heads} * rope.head_dim;
  for (const DenseOutput* from : {&args.q, &args.k, &args.v}) {
    const uint64_t rows = from == &args.q ? uint64_t{rope.heads} * rope.head_dim : kv;
    if (!IsValid(*from) || !CanKeepRow(*from) || from->rows != rows) return cudaErrorInvalidValue;
  }
  if (!CanKeepRope(rope.head_dim) || rope.n < 1 || rope.n > kMaxRows ||
      rope.cache.stride % 4 != 0) {
    return cudaErrorInvalidValue;
  }
  const unsigned q_warps = WarpsOf(args.q.rows), kv_warps = WarpsOf(kv);
  const dim3 grid((q_warps + 2 * kv_warps + kRopeWarps - 1) / kRopeWarps,
                  static_cast<unsigned>(rope.n));
  RopeKernel<<<grid, 32 * kRopeWarps, 0, static_cast<cudaStream_t>(stream)>>>(args, q_warps,
                                                                              kv_warps);
  return cudaGetLastError();
}

}  // namespace tq::cuda
