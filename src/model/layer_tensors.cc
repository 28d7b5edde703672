#include "model/layer_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

namespace tq {

Tensor* LayerTensors::Find(std::string_view matrix) {
  const std::optional<uint32_t> expert = ExpertOf(matrix);
  if (expert && *expert >= experts.size()) return nullptr;
  const auto of_expert = [&](Tensor MlpTensors::*member) { return &(experts[*expert].*member); };
  const std::pair<std::string_view, Tensor*> matrices[] = {
      {"q", &q},
      {"k", &k},
      {"v", &v},
      {"o", &o},
      {"gate", expert ? of_expert(&MlpTensors::gate) : &gate},
      {"up", expert ? of_expert(&MlpTensors::up) : &up},
      {"down", expert ? of_expert(&MlpTensors::down) : &down}};
  const std::string_view role = MatrixRole(matrix);
  for (const auto& [name, tensor] : matrices) {
    if (name == role) return tensor;
  }
  return nullptr;
}

namespace {

// A matrix of layer `index`. The reader promises the architecture's shapes; a source that breaks it
// is stopped here, before kernels rely on them.
Status LoadMatrix(const ModelSource& source, uint32_t index, std::string_view name, Shape shape,
                  Tensor& out) {
  const std::string full = fmt::format("model.layers.{}.{}.weight", index, name);
  TQ_ASSIGN_OR_RETURN(out, source.LoadFloat(full));
  if (out.dtype() == DType::kF32 && out.shape() == shape) return OkStatus();
  return InvalidArgument("{}: {} has shape {}, not {}", source.path().string(), full,
                         ShapeToString(out.shape()), ShapeToString(shape));
}

}  // namespace

StatusOr<MlpTensors> LoadMlpTensors(const ModelSource& source, uint32_t index,
                                    std::optional<uint32_t> expert) {
  const ModelConfig& config = source.config();
  const uint64_t wide = config.mlp_size(), hidden = config.hidden_size;
  const MlpNames names = NamesOfMlp(config, expert);
  MlpTensors t;
  TQ_RETURN_IF_ERROR(LoadMatrix(source, index, names.gate, {wide, hidden}, t.gate));
  TQ_RETURN_IF_ERROR(LoadMatrix(source, index, names.up, {wide, hidden}, t.up));
  TQ_RETURN_IF_ERROR(LoadMatrix(source, index, names.down, {hidden, wide}, t.down));
  return t;
}

StatusOr<LayerTensors> LoadLayerTensors(const ModelSource& source, uint32_t index, LayerPart part) {
  const ModelConfig& config = source.config();
  if (index >= config.num_layers) {
    return InvalidArgument("{}: layer {} of {}", source.path().string(), index, config.num_layers);
  }
  const auto load = [&](std::string_view name, Shape shape, Tensor& out) {
    return LoadMatrix(source, index, name, std::move(shape), out);
  };
  const uint64_t q = config.q_size(), kv = config.kv_size(), hidden = config.hidden_size;
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
    if (config.num_experts == 0) {
      TQ_ASSIGN_OR_RETURN(MlpTensors mlp, LoadMlpTensors(source, index, std::nullopt));
      t.gate = std::move(mlp.gate), t.up = std::move(mlp.up), t.down = std::move(mlp.down);
    }
    for (uint32_t e = 0; e < config.num_experts; ++e) {
      TQ_ASSIGN_OR_RETURN(MlpTensors expert, LoadMlpTensors(source, index, e));
      t.experts.push_back(std::move(expert));
    }
  }
  return t;
}

VectorSource VectorsOf(const ModelSource& source) {
  return {[&source](const std::string& name) { return source.LoadFloat(name); },
          source.path().string()};
}

StatusOr<GatedMlp> MakeFloatMlp(MlpTensors tensors, const DenseDevice* device) {
  GatedMlp mlp;
  TQ_ASSIGN_OR_RETURN(mlp.gate_up,
                      MakeDenseGroup("gate and up of a layer", {tensors.gate, tensors.up}, device));
  TQ_ASSIGN_OR_RETURN(mlp.down, MakeDenseGroup("down of a layer", {tensors.down}, device));
  return mlp;
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
  if (t.mlp.norm.data() != nullptr) {
    mlp.emplace();
    mlp->vectors = std::move(t.mlp);
    if (t.experts.empty()) {
      TQ_ASSIGN_OR_RETURN(mlp->dense, MakeFloatMlp({t.gate, t.up, t.down}, device));
    }
    for (MlpTensors& expert : t.experts) {
      TQ_ASSIGN_OR_RETURN(GatedMlp made, MakeFloatMlp(std::move(expert), device));
      mlp->experts.push_back(std::move(made));
    }
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
  const uint64_t q = config.q_size(), kv = config.kv_size();
  const uint64_t attention = part == LayerPart::kMlp ? 0 : 2 * (q + kv) * config.hidden_size;
  const uint64_t mlps = part == LayerPart::kAttention ? 0 : std::max(config.num_experts, 1u);
  return sizeof(float) * attention + mlps * FloatMlpBytes(config);
}

uint64_t FloatMlpBytes(const ModelConfig& config) {
  return sizeof(float) * 3 * config.mlp_size() * config.hidden_size;
}

StatusOr<std::unique_ptr<DecoderLayer>> LoadFloatLayer(const ModelSource& source, uint32_t index,
                                                       std::shared_ptr<LayerWorkspace> workspace,
                                                       LayerPart part, const DenseDevice* device) {
  TQ_ASSIGN_OR_RETURN(LayerTensors tensors, LoadLayerTensors(source, index, part));
  return MakeFloatLayer(source.config(), std::move(tensors), std::move(workspace), device);
}

}  // namespace tq
