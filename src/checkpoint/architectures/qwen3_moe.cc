// Qwen 3 with experts (Yang et al., "Qwen3 Technical Report", 2025, section 2): a Qwen 3 whose MLPs
// are many small experts.
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Qwen3Moe() {
  static const Architecture architecture = {
      .model_type = "qwen3_moe",
      .model_class = "Qwen3MoeForCausalLM",
      .gguf_name = "qwen3moe",
      .defaults = {.architecture = "qwen3_moe",
                   .intermediate_size = 6144,
                   .num_kv_heads = 4,
                   .max_position = 32768,
                   .rms_norm_eps = 1e-6f,
                   .qk_norm = true,
                   .num_experts = 128,
                   .experts_per_token = 8,
                   .expert_size = 768},
      .fields = {{"num_experts", "expert_count", &ModelConfig::num_experts, "num_local_experts"},
                 {"num_experts_per_tok", "expert_used_count", &ModelConfig::experts_per_token},
                 {"moe_intermediate_size", "expert_feed_forward_length",
                  &ModelConfig::expert_size}},
      // Without use_sliding_window, which is refused, there is no window.
      .without_effect = {"sliding_window"},
      .experts = ExpertNames{"mlp.gate", "mlp.experts", "gate_proj", "up_proj", "down_proj"},
      .renormalise_field = "norm_topk_prob",
  };
  return architecture;
}

}  // namespace tq
