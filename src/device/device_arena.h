// Parts of one allocation, one behind the other.
#pragma once

#include <cstdint>

#include "base/checked.h"

namespace tq {

class DeviceArena {
 public:
  static constexpr uint64_t kAlignment = 256;
  static constexpr uint64_t Aligned(uint64_t bytes) { return RoundUp(bytes, kAlignment); }
  // Offset of a part of `bytes`.
  uint64_t Add(uint64_t bytes) {
    const uint64_t offset = bytes_;
    bytes_ += Aligned(bytes);
    return offset;
  }
  uint64_t num_bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

}  // namespace tq
