// Codes in the registers of a warp (trellis_units.h).
#pragma once

#include <cstdint>

#include "kernels/cuda/trellis_units.h"

namespace tq::cuda {

// A row of tiles of a unit as a lane holds it: all words of the lane, and the next lane's first.
template <trellis::Code C>
struct LaneCodes {
  static constexpr int kWords = trellis::ShapeOf(C).words;
  uint4 word[kWords + 1];

  __device__ __forceinline__ void Load(const uint8_t* unit, int lane) {
#pragma unroll
    for (int q = 0; q < kWords; ++q) {
      word[q] = *reinterpret_cast<const uint4*>(unit + q * kChunkBytes + 16 * lane);
    }
    const int next = (lane + 1) % trellis::kLanes;
    word[kWords] = *reinterpret_cast<const uint4*>(unit + 16 * next);
  }
  // The state of window kWindow in tile kTile.
  template <int kTile, int kWindow>
  __device__ __forceinline__ uint32_t State() const {
    constexpr int kBit = kWindow * C.bits, kWord = kBit / 16, kShift = kBit % 16;
    constexpr int kPart = kTile / 2;
    const uint32_t pair = __byte_perm(Part<kPart>(word[kWord]), Part<kPart>(word[kWord + 1]),
                                      kTile % 2 == 0 ? 0x5410 : 0x7632);
    if constexpr (C.state_bits != 16) {
      return (pair >> kShift) & ((1u << C.state_bits) - 1);
    } else if constexpr (kShift % 8 == 0) {
      return __byte_perm(pair, 0, kShift == 0 ? 0x4410 : 0x4421);
    } else {
      // To the left, so that the window ends on a byte: the compiler makes that a multiplication,
      // which runs beside the permutations, and two windows share it.
      return __byte_perm(pair << (8 - kShift % 8), 0, kShift < 8 ? 0x4421 : 0x4432);
    }
  }
  template <int kPart>
  __device__ __forceinline__ static uint32_t Part(const uint4& v) {
    if constexpr (kPart == 0) return v.x;
    if constexpr (kPart == 1) return v.y;
    if constexpr (kPart == 2) return v.z;
    return v.w;
  }
};

}  // namespace tq::cuda
