#include "model/decoder_layer.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace tq {
namespace {

// Positions of a chunk: a product takes as many as the most together.
constexpr uint64_t kMinChunk = 16, kMaxChunk = 264;

uint64_t WideSize(const ModelConfig& c) {
  return std::max<uint64_t>(2 * uint64_t{c.q_size()} + 2 * uint64_t{c.kv_size()},
                            2 * uint64_t{c.intermediate_size});
}

// Values of the widest input of a group.
uint64_t InputSize(const ModelConfig& c) {
  return std::max({c.hidden_size, c.q_size(), c.intermediate_size});
}

}  // namespace

uint64_t LayerWorkspace::NumBytes(const ModelConfig& config, uint64_t n) {
  // The residual stream and the two buffers, a cosine and a sine of each pair, and a group's
  // input rotated.
  const uint64_t floats = 2 * uint64_t{config.hidden_size} + WideSize(config) + config.head_dim;
  return n * floats * sizeof(float) + RotatedInput::BufferBytes(n, InputSize(config));
}

uint64_t LayerWorkspace::ThreadBytes(const ModelConfig& config, uint64_t n) {
  return RotatedInput::ScratchBytes(InputSize(config), 1) + MatmulScratchBytes(n);
}

LayerWorkspace::LayerWorkspace(const ModelConfig& config, uint64_t bytes)
    : rope(config.head_dim, config.rope_theta),
      chunk_(std::clamp(bytes / NumBytes(config, 1), kMinChunk, kMaxChunk)),
      hidden_(config.hidden_size),
      wide_(WideSize(config)) {}

void LayerWorkspace::Resize(uint64_t positions) {
  TQ_CHECK(positions <= chunk_);
  if (narrow.size() < positions * hidden_) narrow.resize(positions * hidden_);
  if (wide.size() < positions * wide_) wide.resize(positions * wide_);
}

DecoderLayer::DecoderLayer(const ModelConfig& config, std::optional<AttentionWeights> attention,
                           std::optional<MlpWeights> mlp, std::shared_ptr<LayerWorkspace> workspace)
    : config_(config),
      attention_(std::move(attention)),
      mlp_(std::move(mlp)),
      workspace_(std::move(workspace)) {
  if (workspace_ == nullptr) workspace_ = std::make_shared<LayerWorkspace>(config_);
}

uint64_t DecoderLayer::weight_bytes() const {
  uint64_t bytes = 0;
  if (attention_) {
    bytes += attention_->norm.num_bytes() + attention_->qkv->weight_bytes() +
             attention_->o->weight_bytes();
  }
  if (mlp_) {
    bytes += mlp_->norm.num_bytes() + mlp_->gate_up->weight_bytes() + mlp_->down->weight_bytes();
  }
  return bytes;
}

Status DecoderLayer::Forward(const ForwardContext& context, KvCache& cache, uint32_t layer,
                             float* hidden, uint64_t n, const InputObserver& observer) {
  const uint64_t start = cache.length();
  if (layer >= cache.layers()) {
    return InvalidArgument("the KV cache has {} layers, none of them {}", cache.layers(), layer);
  }
  if (n > cache.capacity() - start) {
    return InvalidArgument("positions {} to {}: the KV cache holds only {}", start, start + n,
                           cache.capacity());
  }
  const auto check = [&](const float* x, uint64_t count, uint64_t base, std::string_view part) {
    const uint64_t size = count * config_.hidden_size;
    const uint64_t bad = FirstNonFinite(x, size);
    if (bad == size) return OkStatus();
    return DataLoss("after its {} the hidden state of position {} has {} at {} of {}", part,
                    base + bad / config_.hidden_size, x[bad], bad % config_.hidden_size,
                    config_.hidden_size);
  };
  for (uint64_t done = 0; done < n;) {
    const uint64_t count = std::min(n - done, workspace_->chunk());
    const uint64_t base = start + done;
    float* x = hidden + done * config_.hidden_size;
    workspace_->Resize(count);
    workspace_->rope.Prepare(base, count);
    if (attention_) {
      TQ_RETURN_IF_ERROR(Attend(context, cache, layer, base, x, count, observer));
      TQ_RETURN_IF_ERROR(check(x, count, base, "attention"));
    }
    if (mlp_) {
      TQ_RETURN_IF_ERROR(Mlp(context, x, count, observer));
      TQ_RETURN_IF_ERROR(check(x, count, base, "MLP"));
    }
    done += count;
  }
  return OkStatus();
}

Status DecoderLayer::Attend(const ForwardContext& context, KvCache& cache, uint32_t layer,
                            uint64_t base, float* hidden, uint64_t n,
                            const InputObserver& observer) {
  Executor& executor = *context.executor;
  const uint64_t q_size = config_.q_size(), kv_size = config_.kv_size();
  float* normed = workspace_->narrow.data();
  float* q = workspace_->wide.data();
  float* k = q + n * q_size;
  float* v = k + n * kv_size;
  float* attended = v + n * kv_size;

  RmsNormRows(hidden, attention_->norm.as<float>(), n, config_.hidden_size, config_.rms_norm_eps,
              executor, normed);
  if (observer) observer(GroupRole::kQkv, normed, n, config_.hidden_size);
  TQ_RETURN_IF_ERROR(attention_->qkv->Forward(context, normed, n, std::array{q, k, v}));

  ApplyRope(workspace_->rope, q, n, config_.num_heads, config_.head_dim, executor);
  ApplyRope(workspace_->rope, k, n, config_.num_kv_heads, config_.head_dim, executor);
  const uint64_t kv_stride = cache.head_stride();
  StoreKeys(k, n, config_.num_kv_heads, config_.head_dim, base, kv_stride, cache.Keys(layer, 0));
  StoreValues(v, n, config_.num_kv_heads, config_.head_dim, base, kv_stride,
              cache.Values(layer, 0));

  AttentionArgs args;
  args.queries = q;
  args.out = attended;
  args.n = n;
  args.base = base;
  args.heads = config_.num_heads;
  args.kv_heads = config_.num_kv_heads;
  args.head_dim = config_.head_dim;
  args.keys = cache.Keys(layer, 0);
  args.values = cache.Values(layer, 0);
  args.kv_stride = kv_stride;
  Attention(args, executor, workspace_->partials);

  if (observer) observer(GroupRole::kO, attended, n, q_size);
  TQ_RETURN_IF_ERROR(attention_->o->Forward(context, attended, n, std::array{normed}));
  AddTo(hidden, normed, n * config_.hidden_size, executor);
  return OkStatus();
}

Status DecoderLayer::Mlp(const ForwardContext& context, float* hidden, uint64_t n,
                         const InputObserver& observer) {
  Executor& executor = *context.executor;
  float* normed = workspace_->narrow.data();
  float* gate = workspace_->wide.data();
  float* up = gate + n * config_.intermediate_size;

  RmsNormRows(hidden, mlp_->norm.as<float>(), n, config_.hidden_size, config_.rms_norm_eps,
              executor, normed);
  if (observer) observer(GroupRole::kGateUp, normed, n, config_.hidden_size);
  TQ_RETURN_IF_ERROR(mlp_->gate_up->Forward(context, normed, n, std::array{gate, up}));
  SiluMultiply(gate, up, n * config_.intermediate_size, executor);
  if (observer) observer(GroupRole::kDown, gate, n, config_.intermediate_size);
  TQ_RETURN_IF_ERROR(mlp_->down->Forward(context, gate, n, std::array{normed}));
  AddTo(hidden, normed, n * config_.hidden_size, executor);
  return OkStatus();
}

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
  if (part != LayerPart::kMlp) {
    TQ_RETURN_IF_ERROR(load("input_layernorm", {hidden}, t.attention_norm));
    TQ_RETURN_IF_ERROR(load("self_attn.q_proj", {q, hidden}, t.q));
    TQ_RETURN_IF_ERROR(load("self_attn.k_proj", {kv, hidden}, t.k));
    TQ_RETURN_IF_ERROR(load("self_attn.v_proj", {kv, hidden}, t.v));
    TQ_RETURN_IF_ERROR(load("self_attn.o_proj", {hidden, q}, t.o));
  }
  if (part != LayerPart::kAttention) {
    TQ_RETURN_IF_ERROR(load("post_attention_layernorm", {hidden}, t.mlp_norm));
    TQ_RETURN_IF_ERROR(load("mlp.gate_proj", {wide, hidden}, t.gate));
    TQ_RETURN_IF_ERROR(load("mlp.up_proj", {wide, hidden}, t.up));
    TQ_RETURN_IF_ERROR(load("mlp.down_proj", {hidden, wide}, t.down));
  }
  return t;
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
    attention->norm = std::move(t.attention_norm);
    TQ_ASSIGN_OR_RETURN(attention->qkv,
                        MakeDenseGroup("q, k and v of a layer", {t.q, t.k, t.v}, device));
    TQ_ASSIGN_OR_RETURN(attention->o, MakeDenseGroup("o of a layer", {t.o}, device));
  }
  std::optional<MlpWeights> mlp;
  if (t.gate.data() != nullptr) {
    mlp.emplace();
    mlp->norm = std::move(t.mlp_norm);
    TQ_ASSIGN_OR_RETURN(mlp->gate_up,
                        MakeDenseGroup("gate and up of a layer", {t.gate, t.up}, device));
    TQ_ASSIGN_OR_RETURN(mlp->down, MakeDenseGroup("down of a layer", {t.down}, device));
  }
  return std::make_unique<DecoderLayer>(config, std::move(attention), std::move(mlp),
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
