// Gemma 3, text (Gemma Team, "Gemma 3 Technical Report", 2025, section 2): heads of q and k are
// normed, five of six layers see a window and have a rotary base of their own.
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Gemma3() {
  static const Architecture architecture = {
      .model_type = "gemma3_text",
      .model_class = "Gemma3ForCausalLM",
      .gguf_name = "gemma3",
      .activation_field = "hidden_activation",
      .defaults = {.architecture = "gemma3_text",
                   .num_kv_heads = 4,
                   .head_dim = 256,
                   .max_position = 131072,
                   .rms_norm_eps = 1e-6f,
                   .rope_theta = 1e6f,
                   .rope_local_theta = 10000,
                   .tie_embeddings = true,
                   .activation = Activation::kGeluTanh,
                   .qk_norm = true,
                   .norm_plus_one = true,
                   .sandwich_norms = true,
                   .scaled_embedding = true,
                   .query_scalar = 256,
                   .sliding_window = 4096,
                   .full_attention_every = 6},
      .fields = {{"query_pre_attn_scalar", nullptr, &ModelConfig::query_scalar},
                 {"attn_logit_softcapping", nullptr, &ModelConfig::attention_softcap},
                 {"final_logit_softcapping", "final_logit_softcapping",
                  &ModelConfig::logit_softcap},
                 {"sliding_window", "attention.sliding_window", &ModelConfig::sliding_window},
                 {"sliding_window_pattern", "attention.sliding_window_pattern",
                  &ModelConfig::full_attention_every},
                 {"rope_local_base_freq", "rope.freq_base_swa", &ModelConfig::rope_local_theta}},
      .gguf_wide_query_layers = 62,
  };
  return architecture;
}

}  // namespace tq
