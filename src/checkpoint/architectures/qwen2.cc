// Qwen 2 and 2.5 (Yang et al., "Qwen2 Technical Report", 2024): a llama with biases on q, k and v.
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& Qwen2() {
  static const Architecture architecture = {
      .model_type = "qwen2",
      .model_class = "Qwen2ForCausalLM",
      .gguf_name = "qwen2",
      .defaults = {.architecture = "qwen2",
                   .num_kv_heads = 32,
                   .max_position = 32768,
                   .rms_norm_eps = 1e-6f,
                   .qkv_bias = true},
      // Without use_sliding_window, which is refused, there is no window.
      .without_effect = {"sliding_window"},
  };
  return architecture;
}

}  // namespace tq
