// Qwen 3 (Yang et al., "Qwen3 Technical Report", 2025): a llama that norms the heads of q and k.
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Qwen3() {
  static const Architecture architecture = {
      .model_type = "qwen3",
      .model_class = "Qwen3ForCausalLM",
      .gguf_name = "qwen3",
      .defaults = {.architecture = "qwen3",
                   .num_kv_heads = 32,
                   .head_dim = 128,
                   .max_position = 32768,
                   .rms_norm_eps = 1e-6f,
                   .qk_norm = true},
      // Without use_sliding_window, which is refused, there is no window.
      .without_effect = {"sliding_window"},
  };
  return architecture;
}

}  // namespace tq
