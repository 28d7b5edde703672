// ModelConfig from GGUF metadata, keys "llama.*" as the format's specification lists them.
#include <cmath>
#include <limits>
#include <set>

#include "checkpoint/gguf.h"
#include "checkpoint/model_config.h"
#include "checkpoint/quote.h"

namespace tq {
namespace {

StatusOr<uint32_t> Narrow(StatusOr<uint64_t> value, const GgufFile& file, std::string_view key) {
  if (!value.ok()) return value.status();
  if (*value > std::numeric_limits<uint32_t>::max()) {
    return InvalidArgument("{}: {} is {}, far beyond any model", file.path().string(), key, *value);
  }
  return static_cast<uint32_t>(*value);
}

StatusOr<uint32_t> Uint(const GgufFile& file, std::string_view key) {
  return Narrow(file.GetUint(key), file, key);
}
StatusOr<uint32_t> UintOr(const GgufFile& file, std::string_view key, uint32_t fallback) {
  return Narrow(file.GetUintOr(key, fallback), file, key);
}

StatusOr<int32_t> TokenId(const GgufFile& file, std::string_view key) {
  if (!file.HasKey(key)) return -1;
  TQ_ASSIGN_OR_RETURN(const uint32_t id, Uint(file, key));
  if (id == std::numeric_limits<uint32_t>::max()) return -1;  // llama.cpp's "none"
  if (id > 0x7fffffff) {
    return InvalidArgument("{}: {} is {}, outside any vocabulary", file.path().string(), key, id);
  }
  return static_cast<int32_t>(id);
}

// Every "llama.*" key that we honour or know to be without effect. Another one would
// change the result silently (experts, scaling, windows, ...).
Status RefuseUnhonoured(const GgufFile& file) {
  static const std::set<std::string_view> kKnown = {
      "llama.vocab_size",
      "llama.context_length",
      "llama.embedding_length",
      "llama.feed_forward_length",
      "llama.block_count",
      "llama.attention.head_count",
      "llama.attention.head_count_kv",
      "llama.attention.key_length",
      "llama.attention.value_length",
      "llama.attention.layer_norm_rms_epsilon",
      "llama.rope.dimension_count",
      "llama.rope.freq_base",
      "llama.rope.scaling.type",
      "llama.rope.scaling.finetuned",
      "llama.tensor_data_layout",
      "llama.expert_count",
      "llama.expert_used_count",
  };
  for (const auto& [key, value] : file.metadata()) {
    if (key.starts_with("llama.") && !kKnown.contains(key)) {
      return Unimplemented("{}: key {} is not supported", file.path().string(), Quote(key));
    }
  }
  TQ_ASSIGN_OR_RETURN(const uint64_t experts, file.GetUintOr("llama.expert_count", 0));
  if (experts != 0) {
    return Unimplemented("{}: llama.expert_count = {} is not supported", file.path().string(),
                         experts);
  }
  for (const auto& [key, neutral] : {std::pair{"llama.rope.scaling.type", "none"},
                                     {"llama.tensor_data_layout", "Meta AI original pth"}}) {
    if (!file.HasKey(key)) continue;
    TQ_ASSIGN_OR_RETURN(const std::string text, file.GetString(key));
    if (text != neutral) {
      return Unimplemented("{}: {} = {} is not supported", file.path().string(), key, Quote(text));
    }
  }
  return OkStatus();
}

Status ReadHeads(const GgufFile& file, ModelConfig* config) {
  const std::string name = file.path().string();
  TQ_ASSIGN_OR_RETURN(config->num_heads, Uint(file, "llama.attention.head_count"));
  TQ_ASSIGN_OR_RETURN(config->num_kv_heads,
                      UintOr(file, "llama.attention.head_count_kv", config->num_heads));
  if (config->num_heads == 0) {
    return InvalidArgument("{}: llama.attention.head_count is 0", name);
  }
  if (!file.HasKey("llama.attention.key_length") && config->hidden_size % config->num_heads != 0) {
    return InvalidArgument("{}: embedding_length {} is no multiple of head_count {}", name,
                           config->hidden_size, config->num_heads);
  }
  TQ_ASSIGN_OR_RETURN(config->head_dim, UintOr(file, "llama.attention.key_length",
                                               config->hidden_size / config->num_heads));
  for (const char* key : {"llama.attention.value_length", "llama.rope.dimension_count"}) {
    TQ_ASSIGN_OR_RETURN(const uint32_t size, UintOr(file, key, config->head_dim));
    if (size != config->head_dim) {
      return Unimplemented("{}: {} = {} differs from the head size {}", name, key, size,
                           config->head_dim);
    }
  }
  return OkStatus();
}

// Rows of the embedding; the tokenizer may name fewer (padding), never more.
Status ReadVocabulary(const GgufFile& file, ModelConfig* config) {
  const std::string name = file.path().string();
  const GgufTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr) return NotFound("{}: tensor token_embd.weight is missing", name);
  TQ_ASSIGN_OR_RETURN(config->vocab_size, Narrow(embedding->shape.front(), file, "vocabulary"));
  TQ_ASSIGN_OR_RETURN(const uint32_t stated, UintOr(file, "llama.vocab_size", config->vocab_size));
  if (stated != config->vocab_size) {
    return InvalidArgument("{}: llama.vocab_size is {}, token_embd.weight has {} rows", name,
                           stated, config->vocab_size);
  }
  if (file.HasKey("tokenizer.ggml.tokens")) {
    TQ_ASSIGN_OR_RETURN(const auto* tokens, file.GetStrings("tokenizer.ggml.tokens"));
    if (tokens->size() > config->vocab_size) {
      return InvalidArgument("{}: {} tokens, token_embd.weight has {} rows", name, tokens->size(),
                             config->vocab_size);
    }
  }
  config->tie_embeddings = file.Find("output.weight") == nullptr;
  TQ_ASSIGN_OR_RETURN(config->bos_id, TokenId(file, "tokenizer.ggml.bos_token_id"));
  TQ_ASSIGN_OR_RETURN(config->eos_id, TokenId(file, "tokenizer.ggml.eos_token_id"));
  return OkStatus();
}

}  // namespace

StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file) {
  const std::string name = file.path().string();
  TQ_ASSIGN_OR_RETURN(const std::string architecture, file.GetString("general.architecture"));
  if (architecture != "llama") {
    return Unimplemented("{}: architecture {} is not supported; 'llama' is", name,
                         Quote(architecture));
  }
  TQ_RETURN_IF_ERROR(RefuseUnhonoured(file));
  ModelConfig config;
  config.architecture = architecture;
  TQ_ASSIGN_OR_RETURN(config.hidden_size, Uint(file, "llama.embedding_length"));
  TQ_ASSIGN_OR_RETURN(config.intermediate_size, Uint(file, "llama.feed_forward_length"));
  TQ_ASSIGN_OR_RETURN(config.num_layers, Uint(file, "llama.block_count"));
  TQ_ASSIGN_OR_RETURN(config.max_position, Uint(file, "llama.context_length"));
  TQ_RETURN_IF_ERROR(ReadHeads(file, &config));
  TQ_ASSIGN_OR_RETURN(const double eps, file.GetFloat("llama.attention.layer_norm_rms_epsilon"));
  config.rms_norm_eps = static_cast<float>(eps);
  TQ_ASSIGN_OR_RETURN(const double theta, file.GetFloatOr("llama.rope.freq_base", 10000.0));
  config.rope_theta = static_cast<float>(theta);
  TQ_RETURN_IF_ERROR(ReadVocabulary(file, &config));
  TQ_RETURN_IF_ERROR(CheckModelConfig(config, name));
  return config;
}

}  // namespace tq
