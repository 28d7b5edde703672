// What tells the supported architectures apart, each described in a file of its own: how files call
// it, what its models compute, and which fields of a configuration say more.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "checkpoint/config_member.h"
#include "checkpoint/model_config.h"

namespace tq {

// A field beside those that all architectures have. 0 is what the model does without: null in
// config.json.
struct ConfigField {
  const char* json;  // in config.json; nullptr: not there
  const char* gguf;  // in GGUF behind the architecture's name and a dot; nullptr: not there
  ConfigMember member;
  const char* alias = nullptr;  // another name in config.json, that some releases write
};

// Hugging Face's names of the parts of a sparse MLP behind "model.layers.N.": the router and the
// experts, and behind an expert's number its matrices.
struct ExpertNames {
  const char *router, *experts;
  const char *gate, *up, *down;
};

struct Architecture {
  const char* model_type;   // of config.json
  const char* model_class;  // in its "architectures"
  const char* gguf_name;    // general.architecture; nullptr: GGUF files have another name for it
  // The model_type whose name GGUF files have for it; nullptr: none has.
  const char* gguf_as = nullptr;
  const char* activation_field = "hidden_act";
  // What all models have in common, and what Hugging Face's configuration class takes for fields
  // that are absent (0: no default).
  ModelConfig defaults;
  std::vector<ConfigField> fields = {};
  // Fields that other architectures honour, and which change nothing here.
  std::vector<const char*> without_effect = {};
  // In GGUF the rows of a head of q and k are interleaved, as ggml turns neighbouring pairs.
  bool gguf_interleaves_heads = false;
  // GGUF files have Llama 3's scaling of positions as the tensor kGgufRopeFactors.
  bool gguf_rope_factors = false;
  // GGUF does not say by what scores are divided: llama.cpp knows the one model where it is not
  // sqrt(head_dim) but sqrt(hidden_size / num_heads) by so many layers. 0: there is none.
  uint32_t gguf_wide_query_layers = 0;
  // Of architectures whose MLPs are sparse.
  std::optional<ExpertNames> experts = {};
  // Of config.json: whether weights of a token's experts are divided by their sum. nullptr: always
  // as the defaults say. llama.cpp always divides them.
  const char* renormalise_field = nullptr;
};

const Architecture& Llama();
const Architecture& Mistral();
const Architecture& Qwen2();
const Architecture& Qwen3();
const Architecture& Gemma2();
const Architecture& Gemma3();
const Architecture& BitNet();
const Architecture& Mixtral();
const Architecture& Qwen3Moe();

// All of them.
std::span<const Architecture* const> Architectures();
// By model_type, or by GGUF's name, which architectures with and without experts may share; null if
// there is none.
const Architecture* FindArchitecture(std::string_view model_type);
const Architecture* FindGgufArchitecture(std::string_view name, bool has_experts);
// "'llama', 'mistral' ...", for errors.
std::string ListArchitectures();

// In config.json.
std::string_view ActivationName(Activation activation);

}  // namespace tq
