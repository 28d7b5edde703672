#include "model/layer_tensors.h"

#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>

namespace tq {

Tensor* LayerTensors::Find(std::string_view matrix) {
  const std::pair<std::string_view, Tensor*> matrices[] = {
      {"q_proj", &q},       {"k_proj", &k},   {"v_proj", &v},      {"o_proj", &o},
      {"gate_proj", &gate}, {"up_proj", &up}, {"down_proj", &down}};
  const std::string_view role = matrix.substr(matrix.rfind('.') + 1);
  for (const auto& [name, tensor] : matrices) {
    if (name == role) return tensor;
  }
  return nullptr;
}

StatusOr<LayerTensors> LoadLayerTensors(const ModelSource& source, uint32_t index, LayerPart part) {
  const ModelConfig& config = source.config();
  if (index >= config.num_layers) {
    return InvalidArgument("{}: layer {} of {}", source.path().string(), index, config.num_layers);
  }
  // The reader promises the architecture's shapes; a source that breaks it is stopped here,
  // before kernels rely on them.
  const auto load = [&](std::string_view name, Shape shape, Tensor& out) -> Status {
    const std::string full = fmt::format("model.layers.{}.{}.weight", index, name);
    TQ_ASSIGN_OR_RETURN(out, source.LoadFloat(full));
    if (out.dtype() == DType::kF32 && out.shape() == shape) return OkStatus();
    return InvalidArgument("{}: {} has shape {}, not {}", source.path().string(), full,
                           ShapeToString(out.shape()), ShapeToString(shape));
  };
  const uint64_t q = config.q_size(), kv = config.kv_size(), wide = config.intermediate_size;
  const uint64_t hidden = config.hidden_size;
  LayerTensors t;
  t.index = index;
  if (part != LayerPart::kMlp) {
    TQ_ASSIGN_OR_RETURN(t.attention, LoadAttentionVectors(config, index, VectorsOf(source)));
    TQ_RETURN_IF_ERROR(load("self_attn.q_proj", {q, hidden}, t.q));
    TQ_RETURN_IF_ERROR(load("self_attn.k_proj", {kv, hidden}, t.k));
    TQ_RETURN_IF_ERROR(load("self_attn.v_proj", {kv, hidden}, t.v));
    TQ_RETURN_IF_ERROR(load("self_attn.o_proj", {hidden, q}, t.o));
  }
  if (part != LayerPart::kAttention) {
    TQ_ASSIGN_OR_RETURN(t.mlp, LoadMlpVectors(config, index, VectorsOf(source)));
    TQ_RETURN_IF_ERROR(load("mlp.gate_proj", {wide, hidden}, t.gate));
    TQ_RETURN_IF_ERROR(load("mlp.up_proj", {wide, hidden}, t.up));
    TQ_RETURN_IF_ERROR(load("mlp.down_proj", {hidden, wide}, t.down));
  }
  return t;
}

VectorSource VectorsOf(const ModelSource& source) {
  return {[&source](const std::string& name) { return source.LoadFloat(name); },
          source.path().string()};
}

std::unique_ptr<DecoderLayer> MakeFloatLayer(const ModelConfig& config, LayerTensors tensors,
                                             std::shared_ptr<LayerWorkspace> workspace) {
  // On the processor it cannot fail.
  return *MakeFloatLayer(config, std::move(tensors), std::move(workspace), nullptr);
}

StatusOr<std::unique_ptr<DecoderLayer>> MakeFloatLayer(const ModelConfig& config, LayerTensors t,
                                                       std::shared_ptr<LayerWorkspace> workspace,
                                                       const DenseDevice* device) {
  std::optional<AttentionWeights> attention;
  if (t.q.data() != nullptr) {
    attention.emplace();
    attention->vectors = std::move(t.attention);
    TQ_ASSIGN_OR_RETURN(attention->qkv,
                        MakeDenseGroup("q, k and v of a layer", {t.q, t.k, t.v}, device));
    TQ_ASSIGN_OR_RETURN(attention->o, MakeDenseGroup("o of a layer", {t.o}, device));
  }
  std::optional<MlpWeights> mlp;
  if (t.gate.data() != nullptr) {
    mlp.emplace();
    mlp->vectors = std::move(t.mlp);
    TQ_ASSIGN_OR_RETURN(mlp->gate_up,
                        MakeDenseGroup("gate and up of a layer", {t.gate, t.up}, device));
    TQ_ASSIGN_OR_RETURN(mlp->down, MakeDenseGroup("down of a layer", {t.down}, device));
  }
  return std::make_unique<DecoderLayer>(config, t.index, std::move(attention), std::move(mlp),
                                        std::move(workspace));
}

std::shared_ptr<LayerWorkspace> MakeFloatWorkspace(const ModelConfig& config,
                                                   const DenseDevice* device) {
  return std::make_shared<LayerWorkspace>(
      config, device == nullptr ? LayerWorkspace::kBytes : LayerWorkspace::kRunBytes);
}

uint64_t FloatLayerBytes(const ModelConfig& config, LayerPart part) {
  const uint64_t q = config.q_size(), kv = config.kv_size(), wide = config.intermediate_size;
  // Rows, or columns, of hidden_size values.
  const uint64_t attention = part == LayerPart::kMlp ? 0 : 2 * (q + kv);
  const uint64_t mlp = part == LayerPart::kAttention ? 0 : 3 * wide;
  return sizeof(float) * config.hidden_size * (attention + mlp);
}

StatusOr<std::unique_ptr<DecoderLayer>> LoadFloatLayer(const ModelSource& source, uint32_t index,
                                                       std::shared_ptr<LayerWorkspace> workspace,
                                                       LayerPart part, const DenseDevice* device) {
  TQ_ASSIGN_OR_RETURN(LayerTensors tensors, LoadLayerTensors(source, index, part));
  return MakeFloatLayer(source.config(), std::move(tensors), std::move(workspace), device);
}

}  // namespace tq
