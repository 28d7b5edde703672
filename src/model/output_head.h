// The end of a model: from the residual stream to logits.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "model/linear.h"
#include "tensor/tensor.h"

namespace tq {

// logits [n, vocab] behind hidden [n, hidden]: RMS norm (LoadFinalNorm), head, and the
// architecture's cap. `normed` is scratch memory that grows to [n, hidden]. Fails where the head's
// device does.
Status HeadLogits(const ForwardContext& context, const ModelConfig& config, const Tensor& norm,
                  LinearGroup& head, const float* hidden, uint64_t n, std::vector<float>& normed,
                  float* logits);

}  // namespace tq
