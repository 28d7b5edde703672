// Layers of unquantised models: their weights in float32, whole or in halves.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_source.h"
#include "codec/dense_device.h"
#include "model/decoder_layer.h"
#include "model/layer_vectors.h"
#include "tensor/tensor.h"

namespace tq {

enum class LayerPart { kWhole, kAttention, kMlp };

// The matrices of an MLP, or of an expert.
struct MlpTensors {
  Tensor gate, up, down;
};

// A layer's float32 weights, matrices [out, in]; those of a half that is left out are empty. Copies
// share their values.
struct LayerTensors {
  uint32_t index = 0;
  AttentionVectors attention;
  Tensor q, k, v, o;
  MlpVectors mlp;
  Tensor gate, up, down;            // empty where there are experts
  std::vector<MlpTensors> experts;  // empty where there are none

  // The matrix of a Hugging Face name without ".weight", whatever its layer: "...mlp.up_proj"; null
  // for any other name.
  Tensor* Find(std::string_view matrix);
};

// Of layer `index` of the unquantised model. An error names a tensor whose shape is not what the
// config says.
StatusOr<LayerTensors> LoadLayerTensors(const ModelSource& source, uint32_t index,
                                        LayerPart part = LayerPart::kWhole);
// The matrices of its MLP, or of one of its experts alone.
StatusOr<MlpTensors> LoadMlpTensors(const ModelSource& source, uint32_t index,
                                    std::optional<uint32_t> expert);
// An MLP, or an expert, that computes with them, with its products on `device` (null: on the
// processor).
StatusOr<GatedMlp> MakeFloatMlp(MlpTensors tensors, const DenseDevice* device);
// Norms and biases of an unquantised model, which must outlive what loads them.
VectorSource VectorsOf(const ModelSource& source);
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
// Bytes of a layer's or a half's matrices in float32, and of an MLP or an expert alone.
uint64_t FloatLayerBytes(const ModelConfig& config, LayerPart part = LayerPart::kWhole);
uint64_t FloatMlpBytes(const ModelConfig& config);

// Layer `index` of the unquantised model, or a half of it, in float32.
StatusOr<std::unique_ptr<DecoderLayer>> LoadFloatLayer(
    const ModelSource& source, uint32_t index, std::shared_ptr<LayerWorkspace> workspace = nullptr,
    LayerPart part = LayerPart::kWhole, const DenseDevice* device = nullptr);

}  // namespace tq
