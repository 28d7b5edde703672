// The residual stream of all calibration tokens: in memory, or in an unlinked file in the
// work folder when there are more than fit, of which what is in use is in memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "base/status.h"

namespace tq {

class StateStore {
 public:
  // Room for `count` floats, uninitialised. Above `memory_limit` bytes they lie in a file
  // without a name in `folder`, whose disk space is reserved here (an error if there is too
  // little).
  static StatusOr<StateStore> Create(uint64_t count, uint64_t memory_limit,
                                     const std::filesystem::path& folder);

  float* data() { return data_.get(); }
  // Floats [begin, begin + count) will not be used soon: if spilled, they leave memory until then.
  void Release(uint64_t begin, uint64_t count);
  bool spilled() const { return spilled_; }

 private:
  std::shared_ptr<float> data_;
  bool spilled_ = false;
};

}  // namespace tq
