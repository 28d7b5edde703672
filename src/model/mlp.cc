#include "model/mlp.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "codec/dense_matmul.h"
#include "model/transformer_ops.h"

namespace tq {
namespace {

// Values of rows that a thread copies or adds at once, as in transformer_ops.cc.
constexpr uint64_t kGrainValues = 16384;
// Tokens that a thread chooses experts for at once.
constexpr size_t kGrainTokens = 16;

size_t RowGrain(uint64_t size) { return std::max<uint64_t>(1, kGrainValues / size); }

void Softmax(std::span<float> values) {
  const float largest = *std::ranges::max_element(values);
  float sum = 0;
  for (float& value : values) sum += value = std::exp(value - largest);
  for (float& value : values) value /= sum;
}

// The numbers of the largest values, rising; of equal ones, and where nothing compares, the first.
void ChooseLargest(std::span<const float> values, std::span<uint32_t> chosen) {
  for (size_t i = 0; i < chosen.size(); ++i) {
    const auto before = chosen.first(i);
    uint32_t best = UINT32_MAX;
    for (uint32_t e = 0; e < values.size(); ++e) {
      if (best != UINT32_MAX && !(values[e] > values[best])) continue;
      if (std::ranges::find(before, e) == before.end()) best = e;
    }
    chosen[i] = best;
  }
  std::ranges::sort(chosen);
}

}  // namespace

Status GatedMlp::Run(const ForwardContext& context, const ModelConfig& config,
                     const Tensor& sub_norm, const float* x, uint64_t n, float* inner, float* y,
                     const InputObserver& observer) const {
  Executor& executor = *context.executor;
  const uint64_t size = config.mlp_size();
  float *gate = inner, *up = inner + n * size;
  if (observer) observer(GroupRole::kGateUp, x, n, config.hidden_size);
  TQ_RETURN_IF_ERROR(gate_up->Forward(context, x, n, std::array{gate, up}));
  GateMultiply(config.activation, gate, up, n * size, executor);
  if (config.sub_norms) {
    RmsNormRows(gate, sub_norm.as<float>(), n, size, config.rms_norm_eps, executor, gate);
  }
  if (observer) observer(GroupRole::kDown, gate, n, size);
  return down->Forward(context, gate, n, std::array{y});
}

uint64_t MlpWeights::weight_bytes(const ModelConfig& config) const {
  const uint64_t bytes = NumBytes(vectors);
  if (experts.empty()) return bytes + dense.weight_bytes();
  uint64_t all = 0;
  for (const GatedMlp& expert : experts) all += expert.weight_bytes();
  return bytes + all / config.num_experts * config.experts_per_token;
}

uint64_t Routing::NumBytes(const ModelConfig& config, uint64_t n) {
  // Vectors that grow have at most twice the room they need.
  return n * (config.num_experts * (sizeof(float) + 2 * sizeof(RoutedToken)) +
              config.experts_per_token * sizeof(uint32_t));
}

void Routing::Clear() {
  tokens_ = 0;
  for (auto& tokens : by_expert_) tokens.clear();
}

void Routing::Add(const Tensor& router, const float* x, uint64_t n, Executor& executor) {
  const uint64_t experts = by_expert_.size();
  logits_.resize(std::max<size_t>(logits_.size(), n * experts));
  best_.resize(std::max<size_t>(best_.size(), n * used_));
  DenseMatmul(x, n, router.shape()[1], router.as<float>(), experts, executor, logits_.data());
  executor.ParallelFor(n, kGrainTokens, [&](size_t begin, size_t end, size_t) {
    for (size_t token = begin; token < end; ++token) {
      const std::span p(logits_.data() + token * experts, experts);
      Softmax(p);
      ChooseLargest(p, {best_.data() + token * used_, used_});
    }
  });
  for (uint64_t token = 0; token < n; ++token) {
    const float* p = logits_.data() + token * experts;
    const std::span<const uint32_t> best(best_.data() + token * used_, used_);
    float sum = 0;
    for (const uint32_t e : best) sum += p[e];
    for (const uint32_t e : best) {
      by_expert_[e].push_back({static_cast<uint32_t>(tokens_), renormalise_ ? p[e] / sum : p[e]});
    }
    ++tokens_;
  }
}

void GatherRows(const float* x, uint64_t size, std::span<const RoutedToken> tokens,
                Executor& executor, float* out) {
  executor.ParallelFor(tokens.size(), RowGrain(size), [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) {
      std::memcpy(out + i * size, x + tokens[i].token * size, size * sizeof(float));
    }
  });
}

void AddWeightedRows(const float* y, uint64_t size, std::span<const RoutedToken> tokens,
                     Executor& executor, float* sum) {
  // No token is there twice.
  executor.ParallelFor(tokens.size(), RowGrain(size), [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) {
      const float weight = tokens[i].weight;
      float* to = sum + tokens[i].token * size;
      for (uint64_t j = 0; j < size; ++j) to[j] += weight * y[i * size + j];
    }
  });
}

Status RunExperts(const ForwardContext& context, const ModelConfig& config,
                  const MlpWeights& weights, const float* x, uint64_t n, float* inner,
                  SparseBuffers& buffers) {
  Executor& executor = *context.executor;
  const uint64_t hidden = config.hidden_size;
  float* rows = buffers.rows.data();
  std::fill_n(buffers.sum.begin(), n * hidden, 0.0f);
  buffers.routing.Clear();
  buffers.routing.Add(weights.vectors.router, x, n, executor);
  for (uint32_t e = 0; e < weights.experts.size(); ++e) {
    const std::span<const RoutedToken> tokens = buffers.routing.Of(e);
    if (tokens.empty()) continue;
    GatherRows(x, hidden, tokens, executor, rows);
    uint64_t count = tokens.size();
    if (count == 1 && n > 1) {
      // Packed matrices round a single row's activations to 8 bits, those of several to 14: a
      // token's output must not depend on where others go.
      std::memcpy(rows + hidden, rows, hidden * sizeof(float));
      count = 2;
    }
    TQ_RETURN_IF_ERROR(weights.experts[e].Run(context, config, {}, rows, count, inner, rows));
    AddWeightedRows(rows, hidden, tokens, executor, buffers.sum.data());
  }
  return OkStatus();
}

}  // namespace tq
