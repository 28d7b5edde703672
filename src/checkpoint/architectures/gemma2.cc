// Gemma 2 (Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024, section
// 2): every second layer sees a window, scores and logits are capped.
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Gemma2() {
  static const Architecture architecture = {
      .model_type = "gemma2",
      .model_class = "Gemma2ForCausalLM",
      .gguf_name = "gemma2",
      .activation_field = "hidden_activation",
      .defaults = {.architecture = "gemma2",
                   .num_kv_heads = 4,
                   .head_dim = 256,
                   .max_position = 8192,
                   .rms_norm_eps = 1e-6f,
                   .tie_embeddings = true,
                   .activation = Activation::kGeluTanh,
                   .norm_plus_one = true,
                   .sandwich_norms = true,
                   .scaled_embedding = true,
                   .query_scalar = 256,
                   .attention_softcap = 50,
                   .logit_softcap = 30,
                   .sliding_window = 4096,
                   .full_attention_every = 2},
      .fields = {{"query_pre_attn_scalar", nullptr, &ModelConfig::query_scalar},
                 {"attn_logit_softcapping", "attn_logit_softcapping",
                  &ModelConfig::attention_softcap},
                 {"final_logit_softcapping", "final_logit_softcapping",
                  &ModelConfig::logit_softcap},
                 {"sliding_window", "attention.sliding_window", &ModelConfig::sliding_window},
                 {nullptr, "attention.sliding_window_pattern", &ModelConfig::full_attention_every}},
      .gguf_wide_query_layers = 46,
  };
  return architecture;
}

}  // namespace tq
