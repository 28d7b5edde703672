// Attention of many queries ("FlashAttention-2", Dao, 2023): a thread block takes kQueries queries
// of a head, and goes through the positions that they see, kPositions at a time, with a running
// maximum. A warp has 16 queries; its scores and weights never leave registers.
#include <cuda_runtime.h>

#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/transformer.h"

namespace tq::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr uint32_t kQueries = 16 * kWarps;
constexpr uint32_t kPositions = 64;
constexpr int kStages = 2;
constexpr float kLog2E = 1.4426950408889634f;

// Keys or values of kPositions positions in shared memory: rows of kDim halves, whose chunks of 16
// bytes change places with their row, so that eight rows of a column lie in different banks.
template <int kDim>
struct Tile {
  static constexpr int kChunks = kDim / 8;
  static constexpr int kBytes = kPositions * kDim * 2;

  __device__ __forceinline__ static uint32_t Offset(uint32_t row, uint32_t chunk) {
    return row * kDim * 2 + (chunk ^ row % 8) * 16;
  }
  // Positions from `first` on; those from `end` on are zeros.
  __device__ __forceinline__ static void Fetch(uint8_t* tile, const uint16_t* from, uint32_t first,
                                               uint32_t end) {
#pragma unroll
    for (uint32_t i = threadIdx.x; i < kPositions * kChunks; i += kThreads) {
      const uint32_t row = i / kChunks, chunk = i % kChunks;
      const bool present = first + row < end;
      const uint16_t* at = from + uint64_t{present ? first + row : 0} * kDim + chunk * 8;
      ptx::CopyAsync16OrZero(tile + Offset(row, chunk), at, present);
    }
  }
};

// What a warp knows of its 16 queries; a lane has two, of rows g and g + 8.
template <int kDim>
struct Queries {
  static constexpr int kSteps = kDim / 16;         // of an mma through a head
  static constexpr int kColumns = kPositions / 8;  // mma columns of scores
  uint32_t q[kSteps][4];
  float out[kDim / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, weight[2] = {};

  // Rows from `row` on of queries [n][heads][kDim]; those beyond are zeros.
  __device__ __forceinline__ void Load(const AttentionArgs& args, uint32_t head, uint64_t row) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint64_t at = row + g + 8 * (i % 2);
        float2 pair = {0, 0};
        if (at < args.n) {
          const float* from = args.queries + (at * args.heads + head) * kDim;
          pair = *reinterpret_cast<const float2*>(from + 16 * step + 2 * c + 8 * (i / 2));
        }
        q[step][i] = PackHalves(pair.x, pair.y);
      }
    }
  }

  // Scores of kPositions positions.
  __device__ __forceinline__ void Score(const uint8_t* keys, float (&scores)[kColumns][4]) const {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
#pragma unroll
      for (float& score : scores[column]) score = 0;
#pragma unroll
      for (int step = 0; step < kSteps; step += 2) {
        uint32_t b[4];
        ptx::LoadMatrices<false>(
            b, keys + Tile<kDim>::Offset(8 * column + lane % 8, 2 * step + lane / 8));
        ptx::MmaF16(scores[column], q[step], b[0], b[1]);
        ptx::MmaF16(scores[column], q[step + 1], b[2], b[3]);
      }
    }
  }

  // Adds positions with these scores, of which a query sees those up to its own: `limit` counts
  // from the tile's first. `scale` turns scores into exponents of 2.
  __device__ __forceinline__ void Add(const uint8_t* values, float (&scores)[kColumns][4],
                                      const int32_t (&limit)[2], bool masked, float scale) {
    const uint32_t lane = threadIdx.x % 32, c = lane % 4;
    if (masked) {
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int32_t position = 8 * column + static_cast<int32_t>(2 * c) + i % 2;
          if (position > limit[i / 2]) scores[column][i] = -INFINITY;
        }
      }
    }
    float keep[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        most = fmaxf(most, fmaxf(scores[column][2 * half], scores[column][2 * half + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      // Position 0 is in the first tile and seen by all, so that `most` is a number from there on;
      // where scores are none (fmaxf leaves them out), weights are none either. Values that are
      // none spoil the queries in front of them too, as 0 times them is none: whoever sees such a
      // result drops the whole run.
      keep[half] = ptx::Exp2((largest[half] - most) * scale);
      largest[half] = most;
      float sum = 0;
      const float offset = -most * scale;
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[column][i] = ptx::Exp2(__fmaf_rn(scores[column][i], scale, offset));
          sum += scores[column][i];
        }
      }
      weight[half] = weight[half] * keep[half] + sum;
    }
#pragma unroll
    for (auto& sums : out) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] *= keep[i / 2];
    }
#pragma unroll
    for (int pair = 0; pair < kColumns; pair += 2) {
      const uint32_t a[4] = {PackHalves(scores[pair][0], scores[pair][1]),
                             PackHalves(scores[pair][2], scores[pair][3]),
                             PackHalves(scores[pair + 1][0], scores[pair + 1][1]),
                             PackHalves(scores[pair + 1][2], scores[pair + 1][3])};
#pragma unroll
      for (int chunk = 0; chunk < kDim / 8; chunk += 2) {
        uint32_t b[4];
        ptx::LoadMatrices<true>(
            b, values + Tile<kDim>::Offset(8 * pair + lane % 16, chunk + lane / 16));
        ptx::MmaF16(out[chunk], a, b[0], b[1]);
        ptx::MmaF16(out[chunk + 1], a, b[2], b[3]);
      }
    }
  }

  __device__ __forceinline__ void Store(const AttentionArgs& args, uint32_t head, uint64_t row) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = weight[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const uint64_t at = row + g + 8 * half;
      if (at >= args.n) continue;
      float* to = args.out + (at * args.heads + head) * kDim;
#pragma unroll
      for (int chunk = 0; chunk < kDim / 8; ++chunk) {
        *reinterpret_cast<float2*>(to + 8 * chunk + 2 * c) = {
            __fdiv_rn(out[chunk][2 * half], sum), __fdiv_rn(out[chunk][2 * half + 1], sum)};
      }
    }
  }
};

// Grid: heads, blocks of queries. The last queries, which see most, come first. Two thread blocks
// share a multiprocessor, so that one computes while the other waits.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    ManyAttentionKernel(const __grid_constant__ AttentionArgs args, float scale) {
  using Positions = Tile<kDim>;
  extern __shared__ __align__(128) uint8_t shared[];  // [kStages][keys, values]
  const uint32_t head = blockIdx.x, kv_head = head / (args.heads / args.kv_heads);
  const uint64_t block = (gridDim.y - 1 - blockIdx.y) * uint64_t{kQueries};
  const uint64_t row = block + threadIdx.x / 32 * 16;
  const uint32_t base = *args.base;
  const uint32_t end = base + static_cast<uint32_t>(min(block + kQueries, args.n));
  const uint16_t* keys = args.cache.keys + kv_head * args.cache.stride;
  const uint16_t* values = args.cache.values + kv_head * args.cache.stride;
  const uint32_t tiles = (end + kPositions - 1) / kPositions;
  const auto fetch = [&](uint32_t tile) {
    uint8_t* to = shared + tile % kStages * 2 * Positions::kBytes;
    Positions::Fetch(to, keys, tile * kPositions, end);
    Positions::Fetch(to + Positions::kBytes, values, tile * kPositions, end);
  };
  fetch(0);
  ptx::CommitCopies();
  Queries<kDim> queries;
  queries.Load(args, head, row);
  // The last position that the lane's queries see.
  const uint64_t seen = base + row + threadIdx.x % 32 / 4;
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) fetch(tile + 1);
    ptx::CommitCopies();
    ptx::WaitCopies<kStages - 1>();
    __syncthreads();
    const uint64_t first = uint64_t{tile} * kPositions;
    // Warps whose queries come before the tile have nothing to add.
    if (first <= base + row + 15) {
      const uint8_t* at = shared + tile % kStages * 2 * Positions::kBytes;
      float scores[Queries<kDim>::kColumns][4];
      queries.Score(at, scores);
      const auto limit = static_cast<int32_t>(static_cast<int64_t>(seen - first));
      const int32_t limits[2] = {limit, limit + 8};
      queries.Add(at + Positions::kBytes, scores, limits, first + kPositions - 1 > base + row,
                  scale);
    }
    __syncthreads();
  }
  queries.Store(args, head, row);
}

template <int kDim>
int Launch(const AttentionArgs& args, void* stream) {
  constexpr int kShared = kStages * 2 * Tile<kDim>::kBytes;
  const auto kernel = ManyAttentionKernel<kDim>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) return error;
  const dim3 grid(args.heads, static_cast<unsigned>((args.n + kQueries - 1) / kQueries));
  kernel<<<grid, kThreads, kShared, static_cast<cudaStream_t>(stream)>>>(
      args, kLog2E / sqrtf(static_cast<float>(kDim)));
  return cudaGetLastError();
}

}  // namespace

bool CanAttendMany(uint32_t head_dim) { return head_dim == 64 || head_dim == 128; }

int LaunchManyAttention(const AttentionArgs& args, void* stream) {
  if (args.n < 1 || args.n > kMaxTransformerRows || args.kv_heads < 1 || args.heads < 1 ||
      args.heads > UINT16_MAX || args.heads % args.kv_heads != 0 || args.cache.stride % 8 != 0) {
    return cudaErrorInvalidValue;
  }
  if (args.head_dim == 64) return Launch<64>(args, stream);
  if (args.head_dim == 128) return Launch<128>(args, stream);
  return cudaErrorInvalidValue;
}

}  // namespace tq::cuda
