// One layer of a Llama-like decoder: RMSNorm, grouped-query attention with RoPE, SwiGLU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_source.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/transformer_ops.h"

namespace tq {

enum class GroupRole { kQkv, kO, kGateUp, kDown, kHead };

// Sees the input of every LinearGroup before the product: calibration, sensitivity. A call
// of Forward with many positions may show them in several pieces, in order.
using InputObserver =
    std::function<void(GroupRole role, const float* x, uint64_t n, uint64_t features)>;

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
  RopeTable rope;
  // Inputs of trellis-coded matrices.
  std::shared_ptr<RotatedInput> rotated = std::make_shared<RotatedInput>();

 private:
  uint64_t chunk_, hidden_, wide_;
};

// Norms are float32 [hidden].
struct AttentionWeights {
  Tensor norm;
  std::unique_ptr<LinearGroup> qkv, o;
};
struct MlpWeights {
  Tensor norm;
  std::unique_ptr<LinearGroup> gate_up, down;
};

// The residual stream goes in and out in place.
class DecoderLayer {
 public:
  // A half without weights is skipped, for callers that hold one half in memory at a time.
  // Without a workspace the layer makes its own.
  DecoderLayer(const ModelConfig& config, std::optional<AttentionWeights> attention,
               std::optional<MlpWeights> mlp, std::shared_ptr<LayerWorkspace> workspace = nullptr);

  // hidden: float [n, hidden] at positions cache.length() .. + n; writes this layer's keys
  // and values into layer `layer` of the cache (the caller advances the cache's length after
  // all layers).
  // Errors: positions beyond the cache's capacity, a layer that it lacks, and values that
  // are not finite (DataLoss), in which case `hidden` is of no use. The caller, who knows which
  // layer of the model this is, adds that.
  Status Forward(const ForwardContext& context, KvCache& cache, uint32_t layer, float* hidden,
                 uint64_t n, const InputObserver& observer = nullptr);

  // Bytes of weights that one pass reads.
  uint64_t weight_bytes() const;

 private:
  Status Attend(const ForwardContext& context, KvCache& cache, uint32_t layer, uint64_t base,
                float* hidden, uint64_t n, const InputObserver& observer);
  Status Mlp(const ForwardContext& context, float* hidden, uint64_t n,
             const InputObserver& observer);

  ModelConfig config_;
  std::optional<AttentionWeights> attention_;
  std::optional<MlpWeights> mlp_;
  std::shared_ptr<LayerWorkspace> workspace_;
};

enum class LayerPart { kWhole, kAttention, kMlp };

// A layer's float32 weights [out, in] and norms [hidden]; those of a half that is left out are
// empty. Copies share their values.
struct LayerTensors {
  Tensor attention_norm, q, k, v, o;
  Tensor mlp_norm, gate, up, down;

  // The matrix of a Hugging Face name without ".weight", whatever its layer: "...mlp.up_proj"; null
  // for any other name.
  Tensor* Find(std::string_view matrix);
};

// Of layer `index` of the unquantised model. An error names a tensor whose shape is not what the
// config says.
StatusOr<LayerTensors> LoadLayerTensors(const ModelSource& source, uint32_t index,
                                        LayerPart part = LayerPart::kWhole);
// A layer that computes with them.
std::unique_ptr<DecoderLayer> MakeFloatLayer(const ModelConfig& config, LayerTensors tensors,
                                             std::shared_ptr<LayerWorkspace> workspace = nullptr);
// The same with its matrices and their products on `device` (null: on the processor).
StatusOr<std::unique_ptr<DecoderLayer>> MakeFloatLayer(const ModelConfig& config,
                                                       LayerTensors tensors,
                                                       std::shared_ptr<LayerWorkspace> workspace,
                                                       const DenseDevice* device);
// A workspace for them: more positions go through a layer at once where a device multiplies.
std::shared_ptr<LayerWorkspace> MakeFloatWorkspace(const ModelConfig& config,
                                                   const DenseDevice* device);
// Bytes of a layer's or a half's matrices in float32.
uint64_t FloatLayerBytes(const ModelConfig& config, LayerPart part = LayerPart::kWhole);

// Layer `index` of the unquantised model, or a half of it, in float32.
StatusOr<std::unique_ptr<DecoderLayer>> LoadFloatLayer(
    const ModelSource& source, uint32_t index, std::shared_ptr<LayerWorkspace> workspace = nullptr,
    LayerPart part = LayerPart::kWhole, const DenseDevice* device = nullptr);

}  // namespace tq
