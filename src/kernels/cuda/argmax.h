// The most likely token, on a GPU. No CUDA types here.
#pragma once

#include <cstdint>

namespace tq::cuda {

// Of bytes 0xff before.
struct ArgmaxResult {
  uint32_t first_bad;  // the first logit that is not finite, or UINT32_MAX
  uint32_t unused;
  uint64_t best;  // its low word: the lowest id of those with the largest logit
};
// Starts it for logits [n] on a stream (cudaStream_t); returns a cudaError_t.
int LaunchArgmax(const float* logits, uint32_t n, ArgmaxResult* result, void* stream);

}  // namespace tq::cuda
