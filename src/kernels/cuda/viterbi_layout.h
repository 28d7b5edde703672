// What the Viterbi kernel and the choice of its configuration share.
#pragma once

#include <cstdint>

#include "kernels/trellis/trellis_code.h"

namespace tq::cuda {

inline constexpr int kMostTogether = 4;
inline constexpr uint32_t kOverlapsPerThread = 4;  // neighbours, which have the same successors
inline constexpr uint32_t kMaxViterbiThreads = 512;

// Low L - k bits of a state.
constexpr uint32_t Overlaps(trellis::Code code) { return 1u << (code.state_bits - code.bits); }
constexpr uint64_t TargetWords(trellis::Code code) { return code.values == 4 ? 2 : 1; }
// Two arrays of costs, and the targets.
constexpr uint64_t ViterbiSharedBytes(trellis::Code code, int steps, int together) {
  const uint64_t per_tile =
      2 * uint64_t{Overlaps(code)} + static_cast<uint64_t>(steps) * TargetWords(code);
  return per_tile * static_cast<uint64_t>(together) * sizeof(int32_t);
}
// Winners of neighbouring overlaps: four bits each, or a byte for k = 5.
constexpr uint64_t WinnerBytes(trellis::Code code, int steps, int together) {
  const uint64_t row = Overlaps(code) / (code.bits <= 4 ? 2 : 1);
  return row * static_cast<uint64_t>(steps) * static_cast<uint64_t>(together);
}

}  // namespace tq::cuda
