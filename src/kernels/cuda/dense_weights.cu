// A warp decodes a unit, 16 rows at a time: from the registers in which an mma would want the
// hashes to whole rows by way of shared memory, so that stores are of whole sectors.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/dense_weights.h"
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/lane_codes.cuh"
#include "kernels/trellis_matmul/constants.h"

namespace tq::cuda {
namespace {

using trellis::Code;

constexpr int kWarps = 4;
constexpr int kFragmentRows = 16;

// The V values of a hash. Bytes stand for halves below the normal ones, b * 2^-24, whose sums are
// exact; the last operation takes them to kDenseUnit.
template <int V>
struct HashValues;
template <>
struct HashValues<1> {
  __device__ __forceinline__ static uint32_t Sum(uint32_t hash) {
    return __dp4a(hash, 0x01010101u, 0u);
  }
  // Of two hashes.
  __device__ __forceinline__ static uint32_t Pair(uint32_t first, uint32_t second) {
    const __half2 sums = AsHalves(Sum(first) | Sum(second) << 16);
    return AsBits(__hfma2(sums, __float2half2_rn(0x1p15f), __float2half2_rn(-510 * kDenseUnit)));
  }
};
template <>
struct HashValues<2> {
  __device__ __forceinline__ static uint32_t Values(uint32_t hash) {
    // (u0 + u2, u1 + u3)
    const __half2 s = AsHalves(__byte_perm(hash, 0, 0x4140) + __byte_perm(hash, 0, 0x4342));
    const __half2 v = __hfma2(__high2half2(s), __floats2half2_rn(1, -1), __low2half2(s));
    return AsBits(__hfma2(v, __float2half2_rn(0x1p15f), __floats2half2_rn(-510 * kDenseUnit, 0)));
  }
};
template <>
struct HashValues<4> {
  __device__ __forceinline__ static uint2 Values(uint32_t hash) {
    const __half2 low = AsHalves(__byte_perm(hash, 0, 0x4140));
    const __half2 high = AsHalves(__byte_perm(hash, 0, 0x4342));
    const __half2 s = __hadd2(low, high), d = __hsub2(low, high);
    const __half2 sign = __floats2half2_rn(1, -1), scale = __float2half2_rn(0x1p15f);
    const __half2 v01 = __hfma2(__high2half2(s), sign, __low2half2(s));
    const __half2 v23 = __hfma2(__high2half2(d), sign, __low2half2(d));
    return {AsBits(__hfma2(v01, scale, __floats2half2_rn(-510 * kDenseUnit, 0))),
            AsBits(__hmul2(v23, scale))};
  }
};

template <Code C>
struct Decoder {
  static constexpr int kColumns = UnitColumns(C);
  static constexpr int kTileColumns = trellis::ShapeOf(C).columns;
  static constexpr int kTileFragments = trellis::ShapeOf(C).rows / kFragmentRows;
  static constexpr int kAcross = C.values == 1 ? 2 : 1;  // mma fragments side by side in a tile
  // Halves of a row in shared memory: 16 bytes more, so that rows begin in other banks.
  static constexpr int kStride = kColumns + 8;

  // Rows [16 kFragment, + 16) of all tiles of a row of tiles, to stage [16][kStride].
  template <int kFragment, int... kTile>
  __device__ __forceinline__ static void Fragment(const LaneCodes<C>& codes, int lane,
                                                  uint16_t* stage,
                                                  std::integer_sequence<int, kTile...>) {
    (Tile<kFragment, kTile>(codes, lane, stage), ...);
  }

 private:
  template <int kTile, int kWindow>
  __device__ __forceinline__ static uint32_t Hash(const LaneCodes<C>& codes) {
    return codes.template State<kTile, kWindow>() * trellis::kMultiplier;
  }
  template <int kFragment, int kTile>
  __device__ __forceinline__ static void Tile(const LaneCodes<C>& codes, int lane,
                                              uint16_t* stage) {
    constexpr int kFirst = 4 * kFragment * kAcross;
    const int g = lane / 4, c = lane % 4;
    uint16_t* at = stage + g * kStride + kTile * kTileColumns;
    if constexpr (C.values == 1) {
      OneValue<kTile, kFirst>(codes, at + c);
      OneValue<kTile, kFirst + 1>(codes, at + 8 * kStride + c);
    } else {
      OneRow<kTile, kFirst>(codes, at + C.values * c);
      OneRow<kTile, kFirst + 1>(codes, at + 8 * kStride + C.values * c);
    }
  }
  // Windows kWindow and kWindow + 2 of a row: neighbours of V columns, 4 V apart.
  template <int kTile, int kWindow>
  __device__ __forceinline__ static void OneRow(const LaneCodes<C>& codes, uint16_t* at) {
    const uint32_t first = Hash<kTile, kWindow>(codes), second = Hash<kTile, kWindow + 2>(codes);
    if constexpr (C.values == 4) {
      *reinterpret_cast<uint2*>(at) = HashValues<4>::Values(first);
      *reinterpret_cast<uint2*>(at + 16) = HashValues<4>::Values(second);
    } else {
      *reinterpret_cast<uint32_t*>(at) = HashValues<2>::Values(first);
      *reinterpret_cast<uint32_t*>(at + 8) = HashValues<2>::Values(second);
    }
  }
  // Four windows of a row, a column each, four apart.
  template <int kTile, int kWindow>
  __device__ __forceinline__ static void OneValue(const LaneCodes<C>& codes, uint16_t* at) {
    const uint32_t low =
        HashValues<1>::Pair(Hash<kTile, kWindow>(codes), Hash<kTile, kWindow + 2>(codes));
    const uint32_t high =
        HashValues<1>::Pair(Hash<kTile, kWindow + 4>(codes), Hash<kTile, kWindow + 6>(codes));
    at[0] = static_cast<uint16_t>(low), at[4] = static_cast<uint16_t>(low >> 16);
    at[8] = static_cast<uint16_t>(high), at[12] = static_cast<uint16_t>(high >> 16);
  }
};

// Stores stage [16][kStride] to rows from `row` on.
template <Code C>
__device__ __forceinline__ void StoreRows(const DenseWeightsArgs& args, uint64_t row,
                                          uint64_t column, int lane, const uint16_t* stage) {
  using D = Decoder<C>;
  constexpr int kLanes = D::kColumns / 8;  // 16 bytes each
  const uint64_t at = column + lane % kLanes * 8;
  if (at >= args.stride) return;
#pragma unroll
  for (int r = lane / kLanes; r < kFragmentRows; r += 32 / kLanes) {
    if (row + r >= args.rows) return;
    *reinterpret_cast<uint4*>(args.out + (row + r) * args.stride + at) =
        *reinterpret_cast<const uint4*>(stage + r * D::kStride + lane % kLanes * 8);
  }
}

template <Code C, int... kFragment>
__device__ __forceinline__ void DecodeTiles(const DenseWeightsArgs& args, const LaneCodes<C>& codes,
                                            uint64_t row, uint64_t column, int lane,
                                            uint16_t* stage,
                                            std::integer_sequence<int, kFragment...>) {
  const auto one = [&]<int kAt>(std::integral_constant<int, kAt>) {
    __syncwarp();
    Decoder<C>::template Fragment<kAt>(codes, lane, stage,
                                       std::make_integer_sequence<int, kUnitTiles>());
    __syncwarp();
    StoreRows<C>(args, row + kFragmentRows * kAt, column, lane, stage);
  };
  (one(std::integral_constant<int, kFragment>()), ...);
}

// (nvcc 13 has no kernels with template parameters of class type.) A unit per warp.
template <int kValues, int kBits, int kStateBits>
__global__ void __launch_bounds__(32 * kWarps)
    DenseWeightsKernel(const __grid_constant__ DenseWeightsArgs args) {
  constexpr Code C = {kValues, kBits, kStateBits};
  using D = Decoder<C>;
  __shared__ alignas(16) uint16_t stages[kWarps][kFragmentRows * D::kStride];
  const int lane = threadIdx.x % 32;
  const uint64_t unit = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (unit >= args.units_down * args.units_across) return;
  const uint64_t down = unit / args.units_across, across = unit % args.units_across;
#pragma unroll
  for (int i = 0; i < UnitTileRows(C); ++i) {
    LaneCodes<C> codes;
    codes.Load(args.units + unit * UnitBytes(C) + i * LaneCodes<C>::kWords * kChunkBytes, lane);
    DecodeTiles<C>(args, codes, down * UnitRows(C) + i * trellis::ShapeOf(C).rows,
                   across * D::kColumns, lane, stages[threadIdx.x / 32],
                   std::make_integer_sequence<int, D::kTileFragments>());
  }
}

template <Code C>
int Launch(const DenseWeightsArgs& args, cudaStream_t stream) {
  const uint64_t blocks = (args.units_down * args.units_across + kWarps - 1) / kWarps;
  if (args.rows > args.units_down * UnitRows(C) ||
      args.stride > args.units_across * UnitColumns(C)) {
    return cudaErrorInvalidValue;
  }
  DenseWeightsKernel<C.values, C.bits, C.state_bits>
      <<<static_cast<unsigned>(blocks), 32 * kWarps, 0, stream>>>(args);
  return cudaGetLastError();
}

using LaunchFn = int (*)(const DenseWeightsArgs&, cudaStream_t);
struct Launchers {
  LaunchFn fn[trellis::kNumMatmulCodes];
};
template <size_t... I>
constexpr Launchers MakeLaunchers(std::index_sequence<I...>) {
  return {{Launch<trellis::kMatmulCodes[I]>...}};
}
constexpr Launchers kLaunchers =
    MakeLaunchers(std::make_index_sequence<trellis::kNumMatmulCodes>());

}  // namespace

int LaunchDenseWeights(Code code, const DenseWeightsArgs& args, void* stream) {
  if (args.units_down < 1 || args.units_across < 1 || args.stride % 8 != 0 ||
      args.units_down > UINT32_MAX / args.units_across) {
    return cudaErrorInvalidValue;
  }
  for (size_t i = 0; i < trellis::kNumMatmulCodes; ++i) {
    if (trellis::kMatmulCodes[i] == code) {
      return kLaunchers.fn[i](args, static_cast<cudaStream_t>(stream));
    }
  }
  return cudaErrorInvalidValue;
}

}  // namespace tq::cuda
