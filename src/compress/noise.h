// Noise shaped like the error of rounding with feedback, without the search for codes: what
// quantising does to a model can be measured before, and far faster than, quantising it.
#pragma once

#include <cstdint>
#include <string_view>

#include "compress/feedback.h"
#include "device/executor.h"

namespace tq {

// Columns of a block, as of most codes.
inline constexpr uint64_t kNoiseBlock = 16;

struct NoiseKey {
  uint64_t seed = 0;
  std::string_view name;
};

// The loss tr(E H E^T) and the norm tr(W H W^T).
struct NoiseLoss {
  double loss = 0, norm = 0;
};

// Rounds w, float [rows, cols] in the rotated basis, as Feedback::Round does, where a target t of
// power P decodes to (1 - D) t + sqrt(D (1 - D) P) n with n standard normal: the statistics of a
// code with relative squared error D that decodes to the mean of what it stands for. w becomes
// the error. Independent of the number of threads.
NoiseLoss RoundWithNoise(const Feedback& feedback, uint64_t rows, uint64_t cols, double error,
                         NoiseKey key, float* w, Executor& executor);

}  // namespace tq
