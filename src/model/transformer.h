// A decoder-only transformer: load it, run it. Unquantised and packed models are one
// class; only their LinearGroups differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "model/kv_cache.h"
#include "model/linear.h"

namespace tq {

enum class GroupRole { kQkv, kO, kGateUp, kDown, kHead };

// Sees the input of every LinearGroup before the product: calibration, sensitivity.
using InputObserver = std::function<void(GroupRole role, const float* x, uint64_t n, uint64_t features)>;

// One layer: norms and groups; the residual stream goes in and out in place.
class DecoderLayer {
 public:
  DecoderLayer(const ModelConfig& config, Tensor attention_norm, Tensor mlp_norm,
               std::unique_ptr<LinearGroup> qkv, std::unique_ptr<LinearGroup> o,
               std::unique_ptr<LinearGroup> gate_up, std::unique_ptr<LinearGroup> down);
  // hidden: float [n, hidden] at positions cache.length() .. + n; writes this layer's keys
  // and values into the cache (the caller advances the cache's length after all layers).
  Status Forward(const ForwardContext& context, KvCache& cache, uint32_t layer, float* hidden,
                 uint64_t n, const InputObserver& observer = nullptr);

 private:
  ModelConfig config_;
  Tensor attention_norm_, mlp_norm_;
  std::unique_ptr<LinearGroup> qkv_, o_, gate_up_, down_;
};

// Layer `index` of the unquantised model, in float32.
StatusOr<std::unique_ptr<DecoderLayer>> LoadFloatLayer(const ModelSource& source, uint32_t index);

enum class Logits { kNone, kLast, kAll };

class Transformer {
 public:
  // Any of the three kinds of model.
  static StatusOr<std::unique_ptr<Transformer>> Load(const std::filesystem::path& path);
  static StatusOr<std::unique_ptr<Transformer>> FromSource(const ModelSource& source);
  static StatusOr<std::unique_ptr<Transformer>> FromPacked(std::shared_ptr<const PackedModel> model);
  ~Transformer();

  const ModelConfig& config() const { return config_; }
  // Runs n tokens after what the cache holds and advances it. Token ids outside the
  // vocabulary and positions beyond the cache's capacity are errors; NaN in the logits is
  // an error naming the layer where it first appears. `logits`: float [1 or n, vocab].
  // `on_logits` form below avoids holding them all.
  Status Forward(const ForwardContext& context, KvCache& cache, std::span<const int32_t> tokens,
                 Logits which, float* logits);
  // Calls `consume` for consecutive blocks of positions [begin, begin + count) of this call
  // with their logits [count, vocab]: bounded memory for long windows. Only positions from
  // `first` on get logits.
  Status ForwardBlocks(const ForwardContext& context, KvCache& cache, std::span<const int32_t> tokens,
                       uint64_t first,
                       const std::function<Status(uint64_t begin, uint64_t count, const float* logits)>& consume);

 private:
  Transformer();
  struct Impl;
  ModelConfig config_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tq
