// Choosing a token on a CUDA device: the kernels, and what they read of a choice, which goes to the
// device before each run of recorded work. Only in builds with TQ_CUDA.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/status.h"
#include "device/cuda_device.h"
#include "kernels/cuda/sampling.h"
#include "model/backend.h"

namespace tq {

class CudaSampler {
 public:
  // What of a choice decides which kernels run: work recorded for it is good for all like it.
  struct Steps {
    uint32_t limit = 0;
    bool penalty = false, draw = false, top_k = false, top_p = false;
    auto operator<=>(const Steps&) const = default;
  };

  // Of the device's memory.
  static uint64_t NumBytes(uint64_t vocab) {
    return sizeof(cuda::SamplingParams) + cuda::SamplingScratchBytes(vocab) +
           vocab * sizeof(int32_t);
  }
  static StatusOr<std::unique_ptr<CudaSampler>> Create(std::shared_ptr<CudaDevice> device,
                                                       uint64_t vocab);

  // Puts the choice where the work that Start starts takes it; not before it has run.
  StatusOr<Steps> Stage(const TokenChoice& choice);
  // Chooses from logits [steps.limit] on the device, which it may change: `result`, bytes 0xff
  // before, says whether they are finite, and the low word of its `best` is the token.
  Status Start(const Steps& steps, float* logits, cuda::ArgmaxResult* result);

 private:
  // The same on the host and on the device.
  struct Choice {
    cuda::SamplingParams* params = nullptr;
    int32_t* recent = nullptr;  // [vocab]
  };
  explicit CudaSampler(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}

  std::shared_ptr<CudaDevice> device_;
  DeviceMemory host_memory_, memory_;
  Choice host_, on_device_;
  uint8_t* scratch_ = nullptr;
};

}  // namespace tq
