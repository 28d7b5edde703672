// Layers on the processor.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "model/backend.h"
#include "model/decoder_layer.h"
#include "model/embedding.h"
#include "model/packed_decoder.h"

namespace tq {
namespace {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const ModelConfig& config)
      : config_(config), workspace_(std::make_shared<LayerWorkspace>(config)) {}

  Status Load(const ModelSource& source);
  Status Load(std::shared_ptr<const PackedModel> model);

  uint64_t chunk() const override { return workspace_->chunk(); }

  StatusOr<KvCache> NewCache(uint64_t capacity) override {
    return KvCache::Create(config_, capacity);
  }

  Status RunLayers(const ForwardContext& context, KvCache& cache,
                   std::span<const int32_t> tokens) override {
    // Mapped weights: reading past the end of a file that has shrunk would be a SIGBUS.
    if (packed_ != nullptr) TQ_RETURN_IF_ERROR(packed_->VerifyFiles());
    Grow(hidden_, tokens.size() * config_.hidden_size);
    embedding_->Lookup(tokens, hidden_.data());
    for (uint32_t i = 0; i < config_.num_layers; ++i) {
      const Status status = layers_[i]->Forward(context, cache, i, hidden_.data(), tokens.size());
      if (!status.ok()) return status.WithContext(fmt::format("layer {}", i));
    }
    return OkStatus();
  }

  Status Head(const ForwardContext& context, uint64_t first, uint64_t n, uint64_t position,
              float* logits) override {
    Grow(normed_, n * config_.hidden_size);
    RmsNormRows(hidden_.data() + first * config_.hidden_size, norm_.as<float>(), n,
                config_.hidden_size, config_.rms_norm_eps, *context.executor, normed_.data());
    head_->Forward(context, normed_.data(), n, std::array{logits});
    return CheckLogits(logits, n, config_.vocab_size, position);
  }

  StatusOr<int32_t> NextToken(const ForwardContext& context, KvCache& cache, int32_t token,
                              uint32_t limit) override {
    TQ_RETURN_IF_ERROR(RunLayers(context, cache, {&token, 1}));
    Grow(logits_, config_.vocab_size);
    TQ_RETURN_IF_ERROR(Head(context, 0, 1, cache.length(), logits_.data()));
    return LikeliestToken({logits_.data(), limit});
  }

  std::string device_name() const override { return "cpu"; }

  uint64_t BytesPerToken() const override {
    uint64_t bytes = embedding_->bytes_per_row() + norm_.num_bytes() + head_->weight_bytes();
    for (const auto& layer : layers_) bytes += layer->weight_bytes();
    return bytes;
  }

 private:
  static void Grow(std::vector<float>& values, uint64_t size) {
    if (values.size() < size) values.resize(size);
  }

  ModelConfig config_;
  std::shared_ptr<const PackedModel> packed_;  // null for unquantised models
  std::shared_ptr<LayerWorkspace> workspace_;
  std::unique_ptr<EmbeddingTable> embedding_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  Tensor norm_;  // float [hidden]
  std::unique_ptr<LinearGroup> head_;

  std::vector<float> hidden_;  // [chunk, hidden]: the residual stream
  std::vector<float> normed_;  // [rows, hidden]: the head's input
  std::vector<float> logits_;  // [vocab]: of NextToken
};

Status CpuBackend::Load(const ModelSource& source) {
  const auto load = [&](std::string_view name, Shape shape) -> StatusOr<Tensor> {
    TQ_ASSIGN_OR_RETURN(Tensor tensor, source.LoadFloat(name));
    if (tensor.dtype() == DType::kF32 && tensor.shape() == shape) return tensor;
    return InvalidArgument("{}: {} has shape {}, not {}", source.path().string(), name,
                           ShapeToString(tensor.shape()), ShapeToString(shape));
  };
  const Shape table{config_.vocab_size, config_.hidden_size};
  TQ_ASSIGN_OR_RETURN(Tensor embedding, load("model.embed_tokens.weight", table));
  Tensor head = embedding;
  if (!config_.tie_embeddings) {
    TQ_ASSIGN_OR_RETURN(head, load("lm_head.weight", table));
  }
  TQ_ASSIGN_OR_RETURN(norm_, load("model.norm.weight", {config_.hidden_size}));
  embedding_ = MakeDenseEmbedding(std::move(embedding));
  head_ = MakeDenseGroup({std::move(head)});
  for (uint32_t i = 0; i < config_.num_layers; ++i) {
    TQ_ASSIGN_OR_RETURN(auto layer, LoadFloatLayer(source, i, workspace_));
    layers_.push_back(std::move(layer));
  }
  return OkStatus();
}

Status CpuBackend::Load(std::shared_ptr<const PackedModel> model) {
  TQ_ASSIGN_OR_RETURN(PackedDecoder decoder, FindPackedDecoder(*model));
  const auto group = [&](PackedGroup& parts) {
    return MakeStoredGroup(parts.name, std::move(parts.matrices), workspace_->rotated, model);
  };
  TQ_ASSIGN_OR_RETURN(embedding_, MakeStoredEmbedding(decoder.embedding, model));
  TQ_ASSIGN_OR_RETURN(head_, group(decoder.head));
  norm_ = std::move(decoder.norm);
  for (PackedLayer& layer : decoder.layers) {
    AttentionWeights attention;
    attention.norm = std::move(layer.attention_norm);
    TQ_ASSIGN_OR_RETURN(attention.qkv, group(layer.qkv));
    TQ_ASSIGN_OR_RETURN(attention.o, group(layer.o));
    MlpWeights mlp;
    mlp.norm = std::move(layer.mlp_norm);
    TQ_ASSIGN_OR_RETURN(mlp.gate_up, group(layer.gate_up));
    TQ_ASSIGN_OR_RETURN(mlp.down, group(layer.down));
    layers_.push_back(
        std::make_unique<DecoderLayer>(config_, std::move(attention), std::move(mlp), workspace_));
  }
  packed_ = std::move(model);
  return OkStatus();
}

template <typename Weights>
StatusOr<std::unique_ptr<Backend>> Make(const ModelConfig& config, Weights&& weights) {
  auto backend = std::make_unique<CpuBackend>(config);
  TQ_RETURN_IF_ERROR(backend->Load(std::forward<Weights>(weights)));
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace

StatusOr<std::unique_ptr<Backend>> MakeFloatBackend(const ModelSource& source) {
  return Make(source.config(), source);
}

StatusOr<std::unique_ptr<Backend>> MakePackedBackend(std::shared_ptr<const PackedModel> model) {
  return Make(model->config(), model);
}

int32_t LikeliestToken(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Status CheckLogits(const float* logits, uint64_t n, uint64_t vocab, uint64_t position) {
  const uint64_t bad = FirstNonFinite(logits, n * vocab);
  if (bad == n * vocab) return OkStatus();
  return DataLoss("head: the logits of position {} have {} for token {}", position + bad / vocab,
                  logits[bad], bad % vocab);
}

}  // namespace tq
