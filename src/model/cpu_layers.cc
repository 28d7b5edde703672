#include "model/cpu_layers.h"

#include <string_view>
#include <utility>

#include "model/backend.h"
#include "model/layer_tensors.h"
#include "model/output_head.h"
#include "model/packed_decoder.h"
#include "model/running_layer.h"

namespace tq {

StatusOr<std::unique_ptr<CpuLayers>> CpuLayers::Load(const ModelSource& source) {
  std::unique_ptr<CpuLayers> layers(new CpuLayers(source.config()));
  TQ_RETURN_IF_ERROR(layers->LoadAll(source));
  return layers;
}

StatusOr<std::unique_ptr<CpuLayers>> CpuLayers::Load(std::shared_ptr<const PackedModel> model,
                                                     uint32_t first) {
  std::unique_ptr<CpuLayers> layers(new CpuLayers(model->config()));
  layers->first_ = first;
  TQ_RETURN_IF_ERROR(layers->LoadAll(std::move(model)));
  return layers;
}

Status CpuLayers::LoadAll(const ModelSource& source) {
  const Shape table{config_.vocab_size, config_.hidden_size};
  // Bfloat16 as it is stored: half the memory and traffic, and the same bits.
  const auto load = [&](std::string_view name) -> StatusOr<Tensor> {
    const SourceTensorInfo* info = source.Find(name);
    const bool narrow = info != nullptr && info->type == DTypeName(DType::kBF16);
    TQ_ASSIGN_OR_RETURN(Tensor tensor, narrow ? source.LoadStored(name) : source.LoadFloat(name));
    if (tensor.dtype() == (narrow ? DType::kBF16 : DType::kF32) && tensor.shape() == table) {
      return tensor;
    }
    return InvalidArgument("{}: {} is {} {}, not {}", source.path().string(), name,
                           DTypeName(tensor.dtype()), ShapeToString(tensor.shape()),
                           ShapeToString(table));
  };
  TQ_ASSIGN_OR_RETURN(Tensor embedding, load("model.embed_tokens.weight"));
  Tensor head = embedding;
  if (!config_.tie_embeddings) {
    TQ_ASSIGN_OR_RETURN(head, load("lm_head.weight"));
  }
  TQ_ASSIGN_OR_RETURN(norm_, LoadFinalNorm(config_, VectorsOf(source)));
  embedding_ = MakeDenseEmbedding(std::move(embedding), EmbeddingScale(config_));
  head_ = head.dtype() == DType::kBF16 ? MakeBFloat16Group(std::move(head))
                                       : MakeDenseGroup({std::move(head)});
  for (uint32_t i = 0; i < config_.num_layers; ++i) {
    TQ_ASSIGN_OR_RETURN(auto layer, LoadRunningLayer(source, i, workspace_));
    layers_.push_back(std::move(layer));
  }
  return OkStatus();
}

Status CpuLayers::LoadAll(std::shared_ptr<const PackedModel> model) {
  TQ_ASSIGN_OR_RETURN(PackedDecoder decoder, FindPackedDecoder(*model));
  model->ReadAhead();
  const auto group = [&](PackedGroup& parts) {
    return MakeStoredGroup(parts.name, std::move(parts.matrices), workspace_->rotated, model);
  };
  TQ_ASSIGN_OR_RETURN(embedding_,
                      MakeStoredEmbedding(decoder.embedding, EmbeddingScale(config_), model));
  TQ_ASSIGN_OR_RETURN(head_, group(decoder.head));
  norm_ = std::move(decoder.norm);
  for (size_t i = first_; i < decoder.layers.size(); ++i) {
    PackedLayer& layer = decoder.layers[i];
    AttentionWeights attention;
    attention.vectors = std::move(layer.attention);
    TQ_ASSIGN_OR_RETURN(attention.qkv, group(layer.qkv));
    TQ_ASSIGN_OR_RETURN(attention.o, group(layer.o));
    MlpWeights mlp;
    mlp.vectors = std::move(layer.mlp);
    if (layer.experts.empty()) {
      TQ_ASSIGN_OR_RETURN(mlp.dense.gate_up, group(layer.gate_up));
      TQ_ASSIGN_OR_RETURN(mlp.dense.down, group(layer.down));
    }
    for (PackedMlp& parts : layer.experts) {
      GatedMlp& expert = mlp.experts.emplace_back();
      TQ_ASSIGN_OR_RETURN(expert.gate_up, group(parts.gate_up));
      TQ_ASSIGN_OR_RETURN(expert.down, group(parts.down));
    }
    layers_.push_back(std::make_unique<DecoderLayer>(
        config_, static_cast<uint32_t>(i), std::move(attention), std::move(mlp), workspace_));
  }
  packed_ = std::move(model);
  return OkStatus();
}

Status CpuLayers::Embed(std::span<const int32_t> tokens, float* hidden) const {
  // Mapped weights: reading past the end of a file that has shrunk would be a SIGBUS.
  if (packed_ != nullptr) TQ_RETURN_IF_ERROR(packed_->VerifyFiles());
  embedding_->Lookup(tokens, hidden);
  return OkStatus();
}

Status CpuLayers::Run(const ForwardContext& context, KvCache& cache, float* hidden, uint64_t n) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto layer = first_ + static_cast<uint32_t>(i);
    const Status status = layers_[i]->Forward(context, cache, layer, hidden, n);
    if (!status.ok()) return status.WithContext(fmt::format("layer {}", layer));
  }
  return OkStatus();
}

Status CpuLayers::Head(const ForwardContext& context, const float* hidden, uint64_t n,
                       uint64_t position, float* logits) {
  TQ_RETURN_IF_ERROR(HeadLogits(context, config_, norm_, *head_, hidden, n, normed_, logits));
  return CheckLogits(logits, n, config_.vocab_size, position);
}

uint64_t CpuLayers::bytes_per_token() const {
  uint64_t bytes = norm_.num_bytes() + head_->weight_bytes();
  for (const auto& layer : layers_) bytes += layer->weight_bytes();
  return bytes;
}

}  // namespace tq
