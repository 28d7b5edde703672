// Moves channel scales between the matrices of a model without changing what it computes.
//
// Models that were published in 4 bits have weights on a grid that another 4-bit code can hit
// exactly; comparing such codes on them is meaningless. The model made here computes the same
// function in float32, but its weights lie on no grid: every channel between two linear maps
// is scaled by a log-normal factor on one side and divided by it on the other.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"

namespace tq {

struct RegridOptions {
  uint64_t seed = 1;
  double sigma = 0.2;  // of the factors' natural logarithm
};

// All tensors of the model in float32, in the order of ModelTensors(). Per layer, with factors
// s drawn for each channel:
//   input norm  * s, columns of q, k, v    / s
//   post-attention norm * s, columns of gate, up / s
//   rows of v   * s, columns of o          / s   (s per key-value head and channel: the o
//                                                 columns of all its query heads share it)
//   rows of up  * s, columns of down       / s   (the product silu(gate) * up is linear in up)
StatusOr<std::vector<OutputTensor>> RegridTensors(const ModelSource& source,
                                                  const RegridOptions& options);

}  // namespace tq
