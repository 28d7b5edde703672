// Llama 3's scaling of positions as GGUF files have it: not its parameters but the numbers by which
// each pair's frequency is divided, in a tensor (kGgufRopeFactors in gguf.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "checkpoint/model_config.h"

namespace tq {

// What `scaling` divides the frequencies of the pairs by, float [head_dim / 2].
std::vector<float> RopeFactors(uint32_t head_dim, float theta, const RopeScaling& scaling);

// The Llama 3 scaling with these factors (float [head_dim / 2], any values), to within 0.1 %. Its
// low and high frequency factors are 1 and 4, as in all models known to have it; the factor and the
// original context follow. Nothing if there is none.
std::optional<RopeScaling> RopeScalingOf(std::span<const float> factors, uint32_t head_dim,
                                         float theta);

}  // namespace tq
