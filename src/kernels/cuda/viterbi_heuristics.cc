// The configuration of a search, chosen on the host.
#include <algorithm>

#include "kernels/cuda/viterbi.h"
#include "kernels/cuda/viterbi_layout.h"

namespace tq::cuda {

ViterbiConfig ChooseViterbi(trellis::Code code, int steps, uint64_t tiles,
                            const DeviceShape& device, uint64_t block_shared_bytes) {
  ViterbiConfig config;
  if (!HasViterbi(code) || tiles == 0) return config;
  const auto multiprocessors = static_cast<uint64_t>(device.multiprocessors);
  // Tiles together share what depends on the state alone, but every multiprocessor should have
  // some.
  int together = kMostTogether;
  while (together > 1 && (ViterbiSharedBytes(code, steps, together) > block_shared_bytes ||
                          tiles < static_cast<uint64_t>(together) * multiprocessors)) {
    together /= 2;
  }
  config.shared_bytes = ViterbiSharedBytes(code, steps, together);
  if (config.shared_bytes > block_shared_bytes) return config;
  config.together = together;
  config.threads =
      static_cast<int>(std::min<uint64_t>(Overlaps(code) / kOverlapsPerThread, kMaxViterbiThreads));
  // What the system takes of a multiprocessor's shared memory per block.
  constexpr uint64_t kReserved = 1 << 10;
  const uint64_t resident = std::clamp<uint64_t>(
      static_cast<uint64_t>(device.shared_bytes) / (config.shared_bytes + kReserved), 1,
      2048 / static_cast<uint64_t>(std::max(config.threads, 64)));
  const uint64_t batches =
      (tiles + static_cast<uint64_t>(together) - 1) / static_cast<uint64_t>(together);
  config.blocks = static_cast<int>(std::min(batches, resident * multiprocessors));
  config.scratch_bytes = static_cast<uint64_t>(config.blocks) * WinnerBytes(code, steps, together);
  return config;
}

}  // namespace tq::cuda
