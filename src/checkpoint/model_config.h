// What a decoder-only model is made of, in one struct whatever file it came from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/status.h"

namespace tq {

class GgufFile;

struct ModelConfig {
  std::string architecture;  // "llama"
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t intermediate_size = 0;
  uint32_t num_layers = 0;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t max_position = 0;  // trained context length
  float rms_norm_eps = 1e-5f;
  float rope_theta = 10000.0f;
  bool tie_embeddings = false;
  int32_t bos_id = -1, eos_id = -1;  // -1: none

  uint32_t q_size() const { return num_heads * head_dim; }
  uint32_t kv_size() const { return num_kv_heads * head_dim; }
};

// Hugging Face's config.json. Fields that would change the result and are not honoured
// (rope_scaling, attention_bias, other activations, ...) are refused by name; all sizes
// are range-checked and consistent.
StatusOr<ModelConfig> ModelConfigFromJson(std::string_view json);
// GGUF metadata ("llama.*" keys), checked likewise.
StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file);
// config.json of a Hugging Face directory that describes `config` (without
// quantization_config). Deterministic text.
std::string ModelConfigToJson(const ModelConfig& config);

}  // namespace tq
