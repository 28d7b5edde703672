// Mixtral (Jiang et al., "Mixtral of Experts", 2024, section 2): a Mistral each of whose MLPs is
// eight experts, of which a token sees two. GGUF files call it a llama that has experts.
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Mixtral() {
  static const Architecture architecture = {
      .model_type = "mixtral",
      .model_class = "MixtralForCausalLM",
      .gguf_name = "llama",
      .defaults = {.architecture = "mixtral",
                   .num_kv_heads = 8,
                   .max_position = 131072,
                   .rms_norm_eps = 1e-5f,
                   .rope_theta = 1e6f,
                   .num_experts = 8,
                   .experts_per_token = 2,
                   .renormalise_experts = true},
      .fields = {{"num_local_experts", "expert_count", &ModelConfig::num_experts, "num_experts"},
                 {"num_experts_per_tok", "expert_used_count", &ModelConfig::experts_per_token},
                 {"sliding_window", nullptr, &ModelConfig::sliding_window}},
      .gguf_interleaves_heads = true,
      .experts = ExpertNames{"block_sparse_moe.gate", "block_sparse_moe.experts", "w1", "w3", "w2"},
  };
  return architecture;
}

}  // namespace tq
