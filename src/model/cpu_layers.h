// A model's layers on the processor, or those that do not fit on a device: from the residual stream
// to logits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "model/decoder_layer.h"
#include "model/embedding.h"
#include "model/kv_cache.h"
#include "model/linear.h"

namespace tq {

class CpuLayers {
 public:
  // Reads everything, packed matrices as such (running_layer.h) and all else into float32; the
  // source may go afterwards.
  static StatusOr<std::unique_ptr<CpuLayers>> Load(const ModelSource& source);
  // Layers from `first` on and the head, which stay packed in the mapped files.
  static StatusOr<std::unique_ptr<CpuLayers>> Load(std::shared_ptr<const PackedModel> model,
                                                   uint32_t first = 0);

  uint64_t chunk() const { return workspace_->chunk(); }  // positions at once, at most
  // hidden [tokens, hidden]: rows of the embedding.
  Status Embed(std::span<const int32_t> tokens, float* hidden) const;
  // hidden [n, hidden] through the layers, in place, at positions cache.length() on. Like Head it
  // reads mapped weights: whoever does not come from Embed has verified the files. Errors: values
  // that are not finite (DataLoss naming the layer).
  Status Run(const ForwardContext& context, KvCache& cache, float* hidden, uint64_t n);
  // Logits [n, vocab] behind hidden [n, hidden], the first of which is at `position`. Errors: some
  // are not finite.
  Status Head(const ForwardContext& context, const float* hidden, uint64_t n, uint64_t position,
              float* logits);

  // Bytes of weights that a token reads, but for its row of the embedding; and of that.
  uint64_t bytes_per_token() const;
  uint64_t bytes_per_row() const { return embedding_->bytes_per_row(); }

 private:
  explicit CpuLayers(const ModelConfig& config)
      : config_(config),
        workspace_(std::make_shared<LayerWorkspace>(config, LayerWorkspace::kRunBytes)) {}
  Status LoadAll(const ModelSource& source);
  Status LoadAll(std::shared_ptr<const PackedModel> model);

  ModelConfig config_;
  uint32_t first_ = 0;
  std::shared_ptr<const PackedModel> packed_;  // null for unquantised models
  std::shared_ptr<LayerWorkspace> workspace_;
  std::unique_ptr<EmbeddingTable> embedding_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  Tensor norm_;  // float [hidden]
  std::unique_ptr<LinearGroup> head_;
  std::vector<float> normed_;  // of HeadLogits
};

}  // namespace tq
