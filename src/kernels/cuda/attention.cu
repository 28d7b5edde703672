// Attention over a cache in half precision, cut along its positions ("Flash-Decoding", Dao,
// Haziza, Massa and Sizov, 2023): a thread block takes the query heads that share a KV head and
// kAttentionBlock positions; a second step adds the blocks up, in their order.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/steps.cuh"

namespace tq::cuda {
namespace {

constexpr int kThreads = 128;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kLanesPerKey = 8;
// Query heads that are computed together; more go in turns.
constexpr uint32_t kHeads = 4;

// Eight halves.
struct Halves {
  uint4 bits;
  __device__ __forceinline__ void ToFloat(float (&x)[8]) const {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
  }
};

// exp(score - largest) in place, by a warp; what is left of the head's scores goes to `statistics`.
__device__ void Exponentials(float* scores, uint32_t count, float* statistics) {
  const uint32_t lane = threadIdx.x % 32;
  float largest = -INFINITY;
  for (uint32_t i = lane; i < count; i += 32) largest = fmaxf(largest, scores[i]);
  for (int step = 16; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  }
  float sum = 0;
  for (uint32_t i = lane; i < count; i += 32) {
    const float e = expf(scores[i] - largest);
    scores[i] = e;
    sum += e;
  }
  sum = WarpSum(sum);
  if (lane == 0) statistics[0] = largest, statistics[1] = sum;
}

// Where a thread block works.
struct Place {
  uint32_t count;  // positions of the block that the query sees
  uint64_t cache;  // offset of the first
  uint64_t head;   // first query head, counted through the rows

  __device__ Place(const AttentionArgs& args, uint32_t base)
      : cache(blockIdx.y * args.cache.stride +
              uint64_t{blockIdx.x} * kAttentionBlock * args.head_dim),
        head(uint64_t{blockIdx.z} * args.heads + blockIdx.y * (args.heads / args.kv_heads)) {
    const uint32_t begin = blockIdx.x * kAttentionBlock, positions = base + blockIdx.z + 1;
    count = positions > begin ? min(positions - begin, kAttentionBlock) : 0;
  }
};

// Grid of both kernels: blocks of positions, KV heads, queries. Heads of kDim values: all keys and
// values are under way before anything is computed.
template <int kDim>
__global__ void __launch_bounds__(kThreads)
    BlocksKernel(const __grid_constant__ AttentionArgs args, float scale) {
  constexpr int kChunks = kDim / 8;               // of 8 values
  constexpr int kParts = kChunks / kLanesPerKey;  // of a key, per lane
  constexpr int kPasses = kAttentionBlock * kLanesPerKey / kThreads;
  constexpr int kTurns = kThreads / kChunks;         // positions that are summed at a time
  constexpr int kValues = kAttentionBlock / kTurns;  // per thread
  __shared__ alignas(16) float queries[kHeads * kDim];
  __shared__ float scores[kHeads * kAttentionBlock];
  __shared__ alignas(16) float sums[kTurns * kHeads * kDim];
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  const Place place(args, *args.base);
  if (place.count == 0) return;
  const auto* keys = reinterpret_cast<const uint4*>(args.cache.keys + place.cache);
  const auto* values = reinterpret_cast<const uint4*>(args.cache.values + place.cache);
  const uint32_t lane = threadIdx.x % kLanesPerKey, key = threadIdx.x / kLanesPerKey;
  const uint32_t chunk = threadIdx.x % kChunks, turn = threadIdx.x / kChunks;
  constexpr uint4 kZero = {};
  Halves k[kPasses][kParts], v[kValues];
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const uint32_t at = pass * (kThreads / kLanesPerKey) + key;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint32_t index = at * kChunks + part * kLanesPerKey + lane;
      k[pass][part].bits = at < place.count ? keys[index] : kZero;
    }
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const uint32_t at = i * kTurns + turn;
    v[i].bits = at < place.count ? values[at * kChunks + chunk] : kZero;
  }

  const uint32_t group = args.heads / args.kv_heads;
  for (uint32_t first = 0; first < group; first += kHeads) {
    const uint32_t heads = min(group - first, kHeads);
    __syncthreads();
    const float* q = args.queries + (place.head + first) * kDim;
    for (uint32_t i = threadIdx.x; i < heads * kDim; i += kThreads) queries[i] = q[i];
    __syncthreads();
    for (uint32_t h = 0; h < heads; ++h) {
      float dots[kPasses] = {};
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const float* of_part = queries + h * kDim + (part * kLanesPerKey + lane) * 8;
        const float4 low = *reinterpret_cast<const float4*>(of_part);
        const float4 high = *reinterpret_cast<const float4*>(of_part + 4);
        const float query[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
          float x[8];
          k[pass][part].ToFloat(x);
#pragma unroll
          for (int i = 0; i < 8; ++i) dots[pass] += query[i] * x[i];
        }
      }
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        for (uint32_t step = kLanesPerKey / 2; step > 0; step /= 2) {
          dots[pass] += __shfl_xor_sync(~0u, dots[pass], step);
        }
        const uint32_t at = pass * (kThreads / kLanesPerKey) + key;
        // Positions beyond have no weight.
        if (lane == 0) scores[h * kAttentionBlock + at] = at < place.count ? dots[pass] * scale : 0;
      }
    }
    __syncthreads();
    const uint64_t stride = args.blocks * PartialFloats(kDim);
    float* partial =
        args.scratch + (place.head + first) * stride + blockIdx.x * PartialFloats(kDim);
    for (uint32_t h = threadIdx.x / 32; h < heads; h += kWarps) {
      Exponentials(scores + h * kAttentionBlock, place.count, partial + h * stride + kDim);
    }
    __syncthreads();
    for (uint32_t h = 0; h < heads; ++h) {
      float sum[8] = {};
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        float x[8];
        v[i].ToFloat(x);
        const float weight = scores[h * kAttentionBlock + i * kTurns + turn];
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] += weight * x[j];
      }
      float4* out = reinterpret_cast<float4*>(sums + (turn * kHeads + h) * kDim + chunk * 8);
      out[0] = {sum[0], sum[1], sum[2], sum[3]};
      out[1] = {sum[4], sum[5], sum[6], sum[7]};
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < heads * kDim; i += kThreads) {
      float sum = 0;
#pragma unroll
      for (int t = 0; t < kTurns; ++t) sum += sums[t * kHeads * kDim + i];
      partial[i / kDim * stride + i % kDim] = sum;
    }
  }
}

// Heads of any even number of values, one after the other.
__global__ void __launch_bounds__(kThreads)
    AnyBlocksKernel(const __grid_constant__ AttentionArgs args, float scale) {
  __shared__ float scores[kAttentionBlock];
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  const Place place(args, *args.base);
  if (place.count == 0) return;
  const uint32_t d = args.head_dim, lane = threadIdx.x % 32;
  for (uint32_t h = 0; h < args.heads / args.kv_heads; ++h) {
    const float* q = args.queries + (place.head + h) * d;
    for (uint32_t key = threadIdx.x / 32; key < place.count; key += kWarps) {
      const uint16_t* k = args.cache.keys + place.cache + uint64_t{key} * d;
      float dot = 0;
      for (uint32_t i = lane; i < d; i += 32) dot += q[i] * FromHalf(k[i]);
      dot = WarpSum(dot);
      if (lane == 0) scores[key] = dot * scale;
    }
    __syncthreads();
    float* partial =
        args.scratch + ((place.head + h) * args.blocks + blockIdx.x) * PartialFloats(d);
    if (threadIdx.x < 32) Exponentials(scores, place.count, partial + d);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < d; i += kThreads) {
      float sum = 0;
      for (uint32_t p = 0; p < place.count; ++p) {
        sum += scores[p] * FromHalf(args.cache.values[place.cache + uint64_t{p} * d + i]);
      }
      partial[i] = sum;
    }
    __syncthreads();
  }
}

// Grid: heads, queries.
__global__ void CombineKernel(const AttentionArgs args) {
  const uint32_t d = args.head_dim, blocks = AttentionBlocks(*args.base + blockIdx.y + 1);
  const uint64_t head = uint64_t{blockIdx.y} * args.heads + blockIdx.x;
  const float* partials = args.scratch + head * args.blocks * PartialFloats(d);
  for (uint32_t i = threadIdx.x; i < d; i += blockDim.x) {
    float value[1];
    CombineBlocks(partials, d, blocks, i, value);
    args.out[head * d + i] = value[0];
  }
}

}  // namespace

uint64_t AttentionScratchFloats(uint64_t n, uint32_t heads, uint32_t head_dim, uint32_t blocks) {
  return n * heads * blocks * PartialFloats(head_dim);
}

int LaunchAttentionBlocks(const AttentionArgs& args, void* stream) {
  if (args.n < 1 || args.n > kMaxTransformerRows || args.head_dim < 2 ||
      args.head_dim > kMaxHeadDim || args.kv_heads < 1 || args.kv_heads > UINT16_MAX ||
      args.heads > UINT16_MAX || args.heads % args.kv_heads != 0 || args.blocks < 1 ||
      args.blocks > INT32_MAX) {
    return cudaErrorInvalidValue;
  }
  const LaunchShape shape{dim3(args.blocks, args.kv_heads, static_cast<unsigned>(args.n)), kThreads,
                          0, static_cast<cudaStream_t>(stream)};
  const auto kernel = args.head_dim == 64    ? BlocksKernel<64>
                      : args.head_dim == 128 ? BlocksKernel<128>
                                             : AnyBlocksKernel;
  return LaunchOverlapped(kernel, shape, args, 1 / sqrtf(static_cast<float>(args.head_dim)));
}

int LaunchAttention(const AttentionArgs& args, void* stream) {
  const int error = LaunchAttentionBlocks(args, stream);
  if (error != cudaSuccess) return error;
  CombineKernel<<<dim3(args.heads, static_cast<unsigned>(args.n)), std::min(args.head_dim, 128u), 0,
                  static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

}  // namespace tq::cuda
