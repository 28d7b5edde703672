#include "model/decoder_layer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace tq {
namespace {

// Positions of a chunk: a product takes as many as the most together.
constexpr uint64_t kMinChunk = 16, kMaxChunk = 264;

uint64_t WideSize(const ModelConfig& c) {
  return std::max<uint64_t>(2 * uint64_t{c.q_size()} + 2 * uint64_t{c.kv_size()},
                            2 * uint64_t{c.mlp_size()});
}

// Values of the widest input of a group.
uint64_t InputSize(const ModelConfig& c) {
  return std::max({c.hidden_size, c.q_size(), c.mlp_size()});
}

}  // namespace

uint64_t LayerWorkspace::NumBytes(const ModelConfig& config, uint64_t n) {
  // The residual stream and the two buffers, a cosine and a sine of each pair, and a group's
  // input rotated; as integers of 8 bits, for ternary matrices, it takes less.
  const uint64_t tables = config.rope_local_theta != 0 ? 2 : 1;
  uint64_t floats = 2 * uint64_t{config.hidden_size} + WideSize(config) + tables * config.head_dim;
  if (config.num_experts != 0) floats += 2 * uint64_t{config.hidden_size};
  return n * floats * sizeof(float) + Routing::NumBytes(config, n) +
         RotatedInput::BufferBytes(n, InputSize(config));
}

uint64_t LayerWorkspace::ThreadBytes(const ModelConfig& config, uint64_t n) {
  return RotatedInput::ScratchBytes(InputSize(config), 1) + MatmulScratchBytes(n);
}

LayerWorkspace::LayerWorkspace(const ModelConfig& config, uint64_t bytes)
    : sparse{.rows = {}, .sum = {}, .routing = Routing(config)},
      rope(RopeFrequencies(config.head_dim, config.rope_theta, config.rope_scaling)),
      local_rope(config.rope_local_theta != 0
                     ? RopeFrequencies(config.head_dim, config.rope_local_theta, {})
                     : RopeFrequencies(config.head_dim, config.rope_theta, config.rope_scaling)),
      chunk_(std::clamp(bytes / NumBytes(config, 1), kMinChunk, kMaxChunk)),
      hidden_(config.hidden_size),
      wide_(WideSize(config)),
      has_experts_(config.num_experts != 0) {}

void LayerWorkspace::Resize(uint64_t positions) {
  TQ_CHECK(positions <= chunk_);
  if (narrow.size() < positions * hidden_) narrow.resize(positions * hidden_);
  if (wide.size() < positions * wide_) wide.resize(positions * wide_);
  if (!has_experts_ || sparse.sum.size() >= positions * hidden_) return;
  sparse.rows.resize(positions * hidden_);
  sparse.sum.resize(positions * hidden_);
}

DecoderLayer::DecoderLayer(const ModelConfig& config, uint32_t index,
                           std::optional<AttentionWeights> attention, std::optional<MlpWeights> mlp,
                           std::shared_ptr<LayerWorkspace> workspace)
    : config_(config),
      sliding_(config.IsSliding(index)),
      attention_(std::move(attention)),
      mlp_(std::move(mlp)),
      workspace_(std::move(workspace)) {
  if (workspace_ == nullptr) workspace_ = std::make_shared<LayerWorkspace>(config_);
}

uint64_t DecoderLayer::weight_bytes() const {
  uint64_t bytes = 0;
  if (attention_) {
    bytes += NumBytes(attention_->vectors) + attention_->qkv->weight_bytes() +
             attention_->o->weight_bytes();
  }
  if (mlp_) bytes += mlp_->weight_bytes(config_);
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
  for (uint64_t done = 0; done < n;) {
    const uint64_t count = std::min(n - done, workspace_->chunk());
    rope().Prepare(start + done, count);
    TQ_RETURN_IF_ERROR(Run(context, {{&cache, 1}, layer, start + done},
                           hidden + done * config_.hidden_size, count, observer));
    done += count;
  }
  return OkStatus();
}

Status DecoderLayer::ForwardSequences(const ForwardContext& context, std::span<KvCache> caches,
                                      uint32_t layer, float* hidden) {
  for (size_t done = 0; done < caches.size();) {
    const size_t count = std::min<size_t>(caches.size() - done, workspace_->chunk());
    const uint64_t position = caches[done].length();
    rope().Prepare(position, 1);
    TQ_RETURN_IF_ERROR(Run(context, {caches.subspan(done, count), layer, position},
                           hidden + done * config_.hidden_size, count, nullptr));
    done += count;
  }
  return OkStatus();
}

Status DecoderLayer::Run(const ForwardContext& context, const Places& places, float* hidden,
                         uint64_t n, const InputObserver& observer) {
  workspace_->Resize(n);
  if (attention_) {
    TQ_RETURN_IF_ERROR(Attend(context, places, hidden, n, observer));
    TQ_RETURN_IF_ERROR(CheckFinite(places, hidden, n, "attention"));
  }
  if (mlp_) {
    TQ_RETURN_IF_ERROR(Mlp(context, hidden, n, observer));
    TQ_RETURN_IF_ERROR(CheckFinite(places, hidden, n, "MLP"));
  }
  return OkStatus();
}

Status DecoderLayer::CheckFinite(const Places& places, const float* hidden, uint64_t n,
                                 std::string_view part) const {
  const uint64_t size = n * config_.hidden_size, bad = FirstNonFinite(hidden, size);
  if (bad == size) return OkStatus();
  const uint64_t row = bad / config_.hidden_size;
  return DataLoss("after its {} the hidden state of position {} has {} at {} of {}", part,
                  places.base + (places.caches.size() == 1 ? row : 0), hidden[bad],
                  bad % config_.hidden_size, config_.hidden_size);
}

Status DecoderLayer::Attend(const ForwardContext& context, const Places& places, float* hidden,
                            uint64_t n, const InputObserver& observer) {
  Executor& executor = *context.executor;
  const uint64_t q_size = config_.q_size(), kv_size = config_.kv_size();
  float* normed = workspace_->narrow.data();
  float* q = workspace_->wide.data();
  float* k = q + n * q_size;
  float* v = k + n * kv_size;
  float* attended = v + n * kv_size;

  const AttentionVectors& vectors = attention_->vectors;
  RmsNormRows(hidden, vectors.norm.as<float>(), n, config_.hidden_size, config_.rms_norm_eps,
              executor, normed);
  if (observer) observer(GroupRole::kQkv, normed, n, config_.hidden_size);
  TQ_RETURN_IF_ERROR(attention_->qkv->Forward(context, normed, n, std::array{q, k, v}));
  PrepareHeads(q, k, v, n, executor);
  if (places.caches.size() == 1) {
    AttendToCache(places.caches[0], places, q, k, v, n, executor, workspace_->partials, attended);
  } else {
    executor.ParallelFor(n, 1, [&](size_t begin, size_t end, size_t) {
      InlineExecutor alone;
      std::vector<float> unused;  // one thread splits nothing
      for (size_t i = begin; i < end; ++i) {
        AttendToCache(places.caches[i], places, q + i * q_size, k + i * kv_size, v + i * kv_size, 1,
                      alone, unused, attended + i * q_size);
      }
    });
  }
  if (config_.sub_norms) {
    RmsNormRows(attended, vectors.sub_norm.as<float>(), n, q_size, config_.rms_norm_eps, executor,
                attended);
  }
  if (observer) observer(GroupRole::kO, attended, n, q_size);
  TQ_RETURN_IF_ERROR(attention_->o->Forward(context, attended, n, std::array{normed}));
  AddOutput(vectors.out_norm, normed, hidden, n, executor);
  return OkStatus();
}

void DecoderLayer::PrepareHeads(float* q, float* k, float* v, uint64_t n,
                                Executor& executor) const {
  const AttentionVectors& vectors = attention_->vectors;
  const uint64_t q_size = config_.q_size(), kv_size = config_.kv_size(), d = config_.head_dim;
  if (config_.qkv_bias) {
    AddToRows(q, vectors.q_bias.as<float>(), n, q_size, executor);
    AddToRows(k, vectors.k_bias.as<float>(), n, kv_size, executor);
    AddToRows(v, vectors.v_bias.as<float>(), n, kv_size, executor);
  }
  if (config_.qk_norm) {
    RmsNormRows(q, vectors.q_norm.as<float>(), n * config_.num_heads, d, config_.rms_norm_eps,
                executor, q);
    RmsNormRows(k, vectors.k_norm.as<float>(), n * config_.num_kv_heads, d, config_.rms_norm_eps,
                executor, k);
  }
}

void DecoderLayer::AttendToCache(KvCache& cache, const Places& places, float* q, float* k,
                                 const float* v, uint64_t n, Executor& executor,
                                 std::vector<float>& partials, float* out) const {
  const uint32_t kv_heads = config_.num_kv_heads, d = config_.head_dim;
  ApplyRope(rope(), q, n, config_.num_heads, d, executor);
  ApplyRope(rope(), k, n, kv_heads, d, executor);
  AttentionArgs args;
  args.queries = q;
  args.out = out;
  args.n = n;
  args.base = places.base;
  args.heads = config_.num_heads;
  args.kv_heads = kv_heads;
  args.head_dim = d;
  args.window = sliding_ ? config_.sliding_window : 0;
  args.scale =
      1 / std::sqrt(config_.query_scalar != 0 ? config_.query_scalar : static_cast<float>(d));
  args.softcap = config_.attention_softcap;
  args.kv_stride = cache.head_stride();
  uint16_t* keys = cache.Keys(places.layer, 0);
  uint16_t* values = cache.Values(places.layer, 0);
  StoreKeys(k, n, kv_heads, d, places.base, args.kv_stride, keys);
  StoreValues(v, n, kv_heads, d, places.base, args.kv_stride, values);
  args.keys = keys;
  args.values = values;
  Attention(args, executor, partials);
}

Status DecoderLayer::Mlp(const ForwardContext& context, float* hidden, uint64_t n,
                         const InputObserver& observer) {
  Executor& executor = *context.executor;
  float* normed = workspace_->narrow.data();
  float* inner = workspace_->wide.data();

  const MlpVectors& vectors = mlp_->vectors;
  RmsNormRows(hidden, vectors.norm.as<float>(), n, config_.hidden_size, config_.rms_norm_eps,
              executor, normed);
  float* out = normed;
  if (mlp_->experts.empty()) {
    TQ_RETURN_IF_ERROR(
        mlp_->dense.Run(context, config_, vectors.sub_norm, normed, n, inner, out, observer));
  } else {
    TQ_RETURN_IF_ERROR(RunExperts(context, config_, *mlp_, normed, n, inner, workspace_->sparse));
    out = workspace_->sparse.sum.data();
  }
  AddOutput(vectors.out_norm, out, hidden, n, executor);
  return OkStatus();
}

void DecoderLayer::AddOutput(const Tensor& norm, float* out, float* hidden, uint64_t n,
                             Executor& executor) const {
  if (config_.sandwich_norms) {
    RmsNormRows(out, norm.as<float>(), n, config_.hidden_size, config_.rms_norm_eps, executor, out);
  }
  AddTo(hidden, out, n * config_.hidden_size, executor);
}

}  // namespace tq
