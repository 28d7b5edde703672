// Llama (Touvron et al., "LLaMA", 2023; Grattafiori et al., "The Llama 3 Herd of Models", 2024).
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Llama() {
  static const Architecture architecture = {
      .model_type = "llama",
      .model_class = "LlamaForCausalLM",
      .gguf_name = "llama",
      .defaults = {.architecture = "llama", .max_position = 2048, .rms_norm_eps = 1e-6f},
      .gguf_interleaves_heads = true,
      .gguf_rope_factors = true,
  };
  return architecture;
}

}  // namespace tq
