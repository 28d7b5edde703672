#include "model/transformer.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/architectures/architecture.h"
#include "kernels/transformer/attention.h"

namespace tq {
namespace {

// Logits held at once by ForwardBlocks: 85 positions of 49,152 tokens share a read of the head.
constexpr uint64_t kLogitBytes = uint64_t{16} << 20;
constexpr uint64_t kMinLogitRows = 4;

// What the arithmetic below relies on, whatever reader the config came from.
Status CheckConfig(const ModelConfig& c) {
  if (FindArchitecture(c.architecture) == nullptr) {
    return Unimplemented("architecture '{}': {} are supported", c.architecture,
                         ListArchitectures());
  }
  const std::pair<std::string_view, uint32_t> sizes[] = {
      {"vocab_size", c.vocab_size},     {"hidden_size", c.hidden_size},
      {"num_layers", c.num_layers},     {"num_heads", c.num_heads},
      {"num_kv_heads", c.num_kv_heads}, {"head_dim", c.head_dim},
      {"max_position", c.max_position}, {"intermediate_size", c.intermediate_size}};
  TQ_RETURN_IF_ERROR(CheckExperts(c, "config"));
  constexpr uint32_t kLimit = 1u << 23;  // times head_dim it still fits 32 bits
  for (const auto& [name, value] : sizes) {
    if (value == 0 || value > kLimit) {
      return InvalidArgument("config: {} is {}: must be from 1 to {}", name, value, kLimit);
    }
  }
  if (c.num_heads % c.num_kv_heads != 0) {
    return InvalidArgument("config: {} heads are no multiple of {} KV heads", c.num_heads,
                           c.num_kv_heads);
  }
  if (c.head_dim % 2 != 0) {
    return InvalidArgument("config: head_dim {} is odd, RoPE turns pairs", c.head_dim);
  }
  if (c.head_dim > transformer::kMaxHeadDim) {
    return Unimplemented("config: head_dim {}: at most {} is supported", c.head_dim,
                         transformer::kMaxHeadDim);
  }
  if (!(c.rope_theta > 0) || !(c.rms_norm_eps >= 0)) {
    return InvalidArgument("config: rope_theta {} or rms_norm_eps {} is not usable", c.rope_theta,
                           c.rms_norm_eps);
  }
  return OkStatus();
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, std::unique_ptr<Backend> backend)
    : config_(config), backend_(std::move(backend)) {}
Transformer::~Transformer() = default;

StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const std::filesystem::path& path,
                                                         const DeviceChoice& device) {
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(path));
  if (kind == ModelKind::kPacked) {
    TQ_ASSIGN_OR_RETURN(std::shared_ptr<const PackedModel> packed, PackedModel::Open(path));
    return FromPacked(std::move(packed), device);
  }
  if (device.kind != DeviceKind::kCpu) {
    return Unimplemented("{}: only models made by tq quantize run on a CUDA device", path.string());
  }
  TQ_ASSIGN_OR_RETURN(auto source, ModelSource::Open(path));
  return FromSource(*source);
}

StatusOr<std::unique_ptr<Transformer>> Transformer::FromSource(const ModelSource& source) {
  TQ_RETURN_IF_ERROR(CheckConfig(source.config()).WithContext(source.path().string()));
  TQ_ASSIGN_OR_RETURN(auto backend, MakeFloatBackend(source));
  std::unique_ptr<Transformer> transformer(new Transformer(source.config(), std::move(backend)));
  transformer->num_parameters_ = source.num_parameters();
  transformer->file_bytes_ = source.num_bytes();
  return transformer;
}

StatusOr<std::unique_ptr<Transformer>> Transformer::FromPacked(
    std::shared_ptr<const PackedModel> model, const DeviceChoice& device) {
  TQ_RETURN_IF_ERROR(CheckConfig(model->config()).WithContext(model->path().string()));
  TQ_RETURN_IF_ERROR(model->VerifyFiles());
  CudaOptions options;
  options.memory_bytes = device.memory_bytes, options.positions = device.positions;
  TQ_ASSIGN_OR_RETURN(auto backend, device.kind == DeviceKind::kCuda
                                        ? MakeCudaBackend(model, options)
                                        : MakePackedBackend(model));
  std::unique_ptr<Transformer> transformer(new Transformer(model->config(), std::move(backend)));
  transformer->num_parameters_ = model->num_parameters();
  transformer->file_bytes_ = model->num_bytes();
  return transformer;
}

StatusOr<KvCache> Transformer::NewCache(uint64_t capacity) { return backend_->NewCache(capacity); }

uint64_t Transformer::BytesPerToken() const { return backend_->BytesPerToken(); }

uint64_t Transformer::WeightsPerToken() const {
  const uint64_t hidden = config_.hidden_size, q = config_.q_size(), kv = config_.kv_size();
  const uint64_t mlps = std::max(config_.experts_per_token, 1u);
  const uint64_t layer =
      hidden * (2 * q + 2 * kv + config_.num_experts + mlps * 3 * uint64_t{config_.mlp_size()});
  return config_.num_layers * layer + hidden * config_.vocab_size;
}

Status Transformer::CheckTokens(const KvCache& cache, std::span<const int32_t> tokens) const {
  if (tokens.empty()) return InvalidArgument("forward: no tokens");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= config_.vocab_size) {
      return InvalidArgument("token {} at position {}: the vocabulary has {}", tokens[i],
                             cache.length() + i, config_.vocab_size);
    }
  }
  if (tokens.size() > cache.capacity() - cache.length()) {
    return InvalidArgument("{} tokens at position {}: the KV cache holds only {}", tokens.size(),
                           cache.length(), cache.capacity());
  }
  return OkStatus();
}

Status Transformer::Run(const ForwardContext& context, KvCache& cache,
                        std::span<const int32_t> tokens, const ChunkConsumer& consume) {
  TQ_RETURN_IF_ERROR(CheckTokens(cache, tokens));
  const uint64_t start = cache.length();
  for (uint64_t begin = 0, count = 0; begin < tokens.size(); begin += count) {
    count = backend_->Chunk(tokens.size() - begin);
    Status status = backend_->RunLayers(context, cache, tokens.subspan(begin, count));
    if (status.ok()) {
      cache.Advance(count);
      status = consume(begin, count);
    }
    if (!status.ok()) {
      cache.Truncate(start);
      return status;
    }
  }
  return OkStatus();
}

Status Transformer::Forward(const ForwardContext& context, KvCache& cache,
                            std::span<const int32_t> tokens, Logits which, float* logits) {
  const uint64_t base = cache.length();
  return Run(context, cache, tokens, [&](uint64_t begin, uint64_t count) {
    if (which == Logits::kAll) {
      return backend_->Head(context, 0, count, base + begin, logits + begin * config_.vocab_size);
    }
    if (which == Logits::kLast && begin + count == tokens.size()) {
      return backend_->Head(context, count - 1, 1, base + begin + count - 1, logits);
    }
    return OkStatus();
  });
}

StatusOr<int32_t> Transformer::NextToken(const ForwardContext& context, KvCache& cache,
                                         std::span<const int32_t> tokens,
                                         const TokenChoice& choice) {
  TQ_CHECK(choice.limit >= 1 && choice.limit <= config_.vocab_size);
  TQ_RETURN_IF_ERROR(CheckTokens(cache, tokens));
  if (tokens.size() == 1) {
    TQ_ASSIGN_OR_RETURN(const int32_t next, backend_->NextToken(context, cache, tokens[0], choice));
    cache.Advance(1);
    return next;
  }
  if (logits_.size() < config_.vocab_size) logits_.resize(config_.vocab_size);
  TQ_RETURN_IF_ERROR(Forward(context, cache, tokens, Logits::kLast, logits_.data()));
  return ChooseToken(logits_, choice);
}

Status Transformer::ForwardBlocks(const ForwardContext& context, KvCache& cache,
                                  std::span<const int32_t> tokens, uint64_t first,
                                  const LogitsConsumer& consume) {
  const uint64_t base = cache.length();
  const uint64_t rows = std::max(kLogitBytes / (sizeof(float) * config_.vocab_size), kMinLogitRows);
  return Run(context, cache, tokens, [&](uint64_t begin, uint64_t count) -> Status {
    const uint64_t skip = first > begin ? std::min(first - begin, count) : 0;
    for (uint64_t at = skip; at < count; at += rows) {
      const uint64_t n = std::min(rows, count - at);
      if (logits_.size() < n * config_.vocab_size) logits_.resize(n * config_.vocab_size);
      TQ_RETURN_IF_ERROR(backend_->Head(context, at, n, base + begin + at, logits_.data()));
      TQ_RETURN_IF_ERROR(consume(begin + at, n, logits_.data()));
    }
    return OkStatus();
  });
}

}  // namespace tq
