// BitNet b1.58 (Ma et al., "BitNet b1.58 2B4T Technical Report", 2025, section 2): squared ReLU,
// and norms before o and down. That its matrices are ternary says the quantization_config
// (checkpoint/bitnet_quantization.h).
#include "checkpoint/architectures/architecture.h"

namespace tq {

const Architecture& BitNet() {
  static const Architecture architecture = {
      .model_type = "bitnet",
      .model_class = "BitNetForCausalLM",
      .gguf_name = nullptr,
      .defaults = {.architecture = "bitnet",
                   .num_kv_heads = 5,
                   .max_position = 2048,
                   .rms_norm_eps = 1e-5f,
                   .rope_theta = 500000,
                   .activation = Activation::kRelu2,
                   .sub_norms = true},
      // Code that a directory brings along: transformers has the model itself, and runs the other
      // only when told to.
      .without_effect = {"auto_map"},
  };
  return architecture;
}

}  // namespace tq
