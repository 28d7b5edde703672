#include "checkpoint/model_config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/quote.h"

namespace tq {
namespace {

// Far above any model that exists, and small enough that no product of them overflows.
constexpr uint32_t kMaxVocab = 1 << 24;
constexpr uint32_t kMaxFeatures = 1 << 20;
constexpr uint32_t kMaxLayers = 4096;
constexpr uint32_t kMaxHeads = 4096;
constexpr uint32_t kMaxHeadDim = 1024;
constexpr uint32_t kMaxPosition = 1 << 30;

Status CheckRange(std::string_view file, std::string_view field, uint32_t value, uint32_t limit) {
  if (value >= 1 && value <= limit) return OkStatus();
  return InvalidArgument("{}: {} is {}, allowed are 1 to {}", file, field, value, limit);
}

// The shortest decimal that gives the float back, as the double with that decimal.
double Shortest(float value) { return std::stod(fmt::format("{}", value)); }

}  // namespace

Status CheckModelConfig(const ModelConfig& config, std::string_view file) {
  TQ_RETURN_IF_ERROR(CheckRange(file, "vocab_size", config.vocab_size, kMaxVocab));
  TQ_RETURN_IF_ERROR(CheckRange(file, "hidden_size", config.hidden_size, kMaxFeatures));
  TQ_RETURN_IF_ERROR(CheckRange(file, "intermediate_size", config.intermediate_size, kMaxFeatures));
  TQ_RETURN_IF_ERROR(CheckRange(file, "number of layers", config.num_layers, kMaxLayers));
  TQ_RETURN_IF_ERROR(CheckRange(file, "number of heads", config.num_heads, kMaxHeads));
  TQ_RETURN_IF_ERROR(CheckRange(file, "number of key-value heads", config.num_kv_heads, kMaxHeads));
  TQ_RETURN_IF_ERROR(CheckRange(file, "head_dim", config.head_dim, kMaxHeadDim));
  TQ_RETURN_IF_ERROR(CheckRange(file, "context length", config.max_position, kMaxPosition));
  if (config.num_heads % config.num_kv_heads != 0) {
    return InvalidArgument("{}: {} heads are no multiple of {} key-value heads", file,
                           config.num_heads, config.num_kv_heads);
  }
  if (config.head_dim % 2 != 0) {
    return InvalidArgument("{}: head_dim {} is odd; rotary embeddings need pairs", file,
                           config.head_dim);
  }
  if (config.q_size() > kMaxFeatures) {
    return InvalidArgument("{}: {} heads of {} are more than {} features", file, config.num_heads,
                           config.head_dim, kMaxFeatures);
  }
  if (!(config.rms_norm_eps >= 0 && config.rms_norm_eps < 1)) {
    return InvalidArgument("{}: rms_norm_eps is {}, allowed are 0 to 1", file, config.rms_norm_eps);
  }
  if (!(config.rope_theta > 0 && std::isfinite(config.rope_theta))) {
    return InvalidArgument("{}: rope_theta is {}, it must be positive and finite", file,
                           config.rope_theta);
  }
  for (const auto& [name, id] : {std::pair{"bos", config.bos_id}, {"eos", config.eos_id}}) {
    if (id >= 0 && static_cast<uint32_t>(id) >= config.vocab_size) {
      return InvalidArgument("{}: {} token id {}, the vocabulary has {} tokens", file, name, id,
                             config.vocab_size);
    }
  }
  return OkStatus();
}

nlohmann::ordered_json ModelConfigToJsonValue(const ModelConfig& config) {
  nlohmann::ordered_json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = config.architecture;
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_layers;
  json["num_attention_heads"] = config.num_heads;
  json["num_key_value_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = config.max_position;
  json["rms_norm_eps"] = Shortest(config.rms_norm_eps);
  json["rope_theta"] = Shortest(config.rope_theta);
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["bos_token_id"] = nullptr;
  json["eos_token_id"] = nullptr;
  if (config.bos_id >= 0) json["bos_token_id"] = config.bos_id;
  if (config.eos_id >= 0) json["eos_token_id"] = config.eos_id;
  return json;
}

std::string ModelConfigToJson(const ModelConfig& config) {
  return ModelConfigToJsonValue(config).dump(2) + "\n";
}

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) {
  const uint64_t hidden = config.hidden_size, inner = config.intermediate_size;
  std::vector<TensorSpec> specs;
  specs.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}});
  for (uint32_t i = 0; i < config.num_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    specs.push_back({layer + "input_layernorm.weight", {hidden}});
    specs.push_back({layer + "self_attn.q_proj.weight", {config.q_size(), hidden}});
    specs.push_back({layer + "self_attn.k_proj.weight", {config.kv_size(), hidden}});
    specs.push_back({layer + "self_attn.v_proj.weight", {config.kv_size(), hidden}});
    specs.push_back({layer + "self_attn.o_proj.weight", {hidden, config.q_size()}});
    specs.push_back({layer + "post_attention_layernorm.weight", {hidden}});
    specs.push_back({layer + "mlp.gate_proj.weight", {inner, hidden}});
    specs.push_back({layer + "mlp.up_proj.weight", {inner, hidden}});
    specs.push_back({layer + "mlp.down_proj.weight", {hidden, inner}});
  }
  specs.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_embeddings) specs.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  return specs;
}

}  // namespace tq
