// One layer of a decoder: RMSNorm, grouped-query attention with RoPE, an MLP, and what
// architectures add to them (checkpoint/architectures).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "codec/ternary_matmul.h"
#include "model/input_observer.h"
#include "model/kv_cache.h"
#include "model/layer_vectors.h"
#include "model/linear.h"
#include "model/mlp.h"
#include "model/transformer_ops.h"

namespace tq {

// Buffers for the activations of one layer, shared by all layers of a model because they
// run one after the other. They grow to at most chunk() positions.
class LayerWorkspace {
 public:
  // Of the activations of one chunk, rotated inputs included. Larger chunks pass weights less
  // often: with kRunBytes models of up to 1B run 264 positions at once, an 8B model 143.
  static constexpr uint64_t kBytes = uint64_t{8} << 20, kRunBytes = uint64_t{32} << 20;

  explicit LayerWorkspace(const ModelConfig& config, uint64_t bytes = kBytes);
  // Bytes of activations while n positions, at most chunk(), are in a layer: the residual
  // stream beside these buffers, with all that they grow to; and what each thread adds.
  static uint64_t NumBytes(const ModelConfig& config, uint64_t n);
  static uint64_t ThreadBytes(const ModelConfig& config, uint64_t n);
  // Positions that go through a layer at once: bounds the memory of long prompts.
  uint64_t chunk() const { return chunk_; }
  // For at most chunk() positions.
  void Resize(uint64_t positions);

  std::vector<float> narrow;    // [n, hidden]: normed input, then the output of o or down
  std::vector<float> wide;      // [n, q + k + v + attention] or [n, gate + up]
  std::vector<float> partials;  // of attention to spans of keys
  SparseBuffers sparse;         // of MLPs that have experts
  RopeTable rope, local_rope;   // of layers that see all positions, and of those that slide
  // Inputs of trellis-coded matrices.
  std::shared_ptr<RotatedInput> rotated = std::make_shared<RotatedInput>();
  // Those of ternary ones.
  std::shared_ptr<TernaryInput> ternary = std::make_shared<TernaryInput>();

 private:
  uint64_t chunk_, hidden_, wide_;
  bool has_experts_;
};

struct AttentionWeights {
  AttentionVectors vectors;
  std::unique_ptr<LinearGroup> qkv, o;
};

// The residual stream goes in and out in place.
class DecoderLayer {
 public:
  // `index`: which layer of the model this is. A half without weights is skipped, for callers that
  // hold one half in memory at a time. Without a workspace the layer makes its own.
  DecoderLayer(const ModelConfig& config, uint32_t index, std::optional<AttentionWeights> attention,
               std::optional<MlpWeights> mlp, std::shared_ptr<LayerWorkspace> workspace = nullptr);

  // hidden: float [n, hidden] at positions cache.length() .. + n; writes this layer's keys
  // and values into layer `layer` of the cache (the caller advances the cache's length after
  // all layers). `observer` sees no inputs of experts, which get some rows each (calibrate.h).
  // Errors: positions beyond the cache's capacity, a layer that it lacks, and values that
  // are not finite (DataLoss), in which case `hidden` is of no use. The caller, who knows which
  // layer of the model this is, adds that.
  Status Forward(const ForwardContext& context, KvCache& cache, uint32_t layer, float* hidden,
                 uint64_t n, const InputObserver& observer = nullptr);
  // The same for one position of each of many sequences, hidden [caches, hidden], which all have
  // the same length.
  Status ForwardSequences(const ForwardContext& context, std::span<KvCache> caches, uint32_t layer,
                          float* hidden);

  // Bytes of weights that one pass reads for a token (MlpWeights).
  uint64_t weight_bytes() const;

 private:
  // Where keys and values of rows of `hidden` go: to consecutive positions of one cache from `base`
  // on, or to position `base` of a cache each.
  struct Places {
    std::span<KvCache> caches;
    uint32_t layer;
    uint64_t base;
  };
  Status Run(const ForwardContext& context, const Places& places, float* hidden, uint64_t n,
             const InputObserver& observer);
  Status CheckFinite(const Places& places, const float* hidden, uint64_t n,
                     std::string_view part) const;
  Status Attend(const ForwardContext& context, const Places& places, float* hidden, uint64_t n,
                const InputObserver& observer);
  void PrepareHeads(float* q, float* k, float* v, uint64_t n, Executor& executor) const;
  void AttendToCache(KvCache& cache, const Places& places, float* q, float* k, const float* v,
                     uint64_t n, Executor& executor, std::vector<float>& partials,
                     float* out) const;
  Status Mlp(const ForwardContext& context, float* hidden, uint64_t n,
             const InputObserver& observer);
  // hidden += out, normed where the architecture does that.
  void AddOutput(const Tensor& norm, float* out, float* hidden, uint64_t n,
                 Executor& executor) const;
  RopeTable& rope() const { return sliding_ ? workspace_->local_rope : workspace_->rope; }

  ModelConfig config_;
  bool sliding_;
  std::optional<AttentionWeights> attention_;
  std::optional<MlpWeights> mlp_;
  std::shared_ptr<LayerWorkspace> workspace_;
};

}  // namespace tq
