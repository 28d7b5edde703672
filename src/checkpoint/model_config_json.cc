// ModelConfig from Hugging Face's config.json. LlamaConfig of the transformers library
// says which fields matter and what their defaults are.
#include <cmath>
#include <limits>
#include <optional>

#include "checkpoint/json.h"
#include "checkpoint/model_config.h"
#include "checkpoint/quote.h"

namespace tq {
namespace {

using nlohmann::json;

// Typed access to the fields of one object; null counts as absent.
class Fields {
 public:
  Fields(const json& object, std::string_view file) : object_(object), file_(file) {}

  const json* Find(const char* name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

  StatusOr<uint32_t> Uint(const char* name, std::optional<uint32_t> fallback) const {
    const json* value = Find(name);
    if (value == nullptr) {
      if (fallback) return *fallback;
      return NotFound("{}: {} is missing", file_, name);
    }
    if (!value->is_number_unsigned()) return Wrong(name, *value, "a non-negative integer");
    const auto wide = value->get<uint64_t>();
    if (wide > std::numeric_limits<uint32_t>::max()) {
      return InvalidArgument("{}: {} is {}, far beyond any model", file_, name, wide);
    }
    return static_cast<uint32_t>(wide);
  }

  StatusOr<float> Float(const char* name, float fallback) const {
    const json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_number()) return Wrong(name, *value, "a number");
    return static_cast<float>(value->get<double>());
  }

  StatusOr<bool> Bool(const char* name, bool fallback) const {
    const json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return Wrong(name, *value, "true or false");
    return value->get<bool>();
  }

  StatusOr<std::string> String(const char* name) const {
    const json* value = Find(name);
    if (value == nullptr) return NotFound("{}: {} is missing", file_, name);
    if (!value->is_string()) return Wrong(name, *value, "a string");
    return value->get<std::string>();
  }

  // A token id, or the first of a list of them; -1 if absent.
  StatusOr<int32_t> TokenId(const char* name) const {
    const json* value = Find(name);
    if (value != nullptr && value->is_array() && !value->empty()) value = &value->front();
    if (value == nullptr) return -1;
    if (!value->is_number_integer()) return Wrong(name, *value, "a token id");
    if (value->is_number_unsigned() ? value->get<uint64_t>() > 0x7fffffff
                                    : value->get<int64_t>() != -1) {
      return InvalidArgument("{}: {} is {}, outside any vocabulary", file_, name, value->dump());
    }
    return value->get<int32_t>();
  }

  Status Wrong(const char* name, const json& value, std::string_view wanted) const {
    return InvalidArgument("{}: {} is {}, not {}", file_, name, Quote(value.dump()), wanted);
  }

 private:
  const json& object_;
  std::string_view file_;
};

// Fields that other models of the family honour and we do not: anything but the neutral
// value would change the result silently.
struct Neutral {
  const char* name;
  json value;
};
const std::vector<Neutral>& NeutralFields() {
  static const std::vector<Neutral> fields = {
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"sliding_window", nullptr},
      {"use_sliding_window", false},
      {"partial_rotary_factor", 1.0},
      {"rope_interleaved", false},
      {"no_rope_layers", nullptr},
      {"use_qk_norm", false},
      {"qk_norm", false},
      {"parallel_attn", false},
      {"use_parallel_residual", false},
      {"attn_logit_softcapping", nullptr},
      {"final_logit_softcapping", nullptr},
      {"logit_scale", 1.0},
      {"logits_scaling", 1.0},
      {"embedding_multiplier", 1.0},
      {"residual_multiplier", 1.0},
      {"attention_multiplier", nullptr},
      {"scale_emb", 1.0},
      {"scale_depth", nullptr},
      {"num_local_experts", 0},
      {"num_experts", 0},
      {"n_routed_experts", 0},
      {"cross_attention_layers", nullptr},
      {"is_encoder_decoder", false},
      {"auto_map", nullptr},
      {"quantization_config", nullptr},
      {"compression_config", nullptr},
  };
  return fields;
}

Status RefuseUnhonoured(const Fields& fields, std::string_view file) {
  for (const Neutral& neutral : NeutralFields()) {
    const json* value = fields.Find(neutral.name);
    if (value != nullptr && *value != neutral.value) {
      return Unimplemented("{}: {} = {} is not supported", file, neutral.name,
                           Quote(value->dump()));
    }
  }
  return OkStatus();
}

// rope_scaling (and rope_parameters, its newer form that also holds rope_theta).
Status ReadRope(const Fields& fields, std::string_view file, ModelConfig* config) {
  TQ_ASSIGN_OR_RETURN(config->rope_theta, fields.Float("rope_theta", 10000.0f));
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* rope = fields.Find(name);
    if (rope == nullptr) continue;
    if (!rope->is_object()) return fields.Wrong(name, *rope, "an object");
    for (const auto& [key, value] : rope->items()) {
      const bool neutral = ((key == "rope_type" || key == "type") && value == "default") ||
                           (key == "partial_rotary_factor" && value == 1.0) || key == "rope_theta";
      if (!neutral) {
        return Unimplemented("{}: {}: {} = {} is not supported", file, name, Quote(key),
                             Quote(value.dump()));
      }
    }
    TQ_ASSIGN_OR_RETURN(config->rope_theta,
                        Fields(*rope, file).Float("rope_theta", config->rope_theta));
  }
  return OkStatus();
}

Status CheckArchitecture(const Fields& fields, std::string_view file) {
  TQ_ASSIGN_OR_RETURN(const std::string type, fields.String("model_type"));
  if (type != "llama") {
    return Unimplemented("{}: model_type {} is not supported; \"llama\" is", file, Quote(type));
  }
  const json* names = fields.Find("architectures");
  if (names == nullptr) return OkStatus();
  if (!names->is_array()) return fields.Wrong("architectures", *names, "an array");
  for (const json& name : *names) {
    if (name != "LlamaForCausalLM") {
      return Unimplemented("{}: architecture {} is not supported; \"LlamaForCausalLM\" is", file,
                           Quote(name.dump()));
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<ModelConfig> ModelConfigFromDocument(const json& document, std::string_view file) {
  if (!document.is_object()) {
    return InvalidArgument("{}: holds {} where an object is expected", file,
                           JsonTypeName(document));
  }
  const Fields fields(document, file);
  TQ_RETURN_IF_ERROR(CheckArchitecture(fields, file));
  TQ_RETURN_IF_ERROR(RefuseUnhonoured(fields, file));
  ModelConfig config;
  config.architecture = "llama";
  TQ_ASSIGN_OR_RETURN(config.vocab_size, fields.Uint("vocab_size", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config.hidden_size, fields.Uint("hidden_size", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config.intermediate_size, fields.Uint("intermediate_size", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config.num_layers, fields.Uint("num_hidden_layers", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config.num_heads, fields.Uint("num_attention_heads", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config.num_kv_heads, fields.Uint("num_key_value_heads", config.num_heads));
  if (fields.Find("head_dim") == nullptr &&
      (config.num_heads == 0 || config.hidden_size % config.num_heads != 0)) {
    return InvalidArgument("{}: hidden_size {} is no multiple of {} heads, and head_dim is missing",
                           file, config.hidden_size, config.num_heads);
  }
  TQ_ASSIGN_OR_RETURN(
      config.head_dim,
      fields.Uint("head_dim", config.num_heads == 0 ? 0 : config.hidden_size / config.num_heads));
  TQ_ASSIGN_OR_RETURN(config.max_position, fields.Uint("max_position_embeddings", 2048));
  TQ_ASSIGN_OR_RETURN(config.rms_norm_eps, fields.Float("rms_norm_eps", 1e-6f));
  TQ_RETURN_IF_ERROR(ReadRope(fields, file, &config));
  TQ_ASSIGN_OR_RETURN(config.tie_embeddings, fields.Bool("tie_word_embeddings", false));
  TQ_ASSIGN_OR_RETURN(config.bos_id, fields.TokenId("bos_token_id"));
  TQ_ASSIGN_OR_RETURN(config.eos_id, fields.TokenId("eos_token_id"));
  TQ_RETURN_IF_ERROR(CheckModelConfig(config, file));
  return config;
}

StatusOr<ModelConfig> ModelConfigFromJson(std::string_view text, std::string_view file) {
  TQ_ASSIGN_OR_RETURN(const json document, ParseJson(text, file));
  return ModelConfigFromDocument(document, file);
}

}  // namespace tq
