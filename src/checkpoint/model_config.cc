#include "checkpoint/model_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>

#include "checkpoint/architectures/architecture.h"

namespace tq {
namespace {

// Far above any model that exists, and small enough that no product of them overflows.
constexpr uint32_t kMaxVocab = 1 << 24;
constexpr uint32_t kMaxFeatures = 1 << 20;
constexpr uint32_t kMaxLayers = 4096;
constexpr uint32_t kMaxHeads = 4096;
constexpr uint32_t kMaxHeadDim = 1024;
constexpr uint32_t kMaxPosition = 1 << 30;
constexpr uint32_t kMaxExperts = 1024;
// Of all layers: names and places of their tensors are held in memory.
constexpr uint64_t kMaxAllExperts = 1 << 16;

Status CheckRange(std::string_view file, std::string_view field, uint32_t value, uint32_t limit) {
  if (value >= 1 && value <= limit) return OkStatus();
  return InvalidArgument("{}: {} is {}, allowed are 1 to {}", file, field, value, limit);
}

Status CheckRope(const ModelConfig& config, std::string_view file) {
  if (!(config.rope_theta > 0 && std::isfinite(config.rope_theta))) {
    return InvalidArgument("{}: rope_theta is {}, it must be positive and finite", file,
                           config.rope_theta);
  }
  if (!(config.rope_local_theta >= 0 && std::isfinite(config.rope_local_theta))) {
    return InvalidArgument("{}: rope theta of sliding layers is {}, it must be positive and finite",
                           file, config.rope_local_theta);
  }
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kNone) return OkStatus();
  if (!(scaling.factor > 0 && std::isfinite(scaling.factor))) {
    return InvalidArgument("{}: rope_scaling: factor is {}, it must be positive and finite", file,
                           scaling.factor);
  }
  if (scaling.kind == RopeScaling::Kind::kLinear) return OkStatus();
  if (!(scaling.low_freq_factor > 0 && scaling.low_freq_factor < scaling.high_freq_factor &&
        std::isfinite(scaling.high_freq_factor))) {
    return InvalidArgument(
        "{}: rope_scaling: low_freq_factor {} and high_freq_factor {}: must be positive and ascend",
        file, scaling.low_freq_factor, scaling.high_freq_factor);
  }
  return CheckRange(file, "rope_scaling: original_max_position_embeddings",
                    scaling.original_max_position, kMaxPosition);
}

// The shortest decimal that gives the float back, as the double with that decimal.
double Shortest(float value) { return std::stod(fmt::format("{}", value)); }
uint32_t Shortest(uint32_t value) { return value; }

// A field that is 0 is one that the model does without.
nlohmann::ordered_json ToJson(const ConfigField& field, const ModelConfig& config) {
  return VisitMember(field.member, config, [](const auto& value) -> nlohmann::ordered_json {
    if (value == 0) return nullptr;
    return Shortest(value);
  });
}

nlohmann::ordered_json RopeScalingToJson(const RopeScaling& scaling) {
  nlohmann::ordered_json json = {{"rope_type", "linear"}, {"factor", Shortest(scaling.factor)}};
  if (scaling.kind == RopeScaling::Kind::kLinear) return json;
  json["rope_type"] = "llama3";
  json["low_freq_factor"] = Shortest(scaling.low_freq_factor);
  json["high_freq_factor"] = Shortest(scaling.high_freq_factor);
  json["original_max_position_embeddings"] = scaling.original_max_position;
  return json;
}

}  // namespace

Status CheckExperts(const ModelConfig& config, std::string_view file) {
  const Architecture* architecture = FindArchitecture(config.architecture);
  if (architecture == nullptr || !architecture->experts) {
    if (config.num_experts == 0) return OkStatus();
    return InvalidArgument("{}: {} experts, models of architecture {} have none", file,
                           config.num_experts, config.architecture);
  }
  TQ_RETURN_IF_ERROR(CheckRange(file, "number of experts", config.num_experts, kMaxExperts));
  TQ_RETURN_IF_ERROR(CheckRange(file, "number of experts per token", config.experts_per_token,
                                config.num_experts));
  const uint64_t all = uint64_t{config.num_layers} * config.num_experts;
  if (all > kMaxAllExperts) {
    return InvalidArgument("{}: {} experts in {} layers are {}, at most {} are allowed", file,
                           config.num_experts, config.num_layers, all, kMaxAllExperts);
  }
  return CheckRange(file, "intermediate size of experts", config.mlp_size(), kMaxFeatures);
}

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
  TQ_RETURN_IF_ERROR(CheckRope(config, file));
  TQ_RETURN_IF_ERROR(CheckExperts(config, file));
  for (const auto& [name, value] : {std::pair{"query scale", config.query_scalar},
                                    {"softcap of attention", config.attention_softcap},
                                    {"softcap of logits", config.logit_softcap}}) {
    if (!(value >= 0 && std::isfinite(value))) {
      return InvalidArgument("{}: {} is {}, it must be positive and finite", file, name, value);
    }
  }
  if (config.sliding_window > kMaxPosition) {
    return InvalidArgument("{}: sliding window of {} positions, at most {} are allowed", file,
                           config.sliding_window, kMaxPosition);
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
  const Architecture& architecture = *FindArchitecture(config.architecture);
  nlohmann::ordered_json json;
  json["architectures"] = {architecture.model_class};
  json["model_type"] = config.architecture;
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_layers;
  json["num_attention_heads"] = config.num_heads;
  json["num_key_value_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json[architecture.activation_field] = ActivationName(config.activation);
  json["max_position_embeddings"] = config.max_position;
  json["rms_norm_eps"] = Shortest(config.rms_norm_eps);
  json["rope_theta"] = Shortest(config.rope_theta);
  if (config.rope_scaling.kind != RopeScaling::Kind::kNone) {
    json["rope_scaling"] = RopeScalingToJson(config.rope_scaling);
  }
  for (const ConfigField& field : architecture.fields) {
    if (field.json != nullptr) json[field.json] = ToJson(field, config);
  }
  if (architecture.renormalise_field != nullptr) {
    json[architecture.renormalise_field] = config.renormalise_experts;
  }
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

std::vector<double> RopeFrequencies(uint32_t head_dim, float theta, const RopeScaling& scaling) {
  const uint32_t half = head_dim / 2;
  std::vector<double> frequencies(half);
  for (uint32_t i = 0; i < half; ++i) {
    double& frequency = frequencies[i];
    frequency = std::pow(double{theta}, -static_cast<double>(i) / half);
    if (scaling.kind == RopeScaling::Kind::kLinear) frequency /= scaling.factor;
    if (scaling.kind == RopeScaling::Kind::kLlama3) {
      // Turns of this pair within the original context.
      const double turns = scaling.original_max_position * frequency / (2 * std::numbers::pi);
      const double kept = std::clamp(
          (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
          0.0, 1.0);
      frequency *= kept + (1 - kept) / scaling.factor;
    }
  }
  return frequencies;
}

LayerNormNames NormNames(const ModelConfig& config) {
  if (!config.sandwich_norms) {
    return {"input_layernorm", "post_attention_layernorm", {}, {}};
  }
  return {"input_layernorm", "pre_feedforward_layernorm", "post_attention_layernorm",
          "post_feedforward_layernorm"};
}

MlpNames NamesOfMlp(const ModelConfig& config, std::optional<uint32_t> expert) {
  if (!expert) return {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
  const ExpertNames& names = *FindArchitecture(config.architecture)->experts;
  const auto name = [&](const char* matrix) {
    return fmt::format("{}.{}.{}", names.experts, *expert, matrix);
  };
  return {name(names.gate), name(names.up), name(names.down)};
}

std::string_view RouterName(const ModelConfig& config) {
  return FindArchitecture(config.architecture)->experts->router;
}

std::string_view MatrixRole(std::string_view name) {
  constexpr std::string_view kWeight = ".weight", kProjection = "_proj";
  if (name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
  std::string_view role = name.substr(name.rfind('.') + 1);
  if (role.ends_with(kProjection)) role.remove_suffix(kProjection.size());
  return role == "w1" ? "gate" : role == "w3" ? "up" : role == "w2" ? "down" : role;
}

std::optional<uint32_t> ExpertOf(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = name.find(kExperts);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view number = name.substr(at + kExperts.size());
  uint32_t expert = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), expert);
  if (error != std::errc()) return std::nullopt;
  return expert;
}

namespace {

void AppendLayer(const ModelConfig& config, uint32_t index, std::vector<TensorSpec>& specs) {
  const uint64_t hidden = config.hidden_size, inner = config.mlp_size();
  const uint64_t q = config.q_size(), kv = config.kv_size();
  const LayerNormNames norms = NormNames(config);
  const auto add = [&](std::string_view name, Shape shape, std::string_view kind = "weight") {
    specs.push_back({fmt::format("model.layers.{}.{}.{}", index, name, kind), std::move(shape)});
  };
  add(norms.attention, {hidden});
  add("self_attn.q_proj", {q, hidden});
  add("self_attn.k_proj", {kv, hidden});
  add("self_attn.v_proj", {kv, hidden});
  if (config.qkv_bias) {
    add("self_attn.q_proj", {q}, "bias");
    add("self_attn.k_proj", {kv}, "bias");
    add("self_attn.v_proj", {kv}, "bias");
  }
  if (config.qk_norm) {
    add("self_attn.q_norm", {config.head_dim});
    add("self_attn.k_norm", {config.head_dim});
  }
  if (config.sub_norms) add(kAttentionSubNorm, {q});
  add("self_attn.o_proj", {hidden, q});
  if (config.sandwich_norms) add(norms.attention_out, {hidden});
  add(norms.mlp, {hidden});
  const auto add_mlp = [&](const MlpNames& names) {
    add(names.gate, {inner, hidden});
    add(names.up, {inner, hidden});
    if (config.sub_norms) add(kMlpSubNorm, {inner});
    add(names.down, {hidden, inner});
  };
  if (config.num_experts == 0) {
    add_mlp(NamesOfMlp(config));
  } else {
    add(RouterName(config), {config.num_experts, hidden});
    specs.back().router = true;
  }
  for (uint32_t e = 0; e < config.num_experts; ++e) add_mlp(NamesOfMlp(config, e));
  if (config.sandwich_norms) add(norms.mlp_out, {hidden});
}

}  // namespace

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) {
  const Shape table{config.vocab_size, config.hidden_size};
  std::vector<TensorSpec> specs;
  specs.push_back({"model.embed_tokens.weight", table});
  for (uint32_t i = 0; i < config.num_layers; ++i) AppendLayer(config, i, specs);
  specs.push_back({"model.norm.weight", {config.hidden_size}});
  if (!config.tie_embeddings) specs.push_back({"lm_head.weight", table});
  return specs;
}

}  // namespace tq
