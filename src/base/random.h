// Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011). A stream is named by a seed and a key
// (tensor, row, ...): the value at a position does not depend on threads or order.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tq {

// The four 32-bit words of Philox at `counter` under `key`.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A stream of random numbers; cheap to make and to copy.
class Random {
 public:
  // The stream of (seed, name, index), e.g. (42, "model.layers.0.mlp.down_proj", row).
  Random(uint64_t seed, std::string_view name, uint64_t index = 0);

  uint32_t NextU32();
  uint64_t NextU64();
  // Uniform in [0, 1).
  double NextUniform();
  // Uniform in [0, n), n > 0, without bias.
  uint64_t NextBelow(uint64_t n);
  // Standard normal (Box-Muller).
  double NextNormal();
  // +1 or -1.
  int NextSign() { return (NextU32() & 1) ? 1 : -1; }

 private:
  std::array<uint32_t, 2> key_;
  uint64_t index_;
  uint64_t block_ = 0;
  std::array<uint32_t, 4> words_{};
  int used_ = 4;
};

}  // namespace tq
