// What a decoder-only model is made of, in one struct whatever file it came from.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/tensor.h"

namespace tq {

class GgufFile;

// Of the MLP's gate.
enum class Activation { kSilu, kGeluTanh, kRelu2 };

// How frequencies of rotary embeddings differ from theta^(-2 i / head_dim).
struct RopeScaling {
  enum class Kind {
    kNone,
    kLinear,  // all divided by factor
    kLlama3,  // long wavelengths divided by factor, short ones kept (Llama 3.1, appendix of its
              // code)
  };
  Kind kind = Kind::kNone;
  float factor = 1;
  // kLlama3: wavelengths above original_max_position / low_freq_factor are long, those below
  // original_max_position / high_freq_factor short, and what lies between is interpolated.
  float low_freq_factor = 1, high_freq_factor = 4;
  uint32_t original_max_position = 0;

  bool operator==(const RopeScaling&) const = default;
};

// Radians per position of each pair of a head, [head_dim / 2].
std::vector<double> RopeFrequencies(uint32_t head_dim, float theta, const RopeScaling& scaling);

struct ModelConfig {
  std::string_view architecture = {};  // model_type of config.json, a literal: "llama"
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
  float rope_local_theta = 0;  // of sliding layers, which have no scaling then; 0: as the others
  RopeScaling rope_scaling = {};
  bool tie_embeddings = false;
  int32_t bos_id = -1, eos_id = -1;  // -1: none

  Activation activation = Activation::kSilu;
  bool qkv_bias = false;        // q, k and v add vectors
  bool qk_norm = false;         // RMS norms of each head of q and k, before rotary embeddings
  bool norm_plus_one = false;   // norms multiply by 1 + their weights
  bool sandwich_norms = false;  // the outputs of attention and MLP are normed before they are added
  bool sub_norms = false;       // what goes into o and into down is normed
  bool scaled_embedding = false;  // embeddings are multiplied by sqrt(hidden_size)
  float query_scalar = 0;         // scores are divided by its root; 0: by that of head_dim
  float attention_softcap = 0;    // of scores, cap * tanh(score / cap); 0: none
  float logit_softcap = 0;        // the same of logits
  // Positions that one of a sliding layer sees, itself included; 0: no layer slides. Every so
  // many-th layer sees all; 0: none does.
  uint32_t sliding_window = 0, full_attention_every = 0;
  // MLPs of so many experts, of which so many see a token; 0: one MLP, which sees all.
  uint32_t num_experts = 0, experts_per_token = 0;
  uint32_t expert_size = 0;          // intermediate size of an expert; 0: intermediate_size
  bool renormalise_experts = false;  // weights of a token's experts are divided by their sum

  uint32_t q_size() const { return num_heads * head_dim; }
  uint32_t kv_size() const { return num_kv_heads * head_dim; }
  // Features between the matrices of an MLP, or of each expert.
  uint32_t mlp_size() const { return expert_size != 0 ? expert_size : intermediate_size; }
  bool IsSliding(uint32_t layer) const {
    return sliding_window != 0 &&
           (full_attention_every == 0 || (layer + 1) % full_attention_every != 0);
  }
};

// Hugging Face's config.json. Architectures and fields that would change the result and are not
// honoured (other kinds of rope_scaling, mlp_bias, other activations, ...) are refused by name; all
// sizes are range-checked and consistent. `file` is named in errors.
StatusOr<ModelConfig> ModelConfigFromJson(std::string_view json,
                                          std::string_view file = "config.json");
// The same from a parsed document. `quantization_config` must have been dealt with and removed.
StatusOr<ModelConfig> ModelConfigFromDocument(const nlohmann::json& json, std::string_view file);
// GGUF metadata ("llama.*" keys and the like), checked likewise.
StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file);
// config.json of a Hugging Face directory that describes `config` (without
// quantization_config). Deterministic text.
std::string ModelConfigToJson(const ModelConfig& config);
nlohmann::ordered_json ModelConfigToJsonValue(const ModelConfig& config);

// Ranges and consistency of all fields; errors name `file`, field, value and limit.
Status CheckModelConfig(const ModelConfig& config, std::string_view file);
// The part of it that is about experts.
Status CheckExperts(const ModelConfig& config, std::string_view file);

// A weight tensor that the architecture has, under Hugging Face's name.
struct TensorSpec {
  std::string name;
  Shape shape;          // [out, in] for matrices, [features] for norms and biases
  bool router = false;  // the matrix [experts, hidden] that chooses experts

  // Whether compressed models hold codes of it; everything else stays as it is.
  bool is_coded() const { return shape.size() == 2 && !router; }
};
// All of them in the order of the forward pass: embedding, layers, final norm, head. A tied
// head has no tensor of its own.
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

// Hugging Face's names of a layer's norms [hidden_size], behind "model.layers.N."; the last two are
// there with sandwich_norms alone.
struct LayerNormNames {
  std::string_view attention, mlp;          // of the inputs
  std::string_view attention_out, mlp_out;  // of the outputs
};
LayerNormNames NormNames(const ModelConfig& config);
// Those of sub_norms, [q_size] and [intermediate_size].
inline constexpr std::string_view kAttentionSubNorm = "self_attn.attn_sub_norm",
                                  kMlpSubNorm = "mlp.ffn_sub_norm";

// Those of the matrices of an MLP, or of expert `expert` of a sparse one, without ".weight".
struct MlpNames {
  std::string gate, up, down;
};
MlpNames NamesOfMlp(const ModelConfig& config, std::optional<uint32_t> expert = std::nullopt);
// That of what chooses experts.
std::string_view RouterName(const ModelConfig& config);

// What a matrix (with or without ".weight") is to its layer: "q", "k", "v", "o", "gate", "up" or
// "down"; for others the last part of its name.
std::string_view MatrixRole(std::string_view name);
// The expert that a matrix or a group of them belongs to: "...experts.3.w1" -> 3.
std::optional<uint32_t> ExpertOf(std::string_view name);

}  // namespace tq
