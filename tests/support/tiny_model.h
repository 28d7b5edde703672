// A small model with random weights of realistic scale, as a Hugging Face directory and as
// a GGUF file of the same weights. Link tq_checkpoint; from src/x/x_test.cc:
//
//   #include "../../tests/support/tiny_model.h"
//
//   TempFolder folder;
//   const TinyModel model = MakeTinyModel({.hidden = 96, .tied = false});
//   WriteHuggingFace(model, folder / "hf");
//   WriteGguf(model, folder / "tiny.gguf", kPackQ4_1);
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "checkpoint/architectures/architecture.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_directory.h"
#include "gguf_builder.h"
#include "temp_folder.h"
#include "tensor/tensor.h"
#include "tiny_tokenizer.h"

namespace tq::testing {

struct TinyModelOptions {
  std::string architecture = "llama";  // model_type
  uint32_t hidden = 64;
  uint32_t intermediate = 128;
  uint32_t layers = 2;
  uint32_t heads = 4;
  uint32_t kv_heads = 2;
  uint32_t vocab = 300;  // 258 to 960; with fewer the model has no tokenizer
  uint32_t max_position = 512;
  uint32_t experts = 4, experts_per_token = 2;  // of architectures that have any
  bool tied = true;
  // All values are rounded to this type, so that every way of storing them is the same model.
  DType dtype = DType::kF32;
  uint64_t seed = 1;
  std::string pre_tokenizer = "gpt2";  // or "smollm"
  bool add_bos = false;
};

struct TinyTensor {
  std::string name;  // Hugging Face's
  Shape shape;
  std::vector<float> values;
};

struct TinyModel {
  ModelConfig config;
  DType dtype = DType::kF32;
  TinyTokenizer tokenizer;
  std::vector<TinyTensor> tensors;  // in the order of ModelTensors(config)

  const TinyTensor& Get(std::string_view name) const {
    for (const TinyTensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    tq::internal::CheckFailed(__FILE__, __LINE__, name);
  }
  TinyTensor& Get(std::string_view name) {
    return const_cast<TinyTensor&>(std::as_const(*this).Get(name));
  }
};

inline float RoundTo(DType dtype, float value) {
  if (dtype == DType::kBF16) return BFloat16ToFloat(FloatToBFloat16(value));
  if (dtype == DType::kF16) return HalfToFloat(FloatToHalf(value));
  return value;
}

inline TinyModel MakeTinyModel(const TinyModelOptions& options = {}) {
  TinyModel model;
  ModelConfig& config = model.config;
  config = FindArchitecture(options.architecture)->defaults;
  config.rms_norm_eps = 1e-5f;
  config.vocab_size = options.vocab;
  config.hidden_size = options.hidden;
  config.intermediate_size = options.intermediate;
  config.num_layers = options.layers;
  config.num_heads = options.heads;
  config.num_kv_heads = options.kv_heads;
  config.head_dim = options.hidden / options.heads;
  if (config.query_scalar != 0) config.query_scalar = static_cast<float>(config.head_dim);
  config.max_position = options.max_position;
  if (config.num_experts != 0) {
    config.num_experts = options.experts;
    config.experts_per_token = options.experts_per_token;
    if (config.expert_size != 0) config.expert_size = options.intermediate / 2;
    config.renormalise_experts = true;
  }
  config.tie_embeddings = options.tied;
  config.bos_id = 0;
  config.eos_id = 1;
  model.dtype = options.dtype;
  if (options.vocab >= 258) {
    model.tokenizer = MakeTinyTokenizer(options.vocab, options.pre_tokenizer, options.add_bos);
  }
  for (TensorSpec& spec : ModelTensors(config)) {
    Random random(options.seed, spec.name);
    const bool norm = spec.shape.size() == 1;
    const uint64_t columns = spec.shape.back();
    // Norms near one; matrices with unit gain. Input channels differ in strength (log-normal,
    // sigma 0.3), as in trained models.
    std::vector<float> channel(columns);
    const double gain = norm ? 1.0 : 1.0 / std::sqrt(static_cast<double>(columns));
    for (float& c : channel) c = static_cast<float>(gain * std::exp(0.3 * random.NextNormal()));
    TinyTensor tensor{std::move(spec.name), std::move(spec.shape), {}};
    const uint64_t rows = norm ? 1 : tensor.shape[0];
    tensor.values.reserve(rows * columns);
    for (uint64_t i = 0; i < rows * columns; ++i) {
      const double value = norm ? 1.0 : random.NextNormal();
      tensor.values.push_back(
          RoundTo(options.dtype, static_cast<float>(value) * channel[i % columns]));
    }
    model.tensors.push_back(std::move(tensor));
  }
  return model;
}

// `shard_bytes`: small values spread the tensors over several files with an index.
inline void WriteHuggingFace(const TinyModel& model, const std::filesystem::path& folder,
                             uint64_t shard_bytes = kDefaultShardBytes) {
  ModelDirectory directory;
  directory.config_json = ModelConfigToJson(model.config);
  if (!model.tokenizer.tokens.empty()) {
    directory.files = {{"tokenizer.json", TokenizerJson(model.tokenizer)},
                       {"tokenizer_config.json", TokenizerConfigJson(model.tokenizer)}};
  }
  directory.max_shard_bytes = shard_bytes;
  for (const TinyTensor& tensor : model.tensors) {
    const std::string bytes = PackGguf(model.dtype == DType::kBF16  ? kPackBF16
                                       : model.dtype == DType::kF16 ? kPackF16
                                                                    : kPackF32,
                                       tensor.values);
    auto stored = Tensor::FromBytes(model.dtype, tensor.shape,
                                    {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    TQ_CHECK(stored.ok());
    directory.tensors.push_back({tensor.name, *std::move(stored)});
  }
  const Status status = WriteModelDirectory(folder, "", directory);
  if (!status.ok()) tq::internal::CheckFailed(__FILE__, __LINE__, status.message());
}

// GGUF's name of a tensor.
inline std::string TinyGgufName(std::string_view name, const ModelConfig& config) {
  static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"},
      {"input_layernorm.weight", "attn_norm.weight"},
      {"q_proj.bias", "attn_q.bias"},
      {"k_proj.bias", "attn_k.bias"},
      {"v_proj.bias", "attn_v.bias"},
      {"q_norm.weight", "attn_q_norm.weight"},
      {"k_norm.weight", "attn_k_norm.weight"},
      {"pre_feedforward_layernorm.weight", "ffn_norm.weight"},
      {"post_feedforward_layernorm.weight", "post_ffw_norm.weight"},
      {"q_proj.weight", "attn_q.weight"},
      {"k_proj.weight", "attn_k.weight"},
      {"v_proj.weight", "attn_v.weight"},
      {"o_proj.weight", "attn_output.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"},
      {"gate_proj.weight", "ffn_gate.weight"},
      {"up_proj.weight", "ffn_up.weight"},
      {"down_proj.weight", "ffn_down.weight"}};
  // Behind the name of the stack that holds an expert's matrix.
  static constexpr std::pair<std::string_view, std::string_view> kExperts[] = {
      {"gate_proj.weight", "ffn_gate_exps.weight"}, {"w1.weight", "ffn_gate_exps.weight"},
      {"up_proj.weight", "ffn_up_exps.weight"},     {"w3.weight", "ffn_up_exps.weight"},
      {"down_proj.weight", "ffn_down_exps.weight"}, {"w2.weight", "ffn_down_exps.weight"},
      {"mlp.gate.weight", "ffn_gate_inp.weight"},   {"moe.gate.weight", "ffn_gate_inp.weight"}};
  constexpr std::string_view kLayers = "model.layers.";
  std::string prefix;
  if (name.starts_with(kLayers)) {
    const size_t dot = name.find('.', kLayers.size());
    prefix = "blk." + std::string(name.substr(kLayers.size(), dot - kLayers.size())) + ".";
  }
  if (config.sandwich_norms && name.ends_with("post_attention_layernorm.weight")) {
    return prefix + "post_attention_norm.weight";
  }
  for (const auto& [ours, theirs] : kExperts) {
    if (config.num_experts != 0 && name.ends_with(ours)) return prefix + std::string(theirs);
  }
  for (const auto& [ours, theirs] : kNames) {
    if (name.ends_with(ours)) return prefix + std::string(theirs);
  }
  tq::internal::CheckFailed(__FILE__, __LINE__, name);
}

// llama.cpp's order of the rows of q and k: the two halves of each head interleaved.
inline std::vector<float> PermuteForGguf(const TinyTensor& tensor, uint64_t head_dim) {
  const uint64_t rows = tensor.shape[0], columns = tensor.shape[1];
  std::vector<float> out;
  out.reserve(tensor.values.size());
  for (uint64_t row = 0; row < rows; ++row) {
    const uint64_t at = row % head_dim;
    const uint64_t from = row - at + at / 2 + (at % 2) * (head_dim / 2);
    const auto begin = tensor.values.begin() + static_cast<ptrdiff_t>(from * columns);
    out.insert(out.end(), begin, begin + static_cast<ptrdiff_t>(columns));
  }
  return out;
}

// The keys of the model's config, under the architecture's name.
inline void AddConfigKeys(const ModelConfig& config, GgufBuilder& builder) {
  const Architecture& architecture = *FindArchitecture(config.architecture);
  const std::string p = std::string(architecture.gguf_name) + ".";
  builder.String("general.architecture", architecture.gguf_name)
      .Uint(p + "vocab_size", config.vocab_size)
      .Uint(p + "context_length", config.max_position)
      .Uint(p + "embedding_length", config.hidden_size)
      .Uint(p + "feed_forward_length", config.intermediate_size)
      .Uint(p + "block_count", config.num_layers)
      .Uint(p + "attention.head_count", config.num_heads)
      .Uint(p + "attention.head_count_kv", config.num_kv_heads)
      .Uint(p + "rope.dimension_count", config.head_dim)
      .Float(p + "rope.freq_base", config.rope_theta)
      .Float(p + "attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  if (config.rope_scaling.kind == RopeScaling::Kind::kLinear) {
    builder.String(p + "rope.scaling.type", "linear")
        .Float(p + "rope.scaling.factor", config.rope_scaling.factor);
  }
  for (const ConfigField& field : architecture.fields) {
    if (field.gguf == nullptr) continue;
    VisitMember(field.member, config, [&](const auto& value) {
      if constexpr (std::is_same_v<decltype(value), const float&>) {
        builder.Float(p + field.gguf, value);
      } else {
        builder.Uint(p + field.gguf, value);
      }
    });
  }
}

// A tensor's values as llama.cpp stores them.
inline std::vector<float> GgufValues(const TinyTensor& tensor, const ModelConfig& config) {
  const bool of_q_or_k =
      tensor.name.ends_with("q_proj.weight") || tensor.name.ends_with("k_proj.weight");
  if (of_q_or_k && FindArchitecture(config.architecture)->gguf_interleaves_heads) {
    return PermuteForGguf(tensor, config.head_dim);
  }
  std::vector<float> values = tensor.values;
  if (config.norm_plus_one && tensor.name.ends_with("norm.weight")) {
    for (float& value : values) value += 1;
  }
  return values;
}

// Matrices in `type`; norms, biases and what chooses experts in float32. Matrices of experts are
// stacked.
inline GgufBuilder BuildGguf(const TinyModel& model, uint32_t type = kPackF32) {
  const ModelConfig& config = model.config;
  GgufBuilder builder;
  AddConfigKeys(config, builder);
  if (!model.tokenizer.tokens.empty()) AddTokenizerKeys(model.tokenizer, builder);
  std::map<std::string, std::vector<float>> stacks;
  for (const TinyTensor& tensor : model.tensors) {
    std::vector<uint64_t> ne(tensor.shape.rbegin(), tensor.shape.rend());
    const std::string name = TinyGgufName(tensor.name, config);
    const bool plain = tensor.shape.size() == 1 || name.ends_with("ffn_gate_inp.weight");
    const uint32_t stored = plain ? uint32_t{kPackF32} : type;
    std::vector<float> values = GgufValues(tensor, config);
    if (name.ends_with("_exps.weight")) {
      std::vector<float>& stack = stacks[name];
      stack.insert(stack.end(), values.begin(), values.end());
      if (stack.size() < values.size() * config.num_experts) continue;
      values = std::move(stack);
      ne.push_back(config.num_experts);
    }
    builder.Tensor(name, stored, ne, PackGguf(stored, values));
  }
  if (config.rope_scaling.kind == RopeScaling::Kind::kLlama3) {
    const auto plain = RopeFrequencies(config.head_dim, config.rope_theta, {});
    const auto scaled = RopeFrequencies(config.head_dim, config.rope_theta, config.rope_scaling);
    std::vector<float> factors(plain.size());
    for (size_t i = 0; i < plain.size(); ++i) factors[i] = static_cast<float>(plain[i] / scaled[i]);
    builder.Tensor("rope_freqs.weight", kPackF32, {factors.size()}, PackGguf(kPackF32, factors));
  }
  return builder;
}

inline void WriteGguf(const TinyModel& model, const std::filesystem::path& path,
                      uint32_t type = kPackF32) {
  WriteText(path, BuildGguf(model, type).Build());
}

}  // namespace tq::testing
