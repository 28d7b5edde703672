// ModelConfig from GGUF metadata: keys "llama.*" and the like, as the format's specification lists
// them.
#include <limits>
#include <set>
#include <span>
#include <string>

#include "checkpoint/architectures/architecture.h"
#include "checkpoint/gguf.h"
#include "checkpoint/model_config.h"
#include "checkpoint/quote.h"
#include "checkpoint/rope_factors.h"

namespace tq {
namespace {

// The keys of an architecture in a file: "context_length" is "llama.context_length" there.
class Keys {
 public:
  Keys(const GgufFile& file, const Architecture& architecture)
      : file_(file), prefix_(std::string(architecture.gguf_name) + ".") {}

  std::string Full(std::string_view key) const { return prefix_ + std::string(key); }
  bool Has(std::string_view key) const { return file_.HasKey(Full(key)); }
  StatusOr<uint32_t> Uint(std::string_view key) const {
    return Narrow(file_.GetUint(Full(key)), Full(key));
  }
  StatusOr<uint32_t> UintOr(std::string_view key, uint32_t fallback) const {
    return Narrow(file_.GetUintOr(Full(key), fallback), Full(key));
  }
  StatusOr<uint32_t> NumberOr(std::string_view key, uint32_t fallback) const {
    return UintOr(key, fallback);
  }
  StatusOr<float> NumberOr(std::string_view key, float fallback) const {
    return FloatOr(key, fallback);
  }
  StatusOr<float> FloatOr(std::string_view key, float fallback) const {
    TQ_ASSIGN_OR_RETURN(const double value, file_.GetFloatOr(Full(key), fallback));
    return static_cast<float>(value);
  }
  StatusOr<std::string> String(std::string_view key) const { return file_.GetString(Full(key)); }

  const GgufFile& file() const { return file_; }
  const std::string& prefix() const { return prefix_; }
  std::string file_name() const { return file_.path().string(); }

  StatusOr<uint32_t> Narrow(StatusOr<uint64_t> value, std::string_view key) const {
    if (!value.ok()) return value.status();
    if (*value > std::numeric_limits<uint32_t>::max()) {
      return InvalidArgument("{}: {} is {}, far beyond any model", file_name(), key, *value);
    }
    return static_cast<uint32_t>(*value);
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

StatusOr<int32_t> TokenId(const Keys& keys, std::string_view key) {
  const GgufFile& file = keys.file();
  if (!file.HasKey(key)) return -1;
  TQ_ASSIGN_OR_RETURN(const uint32_t id, keys.Narrow(file.GetUint(key), key));
  if (id == std::numeric_limits<uint32_t>::max()) return -1;  // llama.cpp's "none"
  if (id > 0x7fffffff) {
    return InvalidArgument("{}: {} is {}, outside any vocabulary", keys.file_name(), key, id);
  }
  return static_cast<int32_t>(id);
}

// Every key of the architecture that we honour or know to be without effect. Another one would
// change the result silently (experts, scaling, windows, ...).
Status RefuseUnhonoured(const Keys& keys, const Architecture& architecture) {
  std::set<std::string_view> known = {
      "vocab_size",
      "context_length",
      "embedding_length",
      "feed_forward_length",
      "block_count",
      "attention.head_count",
      "attention.head_count_kv",
      "attention.key_length",
      "attention.value_length",
      "attention.layer_norm_rms_epsilon",
      "rope.dimension_count",
      "rope.freq_base",
      "rope.scaling.type",
      "rope.scaling.finetuned",
      "tensor_data_layout",
      "expert_count",
      "expert_used_count",
  };
  for (const ConfigField& field : architecture.fields) {
    if (field.gguf != nullptr) known.insert(field.gguf);
  }
  if (keys.Has("rope.scaling.type")) known.insert("rope.scaling.factor");
  for (const auto& [key, value] : keys.file().metadata()) {
    const std::string_view name = key;
    if (name.starts_with(keys.prefix()) && !known.contains(name.substr(keys.prefix().size()))) {
      return Unimplemented("{}: key {} is not supported", keys.file_name(), Quote(key));
    }
  }
  if (!architecture.experts) {
    TQ_ASSIGN_OR_RETURN(const uint32_t experts, keys.UintOr("expert_count", 0));
    if (experts != 0) {
      return Unimplemented("{}: {} = {} is not supported", keys.file_name(),
                           keys.Full("expert_count"), experts);
    }
  }
  if (keys.Has("tensor_data_layout")) {
    TQ_ASSIGN_OR_RETURN(const std::string text, keys.String("tensor_data_layout"));
    if (text != "Meta AI original pth") {
      return Unimplemented("{}: {} = {} is not supported", keys.file_name(),
                           keys.Full("tensor_data_layout"), Quote(text));
    }
  }
  return OkStatus();
}

Status ReadHeads(const Keys& keys, ModelConfig* config) {
  TQ_ASSIGN_OR_RETURN(config->num_heads, keys.Uint("attention.head_count"));
  TQ_ASSIGN_OR_RETURN(config->num_kv_heads,
                      keys.UintOr("attention.head_count_kv", config->num_heads));
  if (config->num_heads == 0) {
    return InvalidArgument("{}: {} is 0", keys.file_name(), keys.Full("attention.head_count"));
  }
  if (!keys.Has("attention.key_length") && config->hidden_size % config->num_heads != 0) {
    return InvalidArgument("{}: embedding_length {} is no multiple of head_count {}",
                           keys.file_name(), config->hidden_size, config->num_heads);
  }
  TQ_ASSIGN_OR_RETURN(config->head_dim,
                      keys.UintOr("attention.key_length", config->hidden_size / config->num_heads));
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    TQ_ASSIGN_OR_RETURN(const uint32_t size, keys.UintOr(key, config->head_dim));
    if (size != config->head_dim) {
      return Unimplemented("{}: {} = {} differs from the head size {}", keys.file_name(),
                           keys.Full(key), size, config->head_dim);
    }
  }
  return OkStatus();
}

// A scaling that llama.cpp stores as the numbers by which it divides each frequency.
Status ReadRopeFactors(const GgufFile& file, ModelConfig* config) {
  const GgufTensor* tensor = file.Find(kGgufRopeFactors);
  if (tensor == nullptr) return OkStatus();
  const std::string name = file.path().string();
  if (tensor->shape != Shape{config->head_dim / 2}) {
    return InvalidArgument("{}: tensor {} has shape {}, not {}", name, kGgufRopeFactors,
                           ShapeToString(tensor->shape), ShapeToString({config->head_dim / 2}));
  }
  TQ_ASSIGN_OR_RETURN(const Tensor stored, file.LoadFloat(*tensor));
  const std::span factors(stored.as<float>(), stored.num_elements());
  const auto scaling = RopeScalingOf(factors, config->head_dim, config->rope_theta);
  if (!scaling) {
    return Unimplemented(
        "{}: tensor {}: only the factors of Llama 3's scaling are supported, with low and high "
        "frequency factors of 1 and 4; these go from {} to {}",
        name, kGgufRopeFactors, factors.front(), factors.back());
  }
  config->rope_scaling = *scaling;
  return OkStatus();
}

Status ReadRope(const Keys& keys, ModelConfig* config) {
  TQ_ASSIGN_OR_RETURN(config->rope_theta, keys.FloatOr("rope.freq_base", 10000.0f));
  std::string type = "none";
  if (keys.Has("rope.scaling.type")) {
    TQ_ASSIGN_OR_RETURN(type, keys.String("rope.scaling.type"));
  }
  if (type == "none") return ReadRopeFactors(keys.file(), config);
  if (type == "linear" && keys.file().Find(kGgufRopeFactors) == nullptr) {
    config->rope_scaling.kind = RopeScaling::Kind::kLinear;
    TQ_ASSIGN_OR_RETURN(const double factor,
                        keys.file().GetFloat(keys.Full("rope.scaling.factor")));
    config->rope_scaling.factor = static_cast<float>(factor);
    return OkStatus();
  }
  return Unimplemented("{}: {} = {} is not supported", keys.file_name(),
                       keys.Full("rope.scaling.type"), Quote(type));
}

Status ReadOwnKeys(const Keys& keys, const Architecture& architecture, ModelConfig* config) {
  for (const ConfigField& field : architecture.fields) {
    if (field.gguf == nullptr) continue;
    // What experts there are no file leaves to be guessed.
    if (architecture.experts) TQ_RETURN_IF_ERROR(keys.Uint(field.gguf).status());
    TQ_RETURN_IF_ERROR(VisitMember(field.member, *config, [&](auto& value) -> Status {
      TQ_ASSIGN_OR_RETURN(value, keys.NumberOr(field.gguf, value));
      return OkStatus();
    }));
  }
  if (config->query_scalar != 0) {
    const bool wide = config->num_layers == architecture.gguf_wide_query_layers;
    config->query_scalar =
        static_cast<float>(wide ? config->hidden_size / config->num_heads : config->head_dim);
  }
  return OkStatus();
}

// Rows of the embedding; the tokenizer may name fewer (padding), never more.
Status ReadVocabulary(const Keys& keys, ModelConfig* config) {
  const GgufFile& file = keys.file();
  const std::string name = keys.file_name();
  const GgufTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr) return NotFound("{}: tensor token_embd.weight is missing", name);
  TQ_ASSIGN_OR_RETURN(config->vocab_size, keys.Narrow(embedding->shape.front(), "vocabulary"));
  TQ_ASSIGN_OR_RETURN(const uint32_t stated, keys.UintOr("vocab_size", config->vocab_size));
  if (stated != config->vocab_size) {
    return InvalidArgument("{}: {} is {}, token_embd.weight has {} rows", name,
                           keys.Full("vocab_size"), stated, config->vocab_size);
  }
  if (file.HasKey("tokenizer.ggml.tokens")) {
    TQ_ASSIGN_OR_RETURN(const auto* tokens, file.GetStrings("tokenizer.ggml.tokens"));
    if (tokens->size() > config->vocab_size) {
      return InvalidArgument("{}: {} tokens, token_embd.weight has {} rows", name, tokens->size(),
                             config->vocab_size);
    }
  }
  config->tie_embeddings = file.Find("output.weight") == nullptr;
  TQ_ASSIGN_OR_RETURN(config->bos_id, TokenId(keys, "tokenizer.ggml.bos_token_id"));
  TQ_ASSIGN_OR_RETURN(config->eos_id, TokenId(keys, "tokenizer.ggml.eos_token_id"));
  return OkStatus();
}

}  // namespace

StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file) {
  const std::string name = file.path().string();
  TQ_ASSIGN_OR_RETURN(const std::string architecture, file.GetString("general.architecture"));
  // Besides llama.cpp's "bitnet", whose MLP has SiLU, forks write names that begin so. llama.cpp's
  // converter writes it for models with squared ReLU as well.
  if (architecture.starts_with("bitnet")) {
    return Unimplemented(
        "{}: architecture {} is not supported, as GGUF files do not say whether its activation is "
        "SiLU or a squared ReLU; the model's Hugging Face directory does",
        name, Quote(architecture));
  }
  TQ_ASSIGN_OR_RETURN(const uint64_t experts, file.GetUintOr(architecture + ".expert_count", 0));
  const Architecture* found = FindGgufArchitecture(architecture, experts != 0);
  if (found == nullptr) found = FindGgufArchitecture(architecture, experts == 0);
  if (found == nullptr) {
    return Unimplemented("{}: architecture {} is not supported; {} are", name, Quote(architecture),
                         ListArchitectures());
  }
  const Keys keys(file, *found);
  TQ_RETURN_IF_ERROR(RefuseUnhonoured(keys, *found));
  ModelConfig config = found->defaults;
  TQ_ASSIGN_OR_RETURN(config.hidden_size, keys.Uint("embedding_length"));
  TQ_ASSIGN_OR_RETURN(config.intermediate_size, keys.Uint("feed_forward_length"));
  TQ_ASSIGN_OR_RETURN(config.num_layers, keys.Uint("block_count"));
  TQ_ASSIGN_OR_RETURN(config.max_position, keys.Uint("context_length"));
  TQ_RETURN_IF_ERROR(ReadHeads(keys, &config));
  TQ_ASSIGN_OR_RETURN(const double eps,
                      file.GetFloat(keys.Full("attention.layer_norm_rms_epsilon")));
  config.rms_norm_eps = static_cast<float>(eps);
  config.renormalise_experts = found->experts.has_value();  // as llama.cpp always does
  TQ_RETURN_IF_ERROR(ReadRope(keys, &config));
  TQ_RETURN_IF_ERROR(ReadOwnKeys(keys, *found, &config));
  TQ_RETURN_IF_ERROR(ReadVocabulary(keys, &config));
  TQ_RETURN_IF_ERROR(CheckModelConfig(config, name));
  return config;
}

}  // namespace tq
