// A warp takes a block of 128 values, four a lane, from the sums of one product to the integers of
// the next, all in registers. A cluster of thread blocks takes a row of x: what depends on all its
// values (the norm, the largest value) goes through shared memory.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/fused_steps.h"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/steps.cuh"

namespace tq::cuda {
namespace {

using trellis::Code;

constexpr uint32_t kCluster = 8;
constexpr uint32_t kMaxWarps = 32;
// A block per warp.
constexpr uint32_t kMaxBlocks = kCluster * kMaxWarps;
constexpr uint64_t kMaxColumns = uint64_t{kMaxBlocks} * kStepBlock;
// Blocks of positions that are read together need registers.
constexpr uint32_t kMaxAttentionWarps = kMaxWarps / 2;

// Blocks of a row with the padding that units of any V have.
constexpr uint32_t PaddedBlocks(uint64_t cols) {
  constexpr uint64_t kUnit = 2 * kStepBlock;
  return static_cast<uint32_t>((cols + kUnit - 1) / kUnit * 2);
}

// Four neighbouring sums of row b of x on their way to y: first all loads, so that they wait for
// memory together. Segments begin at multiples of 64 rows, so that four rows have the same.
struct Sums {
  longlong2* at;
  longlong2 low, high;
  float scale;
  int64_t sum_of_x;
  double weight_scale, centre;

  __device__ __forceinline__ Sums(const FinishMatrix& matrix, uint64_t row, uint64_t b,
                                  int64_t* sums) {
    const FinishSegment& segment = SegmentOf(matrix, row);
    at = reinterpret_cast<longlong2*>(sums + segment.sums_begin + (row - segment.row_begin));
    low = at[0], high = at[1];
    scale = segment.scale[b];
    sum_of_x = segment.sum[b];
    weight_scale = static_cast<double>(segment.weight_scale);
    centre = -trellis::SumCentre(segment.values);
  }
  // y; the sums become 0.
  __device__ __forceinline__ void Finish(const FinishMatrix& matrix, const FourHalves& out_scale,
                                         float (&y)[4]) const {
    at[0] = at[1] = {};
    const double factor = static_cast<double>(scale) * weight_scale;
    const double bias = centre * static_cast<double>(sum_of_x);
    const long long sums[4] = {low.x, low.y, high.x, high.y};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      y[j] = static_cast<float>((static_cast<double>(sums[j]) + bias) * factor);
    }
    WarpHadamard(y);
#pragma unroll
    for (float& value : y) value = __fmul_rn(value, matrix.hadamard.scale);
    out_scale.Scale(y);
  }
};

// The words of all warps of a cluster, by their blocks.
struct Exchange {
  uint32_t words[kMaxBlocks];

  __device__ void Publish(uint32_t block, uint32_t word) {
    const uint32_t lane = threadIdx.x % 32;
    if (lane < kCluster) ptx::StoreInCluster(&words[block], lane, word);
  }
  __device__ uint32_t Largest(uint32_t blocks) const {
    uint32_t largest = 0;
    for (uint32_t i = threadIdx.x % 32; i < blocks; i += 32) largest = max(largest, words[i]);
    return __reduce_max_sync(~0u, largest);
  }
};
struct Exchanges {
  Exchange squares, largest[kMaxOperands];
};
__device__ __forceinline__ void ClusterBarrier() {
  ptx::ArriveAtCluster();
  ptx::WaitForCluster();
}

// Which block of which row a warp has.
struct Place {
  uint32_t block, blocks;  // with padding
  uint32_t row;
  uint32_t column;  // the lane's first
  bool inside;      // not padding

  __device__ explicit Place(uint64_t cols)
      : block(ptx::ClusterRank() * (blockDim.x / 32) + threadIdx.x / 32),
        blocks(PaddedBlocks(cols)),
        row(blockIdx.y),
        column(block * kStepBlock + threadIdx.x % 32 * 4),
        inside(column < cols) {}
};

// V neighbours at a time: their combined values, and the largest magnitude's bits.
template <int V>
__device__ __forceinline__ uint32_t CombineAll(float (&x)[4]) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 4; i += V) {
    float run[V];
#pragma unroll
    for (int v = 0; v < V; ++v) run[v] = x[i + v];
    Combine<V>(run);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      x[i + v] = run[v];
      largest = max(largest, __float_as_uint(run[v]) & 0x7fffffffu);
    }
  }
  return largest;
}
__device__ __forceinline__ uint32_t CombineFor(int values, float (&x)[4]) {
  return values == 1 ? CombineAll<1>(x) : values == 2 ? CombineAll<2>(x) : CombineAll<4>(x);
}

// Rounds and stores a lane's values where the layout of trellis_units.h wants them: V neighbours
// are neighbouring slots. Returns their sum.
template <int V>
__device__ __forceinline__ int StoreAll(const float (&x)[4], const Rounding& rounding,
                                        uint32_t column, uint64_t n, uint32_t row, uint8_t* out) {
  constexpr Code C = {V, V == 4 ? 2 : 4, 16};
  constexpr uint32_t kColumns = trellis::ShapeOf(C).columns, kSlots = SlotsPerTile(C);
  const uint32_t tile = column / kColumns, unit = tile / kUnitTiles;
  int sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < 4; i += V) {
    // Columns of a tile are [windows' half or quarter][c: 4][V].
    const uint32_t at = (column + i) % kColumns;
    const uint32_t c = at / V % 4, slot = at / (4 * V) * V;
    const uint64_t digit = (uint64_t{unit} * 4 + c) * 2 * n + 2 * row;
    uint8_t* high = out + (digit * kUnitTiles + tile % kUnitTiles) * kSlots + slot;
    uint8_t* low = high + kUnitTiles * kSlots;
    uint32_t highs = 0, lows = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int q = rounding.zero ? 0 : RoundActivation(x[i + v], rounding.inverse);
      const int low_digit = LowDigit(q);
      sum += q;
      highs |= ((q - low_digit) / 128 & 255u) << 8 * v;
      lows |= (low_digit & 255u) << 8 * v;
    }
    if constexpr (V == 1) {
      *high = static_cast<uint8_t>(highs), *low = static_cast<uint8_t>(lows);
    } else if constexpr (V == 2) {
      *reinterpret_cast<uint16_t*>(high) = static_cast<uint16_t>(highs);
      *reinterpret_cast<uint16_t*>(low) = static_cast<uint16_t>(lows);
    } else {
      *reinterpret_cast<uint32_t*>(high) = highs, *reinterpret_cast<uint32_t*>(low) = lows;
    }
  }
  return sum;
}
__device__ __forceinline__ int StoreFor(int values, const float (&x)[4], const Rounding& rounding,
                                        uint32_t column, uint64_t n, uint32_t row, uint8_t* out) {
  if (values == 1) return StoreAll<1>(x, rounding, column, n, row, out);
  if (values == 2) return StoreAll<2>(x, rounding, column, n, row, out);
  return StoreAll<4>(x, rounding, column, n, row, out);
}

// From a lane's values of x (0 in padding) to a product's input. All threads of a cluster call it,
// after its thread blocks have started.
__device__ __forceinline__ void PrepareInput(const ProductInput& to, const Place& place, uint64_t n,
                                             const FourHalves& in_scale, float (&x)[4],
                                             Exchanges& exchanges) {
  in_scale.Scale(x);
  WarpHadamard(x);
#pragma unroll
  for (float& value : x) value = __fmul_rn(value, to.hadamard.scale);
#pragma unroll 1
  for (int i = 0; i < to.num_operands; ++i) {
    float combined[4] = {x[0], x[1], x[2], x[3]};
    const uint32_t largest = CombineFor(to.operands[i].values, combined);
    const uint32_t of_block = __reduce_max_sync(~0u, largest);
    if (place.block < place.blocks) exchanges.largest[i].Publish(place.block, of_block);
    if (place.block == 0 && threadIdx.x == 0) to.operands[i].sum[place.row] = 0;
  }
  ClusterBarrier();
  if (place.block >= place.blocks) return;
#pragma unroll 1
  for (int i = 0; i < to.num_operands; ++i) {
    const ProductInput::Operand& operand = to.operands[i];
    const Rounding rounding = RoundingOf(exchanges.largest[i].Largest(place.blocks));
    const uint32_t unit = kUnitTiles * (operand.values == 4 ? 32 : 16);
    if (place.column >= (to.cols + unit - 1) / unit * unit) continue;
    float combined[4] = {x[0], x[1], x[2], x[3]};
    CombineFor(operand.values, combined);
    int sum = StoreFor(operand.values, combined, rounding, place.column, n, place.row,
                       operand.activations);
    sum = __reduce_add_sync(~0u, sum);
    if (threadIdx.x % 32 != 0) continue;
    if (sum != 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(operand.sum + place.row),
                static_cast<unsigned long long>(static_cast<int64_t>(sum)));
    }
    if (place.block == 0) operand.scale[place.row] = rounding.scale;
  }
}

// Grid of the kernels in clusters: kCluster thread blocks, rows of x. What no kernel writes is read
// before the one in front has ended. Padding reads what lies in the first block.
__global__ void __launch_bounds__(32 * kMaxWarps)
    FusedNormKernel(const __grid_constant__ FusedNormArgs args) {
  __shared__ Exchanges exchanges;
  ptx::ArriveAtClusterFirst();
  const Place place(args.to.cols);
  const uint32_t column = place.inside ? place.column : 0;
  const bool adds = args.added.num_segments > 0;
  const FourHalves in_scale(args.to.in_scale + column);
  const FourHalves out_scale(adds ? args.added.out_scale + column : args.to.in_scale);
  float weight[4], x[4] = {};
  LoadFour(args.norm.weight + column, weight);
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  if (place.inside) {
    float* at = args.norm.x + place.row * args.norm.size + column;
    LoadFour(at, x);
    if (adds) {
      int64_t* sums = args.sums.sums + place.row * args.sums.stride;
      float y[4];
      Sums(args.added, column, place.row, sums).Finish(args.added, out_scale, y);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = __fadd_rn(x[j], y[j]);
      StoreFour(x, at);
      if (place.block == 0) ClearPadding(args.added, sums, threadIdx.x % 32, 32);
    }
    bool finite = true;
#pragma unroll
    for (float value : x) finite = finite && isfinite(value);
    if (!finite) atomicMin(args.norm.first_bad, args.norm.place);
  }
  const float squares = BlockSquares(x);
  ptx::WaitForCluster();
  if (place.block < place.blocks) {
    exchanges.squares.Publish(place.block, __float_as_uint(squares));
  }
  ClusterBarrier();
  const auto* of_blocks = reinterpret_cast<const float*>(exchanges.squares.words);
  const float scale =
      NormScale(SumOfBlocks(of_blocks, place.blocks), args.norm.size, args.norm.eps);
#pragma unroll
  for (int j = 0; j < 4; ++j) x[j] = Normed(x[j], scale, weight[j]);
  PrepareInput(args.to, place, args.norm.n, in_scale, x, exchanges);
}

__global__ void __launch_bounds__(32 * kMaxWarps)
    FusedSiluKernel(const __grid_constant__ FusedSiluArgs args) {
  __shared__ Exchanges exchanges;
  ptx::ArriveAtClusterFirst();
  const Place place(args.to.cols);
  const uint32_t column = place.inside ? place.column : 0;
  const FourHalves in_scale(args.to.in_scale + column);
  const FourHalves gate_scale(args.gate.out_scale + column), up_scale(args.up.out_scale + column);
  float x[4] = {};
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  if (place.inside) {
    int64_t* sums = args.sums.sums + place.row * args.sums.stride;
    const Sums gate(args.gate, column, place.row, sums), up(args.up, column, place.row, sums);
    float factor[4];
    gate.Finish(args.gate, gate_scale, x);
    up.Finish(args.up, up_scale, factor);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = SiluTimes(x[j], factor[j]);
    if (place.block == 0) {
      ClearPadding(args.gate, sums, threadIdx.x % 32, 32);
      ClearPadding(args.up, sums, threadIdx.x % 32, 32);
    }
  }
  ptx::WaitForCluster();
  PrepareInput(args.to, place, args.n, in_scale, x, exchanges);
}

__global__ void __launch_bounds__(32 * kMaxAttentionWarps)
    FusedAttentionKernel(const __grid_constant__ FusedAttentionArgs args) {
  __shared__ Exchanges exchanges;
  ptx::ArriveAtClusterFirst();
  const Place place(args.to.cols);
  const AttentionArgs& attention = args.attention;
  const uint32_t column = place.inside ? place.column : 0;
  const FourHalves in_scale(args.to.in_scale + column);
  float x[4] = {};
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  if (place.inside) {
    const uint32_t d = attention.head_dim;
    const uint64_t head = uint64_t{place.row} * attention.heads + column / d;
    CombineBlocks(attention.scratch + head * attention.blocks * PartialFloats(d), d,
                  AttentionBlocks(*attention.base + place.row + 1), column % d, x);
  }
  ptx::WaitForCluster();
  PrepareInput(args.to, place, attention.n, in_scale, x, exchanges);
}

constexpr uint32_t kRopeWarps = 4;

// Grid: blocks of 128 values of queries, keys and values, kRopeWarps a thread block; rows of x.
__global__ void __launch_bounds__(32 * kRopeWarps)
    FusedRopeKernel(const __grid_constant__ FusedRopeArgs args) {
  const RopeArgs& rope = args.rope;
  const uint32_t lane = threadIdx.x % 32, row = blockIdx.y, d = rope.head_dim;
  const auto q_blocks = static_cast<uint32_t>(args.q.rows / kStepBlock);
  const auto kv_blocks = static_cast<uint32_t>(args.k.rows / kStepBlock);
  const uint32_t block = blockIdx.x * kRopeWarps + threadIdx.x / 32;
  if (block >= q_blocks + 2 * kv_blocks) return;
  const bool is_query = block < q_blocks, is_value = block >= q_blocks + kv_blocks;
  const FinishMatrix& matrix = is_query ? args.q : is_value ? args.v : args.k;
  const uint32_t first = is_query ? 0 : is_value ? q_blocks + kv_blocks : q_blocks;
  const uint32_t at = (block - first) * kStepBlock + 4 * lane;
  const FourHalves out_scale(matrix.out_scale + at);
  const uint32_t half = d / 2, in_head = at % d, i = in_head % half;
  const bool is_second = in_head >= half;
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  int64_t* row_sums = args.sums.sums + row * args.sums.stride;
  float y[4], cosines[4], sines[4];
  const Sums sums(matrix, at, row, row_sums);
  LoadFour(rope.cosines + uint64_t{row} * half + i, cosines);
  LoadFour(rope.sines + uint64_t{row} * half + i, sines);
  const uint64_t position = uint64_t{*rope.base} + row;
  sums.Finish(matrix, out_scale, y);
  if (block == first) ClearPadding(matrix, row_sums, lane, 32);
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    const float other = __shfl_xor_sync(~0u, y[j], half / 4);
    if (!is_value) y[j] = Turned(y[j], other, cosines[j], sines[j], is_second);
  }
  if (is_query) {
    StoreFour(y, rope.queries + row * args.q.rows + at);
    return;
  }
  uint16_t* out = (is_value ? rope.cache.values : rope.cache.keys) + at / d * rope.cache.stride +
                  position * d + in_head;
  const __half2 low = __floats2half2_rn(y[0], y[1]), high = __floats2half2_rn(y[2], y[3]);
  *reinterpret_cast<uint2*>(out) = {*reinterpret_cast<const uint32_t*>(&low),
                                    *reinterpret_cast<const uint32_t*>(&high)};
}

bool IsValid(const ProductInput& input, uint64_t n) {
  if (!CanFuse(input) || n < 1 || n > kMaxGemvRows) return false;
  for (int i = 0; i < input.num_operands; ++i) {
    const int values = input.operands[i].values;
    if (values != 1 && values != 2 && values != 4) return false;
  }
  return true;
}
bool IsValid(const FinishMatrix& matrix, uint64_t rows) {
  return matrix.rows == rows && CanFuse(matrix.hadamard) && matrix.num_segments >= 1 &&
         matrix.num_segments <= kMaxFinishSegments;
}

template <typename Args>
int LaunchInCluster(void (*kernel)(Args), const ProductInput& to, uint64_t n, const Args& args,
                    void* stream) {
  const uint32_t warps = (PaddedBlocks(to.cols) + kCluster - 1) / kCluster;
  LaunchShape shape{dim3(kCluster, static_cast<unsigned>(n)), 32 * warps, 0,
                    static_cast<cudaStream_t>(stream)};
  shape.cluster = kCluster;
  return LaunchOverlapped(kernel, shape, args);
}

}  // namespace

bool CanFuse(const HadamardShape& output) { return IsWarpHadamard(output); }
bool CanFuse(const ProductInput& input) {
  return CanFuse(input.hadamard) && input.cols % kStepBlock == 0 && input.cols >= kStepBlock &&
         input.cols <= kMaxColumns && input.num_operands >= 1 && input.num_operands <= kMaxOperands;
}
bool CanFuseRope(uint32_t head_dim) { return head_dim == 32 || head_dim == 64 || head_dim == 128; }

bool DeviceCanFuse() {
  cudaFuncAttributes attributes;
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaFuncGetAttributes(&attributes, FusedNormKernel) == cudaSuccess && major >= 9 &&
         attributes.ptxVersion >= 90;
}

int LaunchFusedNorm(const FusedNormArgs& args, void* stream) {
  if (!IsValid(args.to, args.norm.n) || args.norm.size != args.to.cols ||
      (args.added.num_segments != 0 && !IsValid(args.added, args.to.cols))) {
    return cudaErrorInvalidValue;
  }
  return LaunchInCluster(FusedNormKernel, args.to, args.norm.n, args, stream);
}

int LaunchFusedSilu(const FusedSiluArgs& args, void* stream) {
  if (!IsValid(args.to, args.n) || !IsValid(args.gate, args.to.cols) ||
      !IsValid(args.up, args.to.cols)) {
    return cudaErrorInvalidValue;
  }
  return LaunchInCluster(FusedSiluKernel, args.to, args.n, args, stream);
}

int LaunchFusedAttention(const FusedAttentionArgs& args, void* stream) {
  const AttentionArgs& attention = args.attention;
  if (!IsValid(args.to, attention.n) || attention.head_dim < 4 || attention.head_dim % 4 != 0 ||
      args.to.cols != uint64_t{attention.heads} * attention.head_dim ||
      args.to.cols > kMaxColumns / kMaxWarps * kMaxAttentionWarps) {
    return cudaErrorInvalidValue;
  }
  return LaunchInCluster(FusedAttentionKernel, args.to, attention.n, args, stream);
}

int LaunchFusedRope(const FusedRopeArgs& args, void* stream) {
  const RopeArgs& rope = args.rope;
  const uint64_t kv = uint64_t{rope.kv_heads} * rope.head_dim;
  if (!CanFuseRope(rope.head_dim) || rope.n < 1 || rope.n > kMaxGemvRows ||
      !IsValid(args.q, uint64_t{rope.heads} * rope.head_dim) || !IsValid(args.k, kv) ||
      !IsValid(args.v, kv) || args.q.rows % kStepBlock != 0 || kv % kStepBlock != 0) {
    return cudaErrorInvalidValue;
  }
  const auto blocks = static_cast<uint32_t>((args.q.rows + 2 * kv) / kStepBlock);
  const LaunchShape shape{
      dim3((blocks + kRopeWarps - 1) / kRopeWarps, static_cast<unsigned>(rope.n)), 32 * kRopeWarps,
      0, static_cast<cudaStream_t>(stream)};
  return LaunchOverlapped(FusedRopeKernel, shape, args);
}

}  // namespace tq::cuda
