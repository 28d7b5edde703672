// For tests: a model whose tensors are made up in memory.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/random.h"
#include "checkpoint/architectures/architecture.h"
#include "checkpoint/model_source.h"

namespace tq {

class MemorySource final : public ModelSource {
 public:
  explicit MemorySource(const ModelConfig& config) {
    path_ = "memory";
    config_ = config;
  }

  ModelKind kind() const override { return ModelKind::kHuggingFace; }
  StatusOr<Tensor> LoadFloat(std::string_view name) const override {
    const auto it = values_.find(name);
    if (it == values_.end()) return NotFound("memory: no tensor {}", name);
    return it->second;
  }
  StatusOr<Tensor> LoadStored(std::string_view name) const override { return LoadFloat(name); }
  Status HashTensor(std::string_view name, Hasher& hasher) const override {
    TQ_ASSIGN_OR_RETURN(const Tensor tensor, LoadFloat(name));
    hasher.Update(tensor.data(), tensor.num_bytes());
    return OkStatus();
  }

  void Set(const std::string& name, Tensor tensor) { values_[name] = std::move(tensor); }
  // The values of a tensor, to be changed in place.
  float* Mutable(const std::string& name) { return values_.at(name).mutable_as<float>(); }
  const Tensor& Get(const std::string& name) const { return values_.at(name); }

 private:
  std::map<std::string, Tensor, std::less<>> values_;
};

// A small model: 2 query heads share a KV head, sizes that no vector width divides, and a window
// that prompts are longer than where the architecture has one.
inline ModelConfig SmallConfig(std::string_view architecture = "llama") {
  ModelConfig config = FindArchitecture(architecture)->defaults;
  if (config.sliding_window != 0) config.sliding_window = 9;
  if (config.query_scalar != 0) config.query_scalar = 10;
  if (config.attention_softcap != 0) config.attention_softcap = 2;
  if (config.logit_softcap != 0) config.logit_softcap = 3;
  config.vocab_size = 61;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  if (config.num_experts != 0) {
    config.num_experts = 5;
    config.experts_per_token = 2;
    if (config.expert_size != 0) config.expert_size = 20;
  }
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 6;
  config.max_position = 96;
  config.rms_norm_eps = 1e-5f;
  config.tie_embeddings = true;
  return config;
}

// Calls fn(name, shape) for every tensor of a model under Hugging Face's names.
inline void ForEachTensor(const ModelConfig& config,
                          const std::function<void(const std::string&, const Shape&)>& fn) {
  for (const TensorSpec& spec : ModelTensors(config)) fn(spec.name, spec.shape);
}

// Gaussian matrices that keep activations near 1, norms and biases near 1 (norms that add 1: near
// 0).
inline MemorySource RandomSource(const ModelConfig& config, uint64_t seed) {
  MemorySource source(config);
  ForEachTensor(config, [&](const std::string& name, const Shape& shape) {
    Tensor tensor = *Tensor::Zeros(DType::kF32, shape);
    Random random(seed, name);
    const double sigma = shape.size() == 2 ? 1.2 / std::sqrt(static_cast<double>(shape[1])) : 0.2;
    const double mean = shape.size() == 2 || config.norm_plus_one ? 0.0 : 1.0;
    float* values = tensor.mutable_as<float>();
    for (uint64_t i = 0; i < tensor.num_elements(); ++i) {
      values[i] = static_cast<float>(mean + sigma * random.NextNormal());
    }
    source.Set(name, std::move(tensor));
  });
  return source;
}

}  // namespace tq
