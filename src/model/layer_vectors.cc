#include "model/layer_vectors.h"

#include <fmt/format.h>

#include <initializer_list>
#include <utility>

namespace tq {
namespace {

StatusOr<Tensor> LoadTensor(const VectorSource& source, const std::string& name,
                            const Shape& shape) {
  TQ_ASSIGN_OR_RETURN(Tensor tensor, source.load(name));
  if (tensor.dtype() == DType::kF32 && tensor.shape() == shape) return tensor;
  return InvalidArgument("{}: {} has shape {}, not {}", source.file, name,
                         ShapeToString(tensor.shape()), ShapeToString(shape));
}

StatusOr<Tensor> LoadNorm(const ModelConfig& config, const VectorSource& source,
                          const std::string& name, uint64_t size) {
  TQ_ASSIGN_OR_RETURN(Tensor stored, LoadTensor(source, name, {size}));
  if (!config.norm_plus_one) return stored;
  // The stored values may be shared.
  TQ_ASSIGN_OR_RETURN(Tensor norm, Tensor::Zeros(DType::kF32, stored.shape()));
  for (uint64_t i = 0; i < size; ++i) norm.mutable_as<float>()[i] = 1 + stored.as<float>()[i];
  return norm;
}

std::string InLayer(uint32_t layer, std::string_view name, std::string_view kind = "weight") {
  return fmt::format("model.layers.{}.{}.{}", layer, name, kind);
}

uint64_t BytesOf(std::initializer_list<const Tensor*> tensors) {
  uint64_t bytes = 0;
  for (const Tensor* tensor : tensors) {
    if (tensor->data() != nullptr) bytes += tensor->num_bytes();
  }
  return bytes;
}

}  // namespace

StatusOr<AttentionVectors> LoadAttentionVectors(const ModelConfig& config, uint32_t layer,
                                                const VectorSource& source) {
  const LayerNormNames names = NormNames(config);
  const uint64_t hidden = config.hidden_size, q = config.q_size(), kv = config.kv_size();
  AttentionVectors v;
  TQ_ASSIGN_OR_RETURN(v.norm, LoadNorm(config, source, InLayer(layer, names.attention), hidden));
  if (config.qkv_bias) {
    const auto bias = [&](std::string_view name, uint64_t size) {
      return LoadTensor(source, InLayer(layer, name, "bias"), {size});
    };
    TQ_ASSIGN_OR_RETURN(v.q_bias, bias("self_attn.q_proj", q));
    TQ_ASSIGN_OR_RETURN(v.k_bias, bias("self_attn.k_proj", kv));
    TQ_ASSIGN_OR_RETURN(v.v_bias, bias("self_attn.v_proj", kv));
  }
  if (config.qk_norm) {
    TQ_ASSIGN_OR_RETURN(
        v.q_norm, LoadNorm(config, source, InLayer(layer, "self_attn.q_norm"), config.head_dim));
    TQ_ASSIGN_OR_RETURN(
        v.k_norm, LoadNorm(config, source, InLayer(layer, "self_attn.k_norm"), config.head_dim));
  }
  if (config.sub_norms) {
    TQ_ASSIGN_OR_RETURN(v.sub_norm, LoadNorm(config, source, InLayer(layer, kAttentionSubNorm), q));
  }
  if (config.sandwich_norms) {
    TQ_ASSIGN_OR_RETURN(v.out_norm,
                        LoadNorm(config, source, InLayer(layer, names.attention_out), hidden));
  }
  return v;
}

StatusOr<MlpVectors> LoadMlpVectors(const ModelConfig& config, uint32_t layer,
                                    const VectorSource& source) {
  const LayerNormNames names = NormNames(config);
  MlpVectors v;
  TQ_ASSIGN_OR_RETURN(v.norm,
                      LoadNorm(config, source, InLayer(layer, names.mlp), config.hidden_size));
  if (config.num_experts != 0) {
    TQ_ASSIGN_OR_RETURN(v.router, LoadTensor(source, InLayer(layer, RouterName(config)),
                                             {config.num_experts, config.hidden_size}));
  }
  if (config.sub_norms) {
    TQ_ASSIGN_OR_RETURN(v.sub_norm,
                        LoadNorm(config, source, InLayer(layer, kMlpSubNorm), config.mlp_size()));
  }
  if (config.sandwich_norms) {
    TQ_ASSIGN_OR_RETURN(
        v.out_norm, LoadNorm(config, source, InLayer(layer, names.mlp_out), config.hidden_size));
  }
  return v;
}

StatusOr<Tensor> LoadFinalNorm(const ModelConfig& config, const VectorSource& source) {
  return LoadNorm(config, source, "model.norm.weight", config.hidden_size);
}

uint64_t NumBytes(const AttentionVectors& v) {
  return BytesOf(
      {&v.norm, &v.q_bias, &v.k_bias, &v.v_bias, &v.q_norm, &v.k_norm, &v.sub_norm, &v.out_norm});
}

uint64_t NumBytes(const MlpVectors& v) {
  return BytesOf({&v.norm, &v.router, &v.sub_norm, &v.out_norm});
}

}  // namespace tq
