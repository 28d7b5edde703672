// The small tensors of a layer, which stay float32 whatever its matrices are: norms, biases and the
// matrices that choose experts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "tensor/tensor.h"

namespace tq {

// Norms are what values are multiplied by: 1 is added where the architecture adds it. Empty: the
// architecture has none.
struct AttentionVectors {
  Tensor norm;                    // [hidden], of the input
  Tensor q_bias, k_bias, v_bias;  // [q], [kv], [kv]
  Tensor q_norm, k_norm;          // [head_dim], of each head
  Tensor sub_norm;                // [q], of what goes into o
  Tensor out_norm;                // [hidden], of the output
};
struct MlpVectors {
  Tensor norm;      // [hidden], of the input
  Tensor router;    // [experts, hidden], of a sparse MLP
  Tensor sub_norm;  // [intermediate], of what goes into down
  Tensor out_norm;  // [hidden], of the output
};

// Where they come from: float32 by Hugging Face's name. `file` is named in errors.
struct VectorSource {
  std::function<StatusOr<Tensor>(const std::string& name)> load;
  std::string file;
};

// Errors: a tensor that is missing, or whose shape is not what the config says.
StatusOr<AttentionVectors> LoadAttentionVectors(const ModelConfig& config, uint32_t layer,
                                                const VectorSource& source);
StatusOr<MlpVectors> LoadMlpVectors(const ModelConfig& config, uint32_t layer,
                                    const VectorSource& source);
// The norm [hidden] behind the last layer.
StatusOr<Tensor> LoadFinalNorm(const ModelConfig& config, const VectorSource& source);

uint64_t NumBytes(const AttentionVectors& vectors);
uint64_t NumBytes(const MlpVectors& vectors);

}  // namespace tq
