// Mistral (Jiang et al., "Mistral 7B", 2023): a llama whose layers see a window of positions. GGUF
// files call it a llama, without a window.
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Mistral() {
  static const Architecture architecture = {
      .model_type = "mistral",
      .model_class = "MistralForCausalLM",
      .gguf_name = nullptr,
      .gguf_as = "llama",
      .defaults = {.architecture = "mistral",
                   .num_kv_heads = 8,
                   .max_position = 131072,
                   .rms_norm_eps = 1e-6f,
                   .sliding_window = 4096},
      .fields = {{"sliding_window", nullptr, &ModelConfig::sliding_window}},
  };
  return architecture;
}

}  // namespace tq
