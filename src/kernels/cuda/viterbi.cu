// A thread block searches a few tiles side by side: a thread takes four neighbouring overlaps,
// whose 2^k successors are the same, and computes what depends on the state alone once for all
// tiles. Costs are in shared memory, the winners of every step go to global memory.
#include <cuda_runtime.h>

#include "kernels/cuda/viterbi.h"
#include "kernels/cuda/viterbi_layout.h"

namespace tq::cuda {
namespace {

using trellis::Code;

constexpr int32_t kForbidden = 1 << 30;
constexpr int kRebaseEvery = 16;

// The part of a state's cost that no target enters, and the factors of the target's values; those
// of viterbi.cc's table. kValues = 2: the target's two values.
template <Code C>
struct StateCost {
  static constexpr int kFactors = C.values;
  int32_t norm, factors[kFactors];

  __device__ __forceinline__ explicit StateCost(uint32_t hash) {
    if constexpr (C.values == 1) {
      const auto c = static_cast<int32_t>(__dp4a(hash, 0x01010101u, static_cast<uint32_t>(-510)));
      factors[0] = c << C.bits;
      norm = ((c * c >> 2) - 32768) * (2 << 6);
    } else if constexpr (C.values == 2) {
      factors[0] = static_cast<int32_t>(__dp4a(hash, 0x00080008u, static_cast<uint32_t>(-2040)));
      factors[1] = static_cast<int32_t>(__dp4a(hash, 0x08000800u, static_cast<uint32_t>(-2040)));
      norm = factors[0] * factors[0] + factors[1] * factors[1];
    } else {
      norm = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        factors[i] = static_cast<int32_t>(__dp4a(hash, 8u << 8 * i, static_cast<uint32_t>(-1020)));
        norm += factors[i] * factors[i];
      }
    }
  }
};

// A step's target as factors' partners.
template <Code C>
__device__ __forceinline__ void UnpackTarget(const int32_t* words, int32_t (&target)[C.values]) {
#pragma unroll
  for (int i = 0; i < C.values; ++i) {
    const int32_t word = words[i / 2];
    target[i] = i % 2 == 0 ? static_cast<int16_t>(word) : word >> 16;
  }
}

template <Code C, int kTiles>
class Search {
 public:
  __device__ Search(const ViterbiArgs& args, int32_t* shared, uint8_t* winners)
      : args_(args),
        best_(shared),
        next_(shared + kOverlaps * kTiles),
        targets_(shared + 2 * kOverlaps * kTiles),
        winners_(winners) {}

  // Tiles first .. first + kTiles - 1; those beyond the last repeat it and are not stored.
  __device__ void FindPaths(uint64_t first) {
    for (uint32_t i = threadIdx.x; i < kTiles * TargetInts(); i += blockDim.x) {
      const uint64_t tile = min(first + i / TargetInts(), args_.tiles - 1);
      targets_[i] = args_.targets[tile * TargetInts() + i % TargetInts()];
    }
    Start(0);
    Run(0, args_.reach, false);
    Run(-args_.reach, args_.reach, true);
    uint32_t overlap = FindLowest();
    if (threadIdx.x < kTiles) {
      overlap = Follow(overlap, args_.reach, nullptr);
    }
    __syncthreads();
    Start(kForbidden);
    if (threadIdx.x < kTiles) best_[overlap * kTiles + threadIdx.x] -= kForbidden;
    Run(0, args_.steps, true);
    if (threadIdx.x < kTiles && first + threadIdx.x < args_.tiles) {
      Follow(overlap, args_.steps,
             args_.states + (first + threadIdx.x) * static_cast<uint64_t>(args_.steps));
    }
    __syncthreads();
  }

 private:
  static constexpr int kHigh = C.state_bits - C.bits;
  static constexpr uint32_t kOverlaps = Overlaps(C);
  static constexpr uint32_t kChoices = 1u << C.bits;
  static constexpr uint32_t kQ = kOverlapsPerThread;
  static constexpr bool kNibbles = C.bits <= 4;

  __device__ uint32_t TargetInts() const {
    return static_cast<uint32_t>(args_.steps) * TargetWords(C);
  }
  // The low k bits of the cost of overlap q: its top k bits, which are the winner if a state above
  // q is chosen.
  __device__ static int32_t TopBits(uint32_t q) {
    return static_cast<int32_t>(q >> (kHigh - C.bits));
  }

  __device__ void Start(int32_t cost) {
    for (uint32_t i = threadIdx.x; i < kOverlaps * kTiles; i += blockDim.x) {
      best_[i] = cost | TopBits(i / kTiles);
    }
    __syncthreads();
  }

  // Steps first + count - 1 down to first, modulo the circle.
  __device__ void Run(int first, int count, bool keep) {
    __syncthreads();
    for (int i = count - 1; i >= 0; --i) {
      Step(first + i < 0 ? first + i + args_.steps : first + i, i, keep);
      __syncthreads();
      int32_t* swap = best_;
      best_ = next_;
      next_ = swap;
      // Not sooner: by then no overlap is forbidden any more.
      if ((count - i) % kRebaseEvery == 0 || i == 0) Rebase();
    }
  }

  __device__ void Step(int step, int row, bool keep) {
    int32_t target[kTiles][C.values];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      UnpackTarget<C>(targets_ + t * TargetInts() + step * TargetWords(C), target[t]);
    }
    for (uint32_t q = threadIdx.x * kQ; q < kOverlaps; q += blockDim.x * kQ) {
      int32_t least[kQ][kTiles];
#pragma unroll
      for (uint32_t n = 0; n < kQ; ++n) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) least[n][t] = INT32_MAX;
      }
      uint32_t hash = q * trellis::kMultiplier;
      const int32_t* from = best_ + (q >> C.bits) * kTiles;
#pragma unroll 4
      for (uint32_t j = 0; j < kChoices; ++j) {
        int32_t successor[kTiles];
        Load(from, successor);
#pragma unroll
        for (uint32_t n = 0; n < kQ; ++n) {
          const StateCost<C> state(hash + n * trellis::kMultiplier);
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
            int32_t cost = state.norm;
#pragma unroll
            for (int i = 0; i < C.values; ++i) cost += state.factors[i] * target[t][i];
            least[n][t] = __viaddmin_s32(cost, successor[t], least[n][t]);
          }
        }
        hash += trellis::kMultiplier << kHigh;
        from += (kOverlaps >> C.bits) * kTiles;
      }
      if (keep) KeepWinners(row, q, least);
      const int32_t top = TopBits(q);
#pragma unroll
      for (uint32_t n = 0; n < kQ; ++n) {
        int32_t costs[kTiles];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          costs[t] = (least[n][t] & -static_cast<int32_t>(kChoices)) | top;
        }
        Store(costs, next_ + (q + n) * kTiles);
      }
    }
  }

  // Costs of one overlap of all tiles.
  __device__ __forceinline__ static void Load(const int32_t* from, int32_t (&costs)[kTiles]) {
    if constexpr (kTiles == 4) {
      const int4 all = *reinterpret_cast<const int4*>(from);
      costs[0] = all.x, costs[1] = all.y, costs[2] = all.z, costs[3] = all.w;
    } else if constexpr (kTiles == 2) {
      const int2 both = *reinterpret_cast<const int2*>(from);
      costs[0] = both.x, costs[1] = both.y;
    } else {
      costs[0] = *from;
    }
  }
  __device__ __forceinline__ static void Store(const int32_t (&costs)[kTiles], int32_t* to) {
    if constexpr (kTiles == 4) {
      *reinterpret_cast<int4*>(to) = {costs[0], costs[1], costs[2], costs[3]};
    } else if constexpr (kTiles == 2) {
      *reinterpret_cast<int2*>(to) = {costs[0], costs[1]};
    } else {
      *to = costs[0];
    }
  }

  // winners_ [row][tile][q / 4]: the winners of four overlaps.
  __device__ __forceinline__ void KeepWinners(int row, uint32_t q,
                                              const int32_t (&least)[kQ][kTiles]) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      uint32_t winners = 0;
#pragma unroll
      for (uint32_t n = 0; n < kQ; ++n) {
        winners |= (static_cast<uint32_t>(least[n][t]) & (kChoices - 1)) << (kNibbles ? 4 : 8) * n;
      }
      const uint64_t at =
          (uint64_t{static_cast<uint32_t>(row)} * kTiles + t) * (kOverlaps / kQ) + q / kQ;
      if constexpr (kNibbles) {
        reinterpret_cast<uint16_t*>(winners_)[at] = static_cast<uint16_t>(winners);
      } else {
        reinterpret_cast<uint32_t*>(winners_)[at] = winners;
      }
    }
  }
  __device__ uint32_t Winner(int row, uint32_t q) const {
    const uint64_t at =
        (uint64_t{static_cast<uint32_t>(row)} * kTiles + threadIdx.x) * (kOverlaps / kQ) + q / kQ;
    if constexpr (kNibbles) {
      return reinterpret_cast<const uint16_t*>(winners_)[at] >> 4 * (q % kQ) & (kChoices - 1);
    }
    return reinterpret_cast<const uint32_t*>(winners_)[at] >> 8 * (q % kQ) & (kChoices - 1);
  }

  // Subtracts the cost of overlap 0 from all; the low bits stay.
  __device__ void Rebase() {
    int32_t base[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) base[t] = best_[t] & -static_cast<int32_t>(kChoices);
    __syncthreads();
    for (uint32_t q = threadIdx.x; q < kOverlaps; q += blockDim.x) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) best_[q * kTiles + t] -= base[t];
    }
    __syncthreads();
  }

  // The overlap of least cost, the lowest of equals, of tile t in thread t.
  __device__ uint32_t FindLowest() {
    __shared__ unsigned long long keys[kTiles];
    if (threadIdx.x < kTiles) keys[threadIdx.x] = UINT64_MAX;
    __syncthreads();
    unsigned long long lowest[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) lowest[t] = UINT64_MAX;
    for (uint32_t q = threadIdx.x; q < kOverlaps; q += blockDim.x) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t rising = static_cast<uint32_t>(best_[q * kTiles + t]) ^ 0x80000000u;
        const unsigned long long key = static_cast<unsigned long long>(rising) << 32 | q;
        lowest[t] = key < lowest[t] ? key : lowest[t];
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) atomicMin(&keys[t], lowest[t]);
    __syncthreads();
    return static_cast<uint32_t>(keys[threadIdx.x % kTiles]);
  }

  // Thread t follows the winners of `count` steps of tile t from overlap q; gives the overlap
  // after.
  __device__ uint32_t Follow(uint32_t q, int count, uint16_t* states) const {
    for (int i = 0; i < count; ++i) {
      const uint32_t state = Winner(i, q) << kHigh | q;
      if (states != nullptr) states[i] = static_cast<uint16_t>(state);
      q = state >> C.bits;
    }
    return q;
  }

  const ViterbiArgs& args_;
  int32_t *best_, *next_;  // costs [overlap][tile] of the step before (in time: after), and of this
  int32_t* targets_;       // [tile][step][word]
  uint8_t* winners_;
};

// (nvcc 13 has no kernels with template parameters of class type.)
template <int kValues, int kBits, int kStateBits, int kTiles>
__global__ void __launch_bounds__(kMaxViterbiThreads)
    ViterbiKernel(const __grid_constant__ ViterbiArgs args) {
  constexpr Code C = {kValues, kBits, kStateBits};
  extern __shared__ __align__(16) int32_t shared[];
  uint8_t* winners = args.scratch + blockIdx.x * WinnerBytes(C, args.steps, kTiles);
  Search<C, kTiles> search(args, shared, winners);
  for (uint64_t first = uint64_t{blockIdx.x} * kTiles; first < args.tiles;
       first += uint64_t{gridDim.x} * kTiles) {
    search.FindPaths(first);
  }
}

template <int kValues, int kBits, int kStateBits, int kTiles>
int Launch(const ViterbiArgs& args, const ViterbiConfig& config, cudaStream_t stream) {
  const auto kernel = ViterbiKernel<kValues, kBits, kStateBits, kTiles>;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(config.shared_bytes));
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(config.blocks), static_cast<unsigned>(config.threads),
           config.shared_bytes, stream>>>(args);
  return cudaGetLastError();
}

template <int kValues, int kBits, int kStateBits>
int LaunchFor(const ViterbiArgs& args, const ViterbiConfig& config, cudaStream_t stream) {
  switch (config.together) {
    case 1:
      return Launch<kValues, kBits, kStateBits, 1>(args, config, stream);
    case 2:
      return Launch<kValues, kBits, kStateBits, 2>(args, config, stream);
    case 4:
      return Launch<kValues, kBits, kStateBits, 4>(args, config, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <int kStateBits>
int LaunchAt(const ViterbiArgs& args, const ViterbiConfig& config, cudaStream_t stream) {
  switch (args.code.values * 8 + args.code.bits) {
    case 8 + 2:
      return LaunchFor<1, 2, kStateBits>(args, config, stream);
    case 8 + 3:
      return LaunchFor<1, 3, kStateBits>(args, config, stream);
    case 8 + 4:
      return LaunchFor<1, 4, kStateBits>(args, config, stream);
    case 8 + 5:
      return LaunchFor<1, 5, kStateBits>(args, config, stream);
    case 16 + 2:
      return LaunchFor<2, 2, kStateBits>(args, config, stream);
    case 16 + 3:
      return LaunchFor<2, 3, kStateBits>(args, config, stream);
    case 16 + 4:
      return LaunchFor<2, 4, kStateBits>(args, config, stream);
    case 16 + 5:
      return LaunchFor<2, 5, kStateBits>(args, config, stream);
    case 32 + 2:
      return LaunchFor<4, 2, kStateBits>(args, config, stream);
    case 32 + 3:
      return LaunchFor<4, 3, kStateBits>(args, config, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

int LaunchViterbi(const ViterbiArgs& args, const ViterbiConfig& config, void* stream) {
  if (args.steps < 32 || args.reach < 1 || args.reach > args.steps / 2 || args.tiles == 0 ||
      config.blocks < 1 || config.threads < 1 ||
      config.shared_bytes < ViterbiSharedBytes(args.code, args.steps, config.together)) {
    return cudaErrorInvalidValue;
  }
  const auto on = static_cast<cudaStream_t>(stream);
  return args.code.state_bits == 16 ? LaunchAt<16>(args, config, on)
                                    : LaunchAt<12>(args, config, on);
}

}  // namespace tq::cuda
