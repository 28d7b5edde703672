// What a value goes through between products, for kernels that do one step and for those that do
// several: the same operations in the same order, so that both give the same bits.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/transformer.h"
#include "kernels/trellis_matmul/constants.h"

namespace tq::cuda {

// Values that a warp norms or rotates together, four neighbours a lane.
inline constexpr uint32_t kStepBlock = 128;

__device__ __forceinline__ float FromHalf(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

// Four neighbouring scales, IEEE binary16.
struct FourHalves {
  uint2 bits;
  // At a multiple of four.
  __device__ __forceinline__ explicit FourHalves(const uint16_t* halves)
      : bits(*reinterpret_cast<const uint2*>(halves)) {}
  __device__ __forceinline__ void Scale(float (&x)[4]) const {
    const uint32_t words[2] = {bits.x, bits.y};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      x[j] = __fmul_rn(x[j], FromHalf(static_cast<uint16_t>(words[j / 2] >> 16 * (j % 2))));
    }
  }
};
// Four neighbours, at a multiple of 16 bytes.
__device__ __forceinline__ void LoadFour(const float* from, float (&x)[4]) {
  const float4 values = *reinterpret_cast<const float4*>(from);
  x[0] = values.x, x[1] = values.y, x[2] = values.z, x[3] = values.w;
}
__device__ __forceinline__ void StoreFour(const float (&x)[4], float* to) {
  *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]};
}

// The sum over a warp, the same in every lane.
__device__ __forceinline__ float WarpSum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}
// The sum of squares of a block of a row, and of all its blocks.
__device__ __forceinline__ float BlockSquares(const float (&x)[4]) {
  float sum = __fmul_rn(x[0], x[0]);
#pragma unroll
  for (int j = 1; j < 4; ++j) sum = __fmaf_rn(x[j], x[j], sum);
  return WarpSum(sum);
}
__device__ __forceinline__ float SumOfBlocks(const float* blocks, uint32_t n) {
  float sum = 0;
  for (uint32_t i = threadIdx.x % 32; i < n; i += 32) sum += blocks[i];
  return WarpSum(sum);
}
__device__ __forceinline__ float NormScale(float squares, uint64_t size, float eps) {
  return __fdiv_rn(1, __fsqrt_rn(__fadd_rn(__fdiv_rn(squares, static_cast<float>(size)), eps)));
}
__device__ __forceinline__ float Normed(float x, float scale, float weight) {
  return __fmul_rn(__fmul_rn(x, scale), weight);
}

__device__ __forceinline__ float SiluTimes(float gate, float up) {
  return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1, expf(-gate))), up);
}

// The segment of a FinishMatrix or a DenseOutput that has the row.
template <typename Matrix>
__device__ __forceinline__ const auto& SegmentOf(const Matrix& matrix, uint64_t row) {
  int s = 0;
  while (s + 1 < matrix.num_segments && row >= matrix.segments[s + 1].row_begin) ++s;
  return matrix.segments[s];
}

// Element `row` of y' of row b of x, whose sum becomes 0; `sums` are those of row b.
__device__ __forceinline__ float FinishSum(const FinishMatrix& matrix, uint64_t row, uint64_t b,
                                           int64_t* sums) {
  const FinishSegment& segment = SegmentOf(matrix, row);
  const double scale =
      static_cast<double>(segment.scale[b]) * static_cast<double>(segment.weight_scale);
  const double bias = -trellis::SumCentre(segment.values) * static_cast<double>(segment.sum[b]);
  int64_t& sum = sums[segment.sums_begin + (row - segment.row_begin)];
  const auto y = static_cast<float>((static_cast<double>(sum) + bias) * scale);
  sum = 0;
  return y;
}
// Sums of padding, by `threads` threads.
__device__ __forceinline__ void ClearPadding(const FinishMatrix& matrix, int64_t* sums,
                                             uint32_t thread, uint32_t threads) {
  for (int s = 0; s < matrix.num_segments; ++s) {
    const FinishSegment& segment = matrix.segments[s];
    const bool last = s + 1 == matrix.num_segments;
    const uint64_t end = last ? matrix.rows : matrix.segments[s + 1].row_begin;
    for (uint64_t i = end - segment.row_begin + thread; i < segment.sum_rows; i += threads) {
      sums[segment.sums_begin + i] = 0;
    }
  }
}

// The combined activations a of V neighbours (trellis_matmul.h).
template <int V>
__device__ __forceinline__ void Combine(float (&x)[V]) {
  if constexpr (V == 2) {
    const float x0 = x[0], x1 = x[1];
    x[0] = x0 + x1;
    x[1] = x0 - x1;
  } else if constexpr (V == 4) {
    const float s0 = x[0] + x[1], d0 = x[0] - x[1];
    const float s1 = x[2] + x[3], d1 = x[2] - x[3];
    x[0] = s0 + s1;
    x[1] = d0 + d1;
    x[2] = s0 - s1;
    x[3] = d0 - d1;
  }
}

// What becomes of a row's values, from the bits of the largest magnitude.
struct Rounding {
  bool finite, zero;
  float inverse, scale;  // `scale` is NaN where a value is not finite
};
__device__ __forceinline__ Rounding RoundingOf(uint32_t largest_bits) {
  constexpr auto kMost = static_cast<float>(trellis::kMaxActivation);
  const float largest = __uint_as_float(largest_bits);
  Rounding rounding;
  rounding.finite = largest_bits < 0x7f800000u;
  rounding.zero = !rounding.finite || largest < trellis::kSmallestActivation;
  rounding.inverse = rounding.zero ? 0 : __fdiv_rn(kMost, largest);
  rounding.scale = !rounding.finite ? __int_as_float(0x7fc00000)
                   : rounding.zero  ? 0
                                    : __fdiv_rn(largest, kMost);
  return rounding;
}
__device__ __forceinline__ int RoundActivation(float a, float inverse) {
  return __float2int_rn(__fmul_rn(a, inverse));
}

// A value of a pair after its turn: the first of it, or the second.
__device__ __forceinline__ float Turned(float x, float other, float cosine, float sine,
                                        bool is_second) {
  const float product = __fmul_rn(other, sine);
  return is_second ? __fmaf_rn(x, cosine, product) : __fmaf_rn(x, cosine, -product);
}

// What a block of positions leaves for a query head (attention.cu): the sum of values under their
// exponentials [head_dim], then the largest score and the sum of exponentials; whole 16 bytes.
__host__ __device__ constexpr uint64_t PartialFloats(uint32_t head_dim) {
  return (uint64_t{head_dim} + 2 + 3) / 4 * 4;
}
// kValues neighbours of a head's output, from `offset` on, over all blocks in their order. A few
// blocks are read at once, so that they wait for memory together.
template <int kValues>
__device__ __forceinline__ void CombineBlocks(const float* partials, uint32_t head_dim,
                                              uint32_t blocks, uint32_t offset,
                                              float (&out)[kValues]) {
  constexpr uint32_t kTogether = 8;
  float largest = -INFINITY, weight = 0, sums[kValues] = {};
  for (uint32_t first = 0; first < blocks; first += kTogether) {
    float of_block[kTogether], weights[kTogether], values[kTogether][kValues];
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i) {
      const bool there = first + i < blocks;
      const float* partial = partials + (there ? first + i : first) * PartialFloats(head_dim);
      of_block[i] = there ? partial[head_dim] : -INFINITY;
      weights[i] = there ? partial[head_dim + 1] : 0;
#pragma unroll
      for (int v = 0; v < kValues; ++v) values[i][v] = there ? partial[offset + v] : 0;
    }
    float together = largest;
#pragma unroll
    for (const float score : of_block) together = fmaxf(together, score);
    // Scores that are no numbers give sums that are none.
    const float keep = first == 0 ? 0 : expf(__fsub_rn(largest, together));
    weight = __fmul_rn(weight, keep);
#pragma unroll
    for (float& sum : sums) sum = __fmul_rn(sum, keep);
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i) {
      if (first + i >= blocks) break;
      const float share = expf(__fsub_rn(of_block[i], together));
      weight = __fmaf_rn(weights[i], share, weight);
#pragma unroll
      for (int v = 0; v < kValues; ++v) sums[v] = __fmaf_rn(values[i][v], share, sums[v]);
    }
    largest = together;
  }
#pragma unroll
  for (int v = 0; v < kValues; ++v) out[v] = __fdiv_rn(sums[v], weight);
}
__host__ __device__ constexpr uint32_t AttentionBlocks(uint32_t positions) {
  return (positions + kAttentionBlock - 1) / kAttentionBlock;
}

}  // namespace tq::cuda
