// What a decoder-only model is made of, in one struct whatever file it came from.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/tensor.h"

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
// are range-checked and consistent. `file` is named in errors.
StatusOr<ModelConfig> ModelConfigFromJson(std::string_view json,
                                          std::string_view file = "config.json");
// The same from a parsed document. `quantization_config` must have been dealt with and removed.
StatusOr<ModelConfig> ModelConfigFromDocument(const nlohmann::json& json, std::string_view file);
// GGUF metadata ("llama.*" keys), checked likewise.
StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file);
// config.json of a Hugging Face directory that describes `config` (without
// quantization_config). Deterministic text.
std::string ModelConfigToJson(const ModelConfig& config);
nlohmann::ordered_json ModelConfigToJsonValue(const ModelConfig& config);

// Ranges and consistency of all fields; errors name `file`, field, value and limit.
Status CheckModelConfig(const ModelConfig& config, std::string_view file);

// A weight tensor that the architecture has, under Hugging Face's name.
struct TensorSpec {
  std::string name;
  Shape shape;  // [out, in] for matrices, [features] for norms
};
// All of them in the order of the forward pass: embedding, layers, final norm, head. A tied
// head has no tensor of its own.
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

}  // namespace tq
