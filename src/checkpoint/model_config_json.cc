// ModelConfig from Hugging Face's config.json. The configuration classes of the transformers
// library say which fields matter and what their defaults are.
#include <algorithm>
#include <limits>
#include <optional>

#include "checkpoint/architectures/architecture.h"
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

  bool Has(const char* name) const { return object_.contains(name); }

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

  StatusOr<uint32_t> NumberOr(const char* name, uint32_t fallback) const {
    return Uint(name, fallback);
  }
  StatusOr<float> NumberOr(const char* name, float fallback) const { return Float(name, fallback); }

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
      {"attention_bias", false},
      {"mlp_bias", false},
      {"sliding_window", nullptr},
      {"use_sliding_window", false},
      {"partial_rotary_factor", 1.0},
      {"rope_interleaved", false},
      {"no_rope_layers", nullptr},
      {"use_qk_norm", false},
      {"use_bidirectional_attention", false},
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
      {"decoder_sparse_step", 1},
      {"mlp_only_layers", json::array()},
      {"cross_attention_layers", nullptr},
      {"is_encoder_decoder", false},
      {"auto_map", nullptr},
      {"quantization_config", nullptr},
      {"compression_config", nullptr},
  };
  return fields;
}

bool IsOf(const Architecture& architecture, std::string_view name) {
  const auto is_name = [&](const char* other) { return other != nullptr && other == name; };
  return std::ranges::any_of(architecture.fields, is_name, &ConfigField::json) ||
         std::ranges::any_of(architecture.fields, is_name, &ConfigField::alias) ||
         std::ranges::any_of(architecture.without_effect, is_name);
}

Status RefuseUnhonoured(const Fields& fields, const Architecture& architecture,
                        std::string_view file) {
  for (const Neutral& neutral : NeutralFields()) {
    const json* value = fields.Find(neutral.name);
    if (value != nullptr && *value != neutral.value && !IsOf(architecture, neutral.name)) {
      return Unimplemented("{}: {} = {} is not supported", file, neutral.name,
                           Quote(value->dump()));
    }
  }
  for (const char* name : {"hidden_act", "hidden_activation"}) {
    const json* value = fields.Find(name);
    if (value != nullptr && *value != ActivationName(architecture.defaults.activation)) {
      return Unimplemented("{}: {} = {} is not supported", file, name, Quote(value->dump()));
    }
  }
  return OkStatus();
}

// The kind of a rope_scaling; a field that says nothing is no scaling.
StatusOr<RopeScaling::Kind> ReadRopeKind(const Fields& rope, std::string_view where) {
  for (const char* name : {"rope_type", "type"}) {
    const json* value = rope.Find(name);
    if (value == nullptr) continue;
    if (*value == "default") return RopeScaling::Kind::kNone;
    if (*value == "linear") return RopeScaling::Kind::kLinear;
    if (*value == "llama3") return RopeScaling::Kind::kLlama3;
    return Unimplemented("{}: {} = {} is not supported", where, name, Quote(value->dump()));
  }
  return RopeScaling::Kind::kNone;
}

// One rope_scaling or rope_parameters, and the theta that it may hold.
Status ReadScaling(const json& object, std::string_view where, RopeScaling& scaling, float& theta) {
  const Fields rope(object, where);
  TQ_ASSIGN_OR_RETURN(scaling.kind, ReadRopeKind(rope, where));
  // Of what each kind needs, theta apart.
  static constexpr std::pair<std::string_view, RopeScaling::Kind> kNeeded[] = {
      {"factor", RopeScaling::Kind::kLinear},
      {"factor", RopeScaling::Kind::kLlama3},
      {"low_freq_factor", RopeScaling::Kind::kLlama3},
      {"high_freq_factor", RopeScaling::Kind::kLlama3},
      {"original_max_position_embeddings", RopeScaling::Kind::kLlama3}};
  for (const auto& [name, kind] : kNeeded) {
    if (kind == scaling.kind && rope.Find(name.data()) == nullptr) {
      return NotFound("{}: {} is missing", where, name);
    }
  }
  for (const auto& [key, value] : object.items()) {
    const bool known = key == "rope_type" || key == "type" || key == "rope_theta" ||
                       (key == "partial_rotary_factor" && value == 1.0) ||
                       std::ranges::any_of(kNeeded, [&, &name = key](const auto& needed) {
                         return needed.first == name && needed.second == scaling.kind;
                       });
    if (!known) {
      return Unimplemented("{}: {} = {} is not supported", where, Quote(key), Quote(value.dump()));
    }
  }
  TQ_ASSIGN_OR_RETURN(theta, rope.Float("rope_theta", theta));
  TQ_ASSIGN_OR_RETURN(scaling.factor, rope.Float("factor", 1));
  TQ_ASSIGN_OR_RETURN(scaling.low_freq_factor, rope.Float("low_freq_factor", 1));
  TQ_ASSIGN_OR_RETURN(scaling.high_freq_factor, rope.Float("high_freq_factor", 4));
  TQ_ASSIGN_OR_RETURN(scaling.original_max_position,
                      rope.Uint("original_max_position_embeddings", 0));
  return OkStatus();
}

// rope_scaling, and rope_parameters, its newer form that also holds rope_theta: for all layers, or
// for each kind of them.
Status ReadRope(const Fields& fields, std::string_view file, ModelConfig* config) {
  TQ_ASSIGN_OR_RETURN(config->rope_theta, fields.Float("rope_theta", config->rope_theta));
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* rope = fields.Find(name);
    if (rope == nullptr) continue;
    if (!rope->is_object()) return fields.Wrong(name, *rope, "an object");
    const std::string where = fmt::format("{}: {}", file, name);
    const Fields parts(*rope, where);
    const json* full = parts.Find("full_attention");
    const json* sliding = parts.Find("sliding_attention");
    if (full == nullptr || sliding == nullptr) {
      TQ_RETURN_IF_ERROR(ReadScaling(*rope, where, config->rope_scaling, config->rope_theta));
      continue;
    }
    if (!full->is_object()) return parts.Wrong("full_attention", *full, "an object");
    if (!sliding->is_object()) return parts.Wrong("sliding_attention", *sliding, "an object");
    TQ_RETURN_IF_ERROR(ReadScaling(*full, where, config->rope_scaling, config->rope_theta));
    RopeScaling local;
    TQ_RETURN_IF_ERROR(ReadScaling(*sliding, where, local, config->rope_local_theta));
    if (local.kind != RopeScaling::Kind::kNone || config->rope_local_theta == 0) {
      return Unimplemented("{}: sliding_attention = {} is not supported", where,
                           Quote(sliding->dump()));
    }
  }
  return OkStatus();
}

StatusOr<const Architecture*> ReadArchitecture(const Fields& fields, std::string_view file) {
  TQ_ASSIGN_OR_RETURN(const std::string type, fields.String("model_type"));
  const Architecture* architecture = FindArchitecture(type);
  if (architecture == nullptr) {
    return Unimplemented("{}: model_type {} is not supported; {} are", file, Quote(type),
                         ListArchitectures());
  }
  const json* names = fields.Find("architectures");
  if (names == nullptr) return architecture;
  if (!names->is_array()) return fields.Wrong("architectures", *names, "an array");
  for (const json& name : *names) {
    if (name != architecture->model_class) {
      return Unimplemented("{}: architecture {} is not supported; \"{}\" is", file,
                           Quote(name.dump()), architecture->model_class);
    }
  }
  return architecture;
}

// By which of its names the file has a field; null if it has none.
StatusOr<const char*> NameInFile(const Fields& fields, const ConfigField& field,
                                 std::string_view file) {
  const bool has_name = field.json != nullptr && fields.Has(field.json);
  const bool has_alias = field.alias != nullptr && fields.Has(field.alias);
  if (!has_name) return has_alias ? field.alias : nullptr;
  if (!has_alias) return field.json;
  const json *value = fields.Find(field.json), *other = fields.Find(field.alias);
  if (value != nullptr && other != nullptr && *value == *other) return field.json;
  return InvalidArgument("{}: {} and {}, which mean the same, differ or are null", file, field.json,
                         field.alias);
}

Status ReadOwnFields(const Fields& fields, const Architecture& architecture, std::string_view file,
                     ModelConfig* config) {
  for (const ConfigField& field : architecture.fields) {
    TQ_ASSIGN_OR_RETURN(const char* name, NameInFile(fields, field, file));
    if (name == nullptr) continue;
    // null is 0, whatever the default.
    TQ_RETURN_IF_ERROR(VisitMember(field.member, *config, [&](auto& value) -> Status {
      value = 0;
      TQ_ASSIGN_OR_RETURN(value, fields.NumberOr(name, value));
      return OkStatus();
    }));
  }
  if (architecture.renormalise_field == nullptr) return OkStatus();
  TQ_ASSIGN_OR_RETURN(config->renormalise_experts,
                      fields.Bool(architecture.renormalise_field, config->renormalise_experts));
  return OkStatus();
}

// What newer configurations say of each layer. It decides, where it differs, which of them slide.
Status ReadLayerTypes(const Fields& fields, std::string_view file, ModelConfig* config) {
  const json* types = fields.Find("layer_types");
  if (types == nullptr) return OkStatus();
  if (!types->is_array() || types->size() != config->num_layers) {
    return fields.Wrong("layer_types", *types, "a list with an entry for each layer");
  }
  const auto first_full = std::ranges::find(*types, json("full_attention"));
  if (config->sliding_window != 0) {
    config->full_attention_every =
        first_full == types->end() ? 0 : static_cast<uint32_t>(first_full - types->begin()) + 1;
  }
  for (uint32_t i = 0; i < config->num_layers; ++i) {
    if ((*types)[i] != (config->IsSliding(i) ? "sliding_attention" : "full_attention")) {
      return Unimplemented("{}: layer_types: {} for layer {} is not supported here", file,
                           Quote((*types)[i].dump()), i);
    }
  }
  return OkStatus();
}

Status ReadSizes(const Fields& fields, std::string_view file, ModelConfig* config) {
  TQ_ASSIGN_OR_RETURN(config->vocab_size, fields.Uint("vocab_size", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config->hidden_size, fields.Uint("hidden_size", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config->intermediate_size, fields.Uint("intermediate_size", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config->num_layers, fields.Uint("num_hidden_layers", std::nullopt));
  TQ_ASSIGN_OR_RETURN(config->num_heads, fields.Uint("num_attention_heads", std::nullopt));
  const uint32_t kv_heads = config->num_kv_heads != 0 ? config->num_kv_heads : config->num_heads;
  TQ_ASSIGN_OR_RETURN(config->num_kv_heads, fields.Uint("num_key_value_heads", kv_heads));
  uint32_t head_dim = config->head_dim;
  if (head_dim == 0 && config->num_heads != 0) head_dim = config->hidden_size / config->num_heads;
  if (fields.Find("head_dim") == nullptr && config->head_dim == 0 &&
      (config->num_heads == 0 || config->hidden_size % config->num_heads != 0)) {
    return InvalidArgument("{}: hidden_size {} is no multiple of {} heads, and head_dim is missing",
                           file, config->hidden_size, config->num_heads);
  }
  TQ_ASSIGN_OR_RETURN(config->head_dim, fields.Uint("head_dim", head_dim));
  TQ_ASSIGN_OR_RETURN(config->max_position,
                      fields.Uint("max_position_embeddings", config->max_position));
  return OkStatus();
}

}  // namespace

StatusOr<ModelConfig> ModelConfigFromDocument(const json& document, std::string_view file) {
  if (!document.is_object()) {
    return InvalidArgument("{}: holds {} where an object is expected", file,
                           JsonTypeName(document));
  }
  const Fields fields(document, file);
  TQ_ASSIGN_OR_RETURN(const Architecture* architecture, ReadArchitecture(fields, file));
  TQ_RETURN_IF_ERROR(RefuseUnhonoured(fields, *architecture, file));
  ModelConfig config = architecture->defaults;
  TQ_RETURN_IF_ERROR(ReadSizes(fields, file, &config));
  TQ_ASSIGN_OR_RETURN(config.rms_norm_eps, fields.Float("rms_norm_eps", config.rms_norm_eps));
  TQ_RETURN_IF_ERROR(ReadOwnFields(fields, *architecture, file, &config));
  TQ_RETURN_IF_ERROR(ReadRope(fields, file, &config));
  TQ_RETURN_IF_ERROR(ReadLayerTypes(fields, file, &config));
  TQ_ASSIGN_OR_RETURN(config.tie_embeddings,
                      fields.Bool("tie_word_embeddings", config.tie_embeddings));
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
