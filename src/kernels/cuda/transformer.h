// The float operations of a decoder layer on a GPU, twins of kernels/transformer up to rounding,
// and the same for a row whether it comes alone or among others. No CUDA types here: each Launch
// starts work on a stream (cudaStream_t) and returns a cudaError_t.
#pragma once

#include <cstdint>

namespace tq::cuda {

// Rows of one launch, at most.
inline constexpr uint64_t kMaxTransformerRows = 4096;
inline constexpr uint32_t kMaxHeadDim = 256;
// Cached positions that a thread block of the attention takes: absolute ones, so that sums do not
// depend on where a call begins.
inline constexpr uint32_t kAttentionBlock = 64;

// x += added (if any), then y = x / sqrt(mean(x^2) + eps) * weight, for n rows of `size` values.
struct NormArgs {
  float* x = nullptr;
  const float* added = nullptr;
  const float* weight = nullptr;  // [size]
  float* y = nullptr;
  uint64_t n = 0, size = 0;
  float eps = 0;
  // Lowered to `place` when a value of x is not finite.
  uint32_t* first_bad = nullptr;
  uint32_t place = 0;
};
int LaunchNorm(const NormArgs& args, void* stream);

// cos and sin [n][half] of the angles (*base + row) * frequencies[i], in double.
struct RopeTableArgs {
  const double* frequencies = nullptr;  // [half]
  const uint32_t* base = nullptr;       // position of the first row
  uint64_t n = 0, half = 0;
  float* cosines = nullptr;
  float* sines = nullptr;
};
int LaunchRopeTable(const RopeTableArgs& args, void* stream);

// Keys and values of a layer in half precision, position p of head h at h * stride + p * head_dim.
struct CacheLayer {
  uint16_t* keys = nullptr;
  uint16_t* values = nullptr;
  uint64_t stride = 0;
};

// Turns queries (in place) and keys of n positions from *base on, and stores keys and values.
struct RopeArgs {
  float* queries = nullptr;       // [n][heads][head_dim]
  const float* keys = nullptr;    // [n][kv_heads][head_dim]
  const float* values = nullptr;  // likewise
  const float* cosines = nullptr;
  const float* sines = nullptr;
  const uint32_t* base = nullptr;
  uint64_t n = 0;
  uint32_t heads = 0, kv_heads = 0, head_dim = 0;
  CacheLayer cache;
};
int LaunchRope(const RopeArgs& args, void* stream);

// Causal attention of n queries from position *base on, over positions 0 .. their own.
struct AttentionArgs {
  const float* queries = nullptr;  // [n][heads][head_dim]
  const uint32_t* base = nullptr;
  uint64_t n = 0;
  uint32_t heads = 0, kv_heads = 0, head_dim = 0;
  CacheLayer cache;
  // Blocks of kAttentionBlock positions that are looked at: as many as *base + n need, or more.
  uint32_t blocks = 0;
  float* scratch = nullptr;  // AttentionScratchFloats
  float* out = nullptr;      // as queries
};
uint64_t AttentionScratchFloats(uint64_t n, uint32_t heads, uint32_t head_dim, uint32_t blocks);
int LaunchAttention(const AttentionArgs& args, void* stream);
// Its first kernel alone, which leaves in `scratch` what blocks of positions make.
int LaunchAttentionBlocks(const AttentionArgs& args, void* stream);

// LaunchAttention's result for many queries, through tensor cores: queries and weights of positions
// in half precision, sums in float. `blocks` and `scratch` are not used; keys and values are
// 16-byte aligned. The caches hold *base + n positions, at most INT32_MAX.
int LaunchManyAttention(const AttentionArgs& args, void* stream);
// Whether it is made for heads of that size.
bool CanAttendMany(uint32_t head_dim);

// gate = silu(gate) * up for `size` values.
int LaunchSiluMultiply(float* gate, const float* up, uint64_t size, void* stream);

}  // namespace tq::cuda
