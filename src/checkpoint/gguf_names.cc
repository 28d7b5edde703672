#include "checkpoint/gguf_names.h"

#include <fmt/format.h>

#include <map>

#include "checkpoint/architectures/architecture.h"

namespace tq {
namespace {

constexpr GgufConfigKey kCommonKeys[] = {
    {"vocab_size", &ModelConfig::vocab_size},
    {"context_length", &ModelConfig::max_position},
    {"embedding_length", &ModelConfig::hidden_size},
    {"block_count", &ModelConfig::num_layers},
    {"feed_forward_length", &ModelConfig::intermediate_size},
    {"attention.head_count", &ModelConfig::num_heads},
    {"attention.head_count_kv", &ModelConfig::num_kv_heads},
    {"attention.key_length", &ModelConfig::head_dim},
    {"attention.value_length", &ModelConfig::head_dim},
    {"attention.layer_norm_rms_epsilon", &ModelConfig::rms_norm_eps},
    {"rope.dimension_count", &ModelConfig::head_dim},
    {"rope.freq_base", &ModelConfig::rope_theta},
};

}  // namespace

std::span<const GgufConfigKey> GgufCommonKeys() { return kCommonKeys; }

std::string GgufTensorName(std::string_view name, const ModelConfig& config) {
  static const std::map<std::string_view, std::string_view> kPlain = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"}};
  // Behind the layer, without ".weight" or ".bias".
  static const std::map<std::string_view, std::string_view> kInLayer = {
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"mlp.gate", "ffn_gate_inp"},
      {"block_sparse_moe.gate", "ffn_gate_inp"}};
  if (const auto at = kPlain.find(name); at != kPlain.end()) return std::string(at->second);
  constexpr std::string_view kPrefix = "model.layers.";
  const size_t dot = name.find('.', kPrefix.size()), last = name.rfind('.');
  const std::string_view layer = name.substr(kPrefix.size(), dot - kPrefix.size());
  const std::string_view member = name.substr(dot + 1, last - dot - 1);
  if (ExpertOf(name)) return fmt::format("blk.{}.ffn_{}_exps.weight", layer, MatrixRole(name));
  const LayerNormNames norms = NormNames(config);
  const std::string_view theirs = member == norms.attention       ? "attn_norm"
                                  : member == norms.mlp           ? "ffn_norm"
                                  : member == norms.attention_out ? "post_attention_norm"
                                  : member == norms.mlp_out       ? "post_ffw_norm"
                                                                  : kInLayer.at(member);
  return fmt::format("blk.{}.{}{}", layer, theirs, name.substr(last));
}

bool IsGgufNorm(std::string_view name) { return name.ends_with("norm.weight"); }

bool HasRotaryRows(std::string_view name, const ModelConfig& config) {
  return FindArchitecture(config.architecture)->gguf_interleaves_heads &&
         (name.ends_with(".q_proj.weight") || name.ends_with(".k_proj.weight"));
}

uint64_t GgufRow(uint64_t huggingface_row, uint64_t head_dim) {
  const uint64_t half = head_dim / 2, at = huggingface_row % head_dim;
  return huggingface_row - at + 2 * (at % half) + at / half;
}

uint64_t HuggingFaceRow(uint64_t gguf_row, uint64_t head_dim) {
  const uint64_t at = gguf_row % head_dim;
  return gguf_row - at + at / 2 + (at % 2) * (head_dim / 2);
}

}  // namespace tq
