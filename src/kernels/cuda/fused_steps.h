// The steps between two products of a decoder layer, fused: with the bits of the plain kernels
// (activations.h, transformer.h) one after the other, in one launch. For devices with thread block
// clusters (sm_90) and transforms of 128 values; CanFuse tells. No CUDA types here: each Launch
// starts work on a stream (cudaStream_t) and returns a cudaError_t.
#pragma once

#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/transformer.h"

namespace tq::cuda {

// What a product's x becomes: integers for the codes of each V among its matrices.
inline constexpr int kMaxOperands = 3;
struct ProductInput {
  uint64_t cols = 0;
  const uint16_t* in_scale = nullptr;  // si [cols], IEEE binary16
  HadamardShape hadamard;
  int num_operands = 0;
  struct Operand {
    int values = 2;                  // V
    uint8_t* activations = nullptr;  // trellis_units.h
    float* scale = nullptr;          // [n], as PrepareArgs
    int64_t* sum = nullptr;          // [n]
  } operands[kMaxOperands];
};
// A product's sums [n][stride].
struct ProductSums {
  int64_t* sums = nullptr;
  uint64_t stride = 0;
};

// Whether steps to this input, and from outputs with this transform, can be fused.
bool CanFuse(const ProductInput& input);
bool CanFuse(const HadamardShape& output);
bool CanFuseRope(uint32_t head_dim);
// Whether the device that is in use has what fused kernels need; false also on errors.
bool DeviceCanFuse();

// x += y of `added` (none if it has no segments), its norm, and from that a product's input.
struct FusedNormArgs {
  ProductSums sums;
  FinishMatrix added;  // its y is not used
  NormArgs norm;       // but for added and y
  ProductInput to;
};
int LaunchFusedNorm(const FusedNormArgs& args, void* stream);

// silu(y of gate) * y of up, and from that a product's input.
struct FusedSiluArgs {
  ProductSums sums;
  FinishMatrix gate, up;  // their y are not used
  uint64_t n = 0;
  ProductInput to;
};
int LaunchFusedSilu(const FusedSiluArgs& args, void* stream);

// y of queries, keys and values, turned and stored as LaunchRope does.
struct FusedRopeArgs {
  ProductSums sums;
  FinishMatrix q, k, v;  // their y are not used
  RopeArgs rope;         // but for keys and values
};
int LaunchFusedRope(const FusedRopeArgs& args, void* stream);

// What is left to do of an attention (LaunchAttentionBlocks), and from that a product's input.
struct FusedAttentionArgs {
  AttentionArgs attention;  // but for out
  ProductInput to;
};
int LaunchFusedAttention(const FusedAttentionArgs& args, void* stream);

}  // namespace tq::cuda
