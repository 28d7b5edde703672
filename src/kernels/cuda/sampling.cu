#include <cuda_runtime.h>

#include <cfloat>
#include <cstddef>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sampling.h"
#include "kernels/transformer/token_mass.h"

namespace tq::cuda {
namespace {

using transformer::DrawnMass;
using transformer::MassOf;
using transformer::TopPMass;

// A thread block takes a slice of neighbouring ids: 1024 of them spread the vocabularies of today
// (32 to 256 thousand) over most of a device, and their masses add up in 32 bits below.
constexpr uint32_t kThreads = 256, kPerThread = 4, kSlice = kThreads * kPerThread;
// Thread blocks of a multiprocessor: 64 registers a thread, with the 32 that nvcc takes some spill.
constexpr uint32_t kBlocks = 4;
constexpr uint32_t kPenaliseThreads = 1024;

// Keys of 32 bits are selected by 11, 11 and 10 of them, the highest first.
constexpr uint32_t kPasses = 3, kBins = 2048;
__host__ __device__ constexpr uint32_t ShiftOf(uint32_t pass) {
  return pass == 0 ? 21 : pass == 1 ? 10 : 0;
}
// The bits above those of a pass.
__host__ __device__ constexpr uint32_t AboveOf(uint32_t pass) {
  return pass == 0 ? 0 : ~0u << ShiftOf(pass - 1);
}

// Those with larger keys, and with the same key up to an id.
struct Cutoff {
  uint32_t key, last_id;
  __device__ __forceinline__ bool Keeps(uint32_t other, uint32_t id) const {
    return other > key || (other == key && id <= last_id);
  }
};

struct Scratch {
  // Zeros where a kernel begins: sums of candidates by the bits of a pass, and how many thread
  // blocks have added theirs.
  unsigned long long sums[kBins];
  uint32_t blocks_done;
  // Of a selection under way: the bits so far, and what is left to reach among keys with them.
  uint32_t prefix;
  uint64_t rest;
  Cutoff top_k, top_p;
  unsigned long long slices[];  // [blocks]: masses that can be drawn
};

// Larger floats have larger keys; -0 has that of 0.
__device__ __forceinline__ uint32_t RisingKey(float value) {
  const uint32_t bits = __float_as_uint(value == 0 ? 0.0f : value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// exp(x) for x <= 0, with the operations of ExpOf (kernels/transformer/elementwise-inl.h).
__device__ __forceinline__ float Exp(float x) {
  x = fmaxf(x, -80.0f);
  const float n = rintf(__fmul_rn(x, 1.44269504f));
  float r = __fmaf_rn(-n, 0.693359375f, x);
  r = __fmaf_rn(-n, -2.12194440e-4f, r);
  float q = 0.001392621346613538f;
  q = __fmaf_rn(q, r, 0.00836320297157575f);
  q = __fmaf_rn(q, r, 0.04166655443768795f);
  q = __fmaf_rn(q, r, 0.1666657684599398f);
  q = __fmaf_rn(q, r, 0.5f);
  const float y = __fadd_rn(1.0f, __fmaf_rn(q, __fmul_rn(r, r), r));
  return __fmul_rn(y, __int_as_float((static_cast<int>(n) + 127) << 23));
}

// Tokens in the light of the steps so far.
class Tokens {
 public:
  __device__ __forceinline__ explicit Tokens(const SamplingArgs& args)
      : logits_(args.logits),
        largest_(args.logits[static_cast<uint32_t>(args.result->best)]),
        temperature_(args.params->temperature) {}

  __device__ __forceinline__ void KeepTopK(const Cutoff& top_k) { top_k_ = top_k; }
  __device__ __forceinline__ void KeepTopP(const Cutoff& top_p) { top_p_ = top_p; }
  __device__ __forceinline__ void KeepMinP(float min_p) { min_p_ = min_p; }

  __device__ __forceinline__ uint32_t LogitKey(uint32_t id) const { return RisingKey(logits_[id]); }
  // The bits of a float from 0 to 1: larger ones are of larger weights. 0 for those that are out.
  __device__ __forceinline__ uint32_t WeightKey(uint32_t id) const {
    const float logit = logits_[id];
    if (!top_k_.Keeps(RisingKey(logit), id)) return 0;
    const float weight = Exp(__fdiv_rn(__fsub_rn(logit, largest_), temperature_));
    const uint32_t key = __float_as_uint(weight);
    return top_p_.Keeps(key, id) && weight >= min_p_ ? key : 0;
  }
  __device__ __forceinline__ uint64_t Mass(uint32_t id) const {
    return MassOf(__uint_as_float(WeightKey(id)));
  }

 private:
  const float* logits_;
  float largest_, temperature_;
  Cutoff top_k_ = {0, UINT32_MAX}, top_p_ = {0, UINT32_MAX};  // all
  float min_p_ = 0;
};

// Of the values of the thread block's threads, the sum of those before this thread's, and of all.
__device__ __forceinline__ uint64_t SumBefore(uint64_t value, uint64_t& total) {
  __shared__ uint64_t warps[kThreads / 32];
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint64_t sum = value;
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();  // those of the call before have been read
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  uint64_t before = sum - value;
  total = 0;
#pragma unroll
  for (uint32_t i = 0; i < kThreads / 32; ++i) {
    if (i < warp) before += warps[i];
    total += warps[i];
  }
  return before;
}

// Finds the first i of [0, n) with value(0) + .. + value(i) > goal(sum of all): if there is one,
// one thread calls found(i, what is left of the goal before it, value(i)). All threads take part;
// each asks for its values, and then the one that finds for its own again.
template <typename Value, typename Goal, typename Found>
__device__ __forceinline__ void FindFirst(uint32_t n, const Value& value, const Goal& goal,
                                          const Found& found) {
  const uint32_t each = (n + kThreads - 1) / kThreads;
  const uint32_t begin = min(threadIdx.x * each, n), end = min(begin + each, n);
  uint64_t sum = 0, total = 0;
  for (uint32_t i = begin; i < end; ++i) sum += value(i);
  const uint64_t before = SumBefore(sum, total);
  uint64_t left = goal(total);
  if (left < before || left - before >= sum) return;
  left -= before;
  for (uint32_t i = begin; i < end; ++i) {
    const uint64_t here = value(i);
    if (left < here) {
      found(i, left, here);
      return;
    }
    left -= here;
  }
}

// Whether this thread block is the last to come here; then it sees what the others have written.
__device__ __forceinline__ bool IsLastBlock(uint32_t* blocks_done) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(blocks_done, 1) == gridDim.x - 1;
    if (is_last) *blocks_done = 0;
  }
  __syncthreads();
  __threadfence();
  return is_last;
}

// Of the slice's tokens whose key has the prefix, the sums by the key's bits of the pass: of their
// masses, or how many they are. Masses are of 41 bits, for whose sums shared memory has no
// additions: the low 20 and the high ones are added apart.
template <bool kMass>
__device__ __forceinline__ void AddSlice(const SamplingArgs& args, const Tokens& tokens,
                                         uint32_t pass, uint32_t prefix, uint32_t (&low)[kBins],
                                         uint32_t (&high)[kBins]) {
#pragma unroll
  for (uint32_t i = 0; i < kPerThread; ++i) {
    const uint32_t id = blockIdx.x * kSlice + i * kThreads + threadIdx.x;
    if (id >= args.n) break;
    const uint32_t key = kMass ? tokens.WeightKey(id) : tokens.LogitKey(id);
    if ((key & AboveOf(pass)) != prefix) continue;
    const uint32_t bin = (key & ~AboveOf(pass)) >> ShiftOf(pass);
    if constexpr (kMass) {
      const uint64_t mass = MassOf(__uint_as_float(key));
      if (mass == 0) continue;
      atomicAdd(&low[bin], static_cast<uint32_t>(mass & 0xFFFFF));
      atomicAdd(&high[bin], static_cast<uint32_t>(mass >> 20));
    } else {
      atomicAdd(&low[bin], 1);
    }
  }
}

// One pass of the selection of the fewest tokens by falling key, then rising id, whose masses or
// numbers reach a goal. The last one leaves the cutoff.
template <bool kMass>
__global__ void __launch_bounds__(kThreads, kBlocks)
    SelectKernel(const SamplingArgs args, uint32_t pass) {
  __shared__ uint32_t low[kBins], high[kBins];
  // Of the last token that is kept: its key, its place among those with that key, from 0, and
  // whether there are more of them.
  __shared__ uint32_t last_key;
  __shared__ uint64_t place;
  __shared__ bool cuts_equals;
  for (uint32_t i = threadIdx.x; i < kBins; i += kThreads) low[i] = high[i] = 0;
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  if (args.result->first_bad != UINT32_MAX) return;
  auto& scratch = *reinterpret_cast<Scratch*>(args.scratch);
  Cutoff& cutoff = kMass ? scratch.top_p : scratch.top_k;
  Tokens tokens(args);
  if (kMass && args.top_k) tokens.KeepTopK(scratch.top_k);
  const uint32_t prefix = pass == 0 ? 0 : scratch.prefix;
  const uint64_t rest = scratch.rest;
  __syncthreads();
  AddSlice<kMass>(args, tokens, pass, prefix, low, high);
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < kBins; i += kThreads) {
    const uint64_t sum = low[i] + (uint64_t{high[i]} << 20);
    if (sum != 0) atomicAdd(&scratch.sums[i], static_cast<unsigned long long>(sum));
  }
  if (!IsLastBlock(&scratch.blocks_done)) return;

  const bool is_last_pass = pass + 1 == kPasses;
  const auto goal = [&](uint64_t total) -> uint64_t {
    if (pass > 0) return rest;
    const uint64_t k = args.params->top_k;
    return (kMass ? TopPMass(args.params->top_p, total) : min(k, total)) - 1;
  };
  FindFirst(
      kBins, [&](uint32_t i) { return __ldcg(&scratch.sums[kBins - 1 - i]); }, goal,
      [&](uint32_t i, uint64_t left, uint64_t sum) {
        last_key = prefix | (kBins - 1 - i) << ShiftOf(pass);
        scratch.prefix = last_key, scratch.rest = left;
        if (!is_last_pass) return;
        const uint64_t each = kMass ? MassOf(__uint_as_float(last_key)) : 1;
        place = left / each;
        cuts_equals = place + 1 < sum / each;
        cutoff = {last_key, UINT32_MAX};
      });
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < kBins; i += kThreads) scratch.sums[i] = 0;
  if (!is_last_pass || !cuts_equals) return;
  // Rare: one thread block looks at all tokens.
  FindFirst(
      args.n,
      [&](uint32_t id) -> uint64_t {
        return (kMass ? tokens.WeightKey(id) : tokens.LogitKey(id)) == last_key ? 1 : 0;
      },
      [&](uint64_t) { return place; },
      [&](uint32_t id, uint64_t, uint64_t) { cutoff.last_id = id; });
}

__global__ void __launch_bounds__(kThreads, kBlocks) DrawKernel(const SamplingArgs args) {
  __shared__ uint32_t slice;  // the one with the token
  __shared__ uint64_t rest;   // masses in it before the draw
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();
  if (args.result->first_bad != UINT32_MAX) return;
  auto& scratch = *reinterpret_cast<Scratch*>(args.scratch);
  Tokens tokens(args);
  if (args.top_k) tokens.KeepTopK(scratch.top_k);
  if (args.top_p) tokens.KeepTopP(scratch.top_p);
  tokens.KeepMinP(args.params->min_p);
  uint64_t mass = 0, slice_mass = 0;
#pragma unroll
  for (uint32_t i = 0; i < kPerThread; ++i) {
    const uint32_t id = blockIdx.x * kSlice + i * kThreads + threadIdx.x;
    if (id < args.n) mass += tokens.Mass(id);
  }
  SumBefore(mass, slice_mass);
  if (threadIdx.x == 0) scratch.slices[blockIdx.x] = slice_mass;
  if (!IsLastBlock(&scratch.blocks_done)) return;

  FindFirst(
      gridDim.x, [&](uint32_t i) { return __ldcg(&scratch.slices[i]); },
      [&](uint64_t total) { return DrawnMass(args.params->uniform, total); },
      [&](uint32_t i, uint64_t left, uint64_t) { slice = i, rest = left; });
  __syncthreads();
  const uint32_t begin = slice * kSlice;
  FindFirst(
      min(kSlice, args.n - begin), [&](uint32_t i) { return tokens.Mass(begin + i); },
      [&](uint64_t) { return rest; },
      [&](uint32_t i, uint64_t, uint64_t) { args.result->best = begin + i; });
}

__global__ void __launch_bounds__(kPenaliseThreads) PenaliseKernel(const SamplingArgs args) {
  const float penalty = args.params->repetition_penalty;
  for (uint32_t i = threadIdx.x; i < args.params->num_recent; i += kPenaliseThreads) {
    const auto id = static_cast<uint32_t>(args.recent[i]);
    if (id >= args.n) continue;
    const float logit = args.logits[id];
    if (!isfinite(logit)) continue;
    const float penalised = logit > 0 ? __fdiv_rn(logit, penalty) : __fmul_rn(logit, penalty);
    args.logits[id] = fminf(fmaxf(penalised, -FLT_MAX), FLT_MAX);
  }
}

uint64_t Slices(uint64_t n) { return (n + kSlice - 1) / kSlice; }

}  // namespace

uint64_t SamplingScratchBytes(uint64_t n) {
  return sizeof(Scratch) + Slices(n) * sizeof(unsigned long long);
}

int LaunchPenalise(const SamplingArgs& args, void* stream) {
  if (args.n < 1) return cudaErrorInvalidValue;
  PenaliseKernel<<<1, kPenaliseThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

int LaunchDraw(const SamplingArgs& args, void* stream) {
  if (args.n < 1 || args.n > UINT32_MAX - kSlice) return cudaErrorInvalidValue;
  const LaunchShape shape{dim3(static_cast<unsigned>(Slices(args.n))), kThreads, 0,
                          static_cast<cudaStream_t>(stream)};
  cudaError_t error = cudaSuccess;
  for (uint32_t pass = 0; args.top_k && pass < kPasses && error == cudaSuccess; ++pass) {
    error = LaunchOverlapped(SelectKernel<false>, shape, args, pass);
  }
  for (uint32_t pass = 0; args.top_p && pass < kPasses && error == cudaSuccess; ++pass) {
    error = LaunchOverlapped(SelectKernel<true>, shape, args, pass);
  }
  return error != cudaSuccess ? error : LaunchOverlapped(DrawKernel, shape, args);
}

}  // namespace tq::cuda
