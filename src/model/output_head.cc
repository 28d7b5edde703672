#include "model/output_head.h"

#include <array>

#include "model/transformer_ops.h"

namespace tq {

Status HeadLogits(const ForwardContext& context, const ModelConfig& config, const Tensor& norm,
                  LinearGroup& head, const float* hidden, uint64_t n, std::vector<float>& normed,
                  float* logits) {
  if (normed.size() < n * config.hidden_size) normed.resize(n * config.hidden_size);
  RmsNormRows(hidden, norm.as<float>(), n, config.hidden_size, config.rms_norm_eps,
              *context.executor, normed.data());
  TQ_RETURN_IF_ERROR(head.Forward(context, normed.data(), n, std::array{logits}));
  if (config.logit_softcap != 0) {
    SoftCap(logits, n * config.vocab_size, config.logit_softcap, *context.executor);
  }
  return OkStatus();
}

}  // namespace tq
