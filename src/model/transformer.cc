#include "model/transformer.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "kernels/transformer/attention.h"
#include "model/embedding.h"

namespace tq {
namespace {

// Logits held at once by ForwardBlocks: 85 positions of 49,152 tokens share a read of the head.
constexpr uint64_t kLogitBytes = uint64_t{16} << 20;
constexpr uint64_t kMinLogitRows = 4;

// What the arithmetic below relies on, whatever reader the config came from.
Status CheckConfig(const ModelConfig& c) {
  if (c.architecture != "llama") {
    return Unimplemented("architecture '{}': only llama is supported", c.architecture);
  }
  const std::pair<std::string_view, uint32_t> sizes[] = {
      {"vocab_size", c.vocab_size},     {"hidden_size", c.hidden_size},
      {"num_layers", c.num_layers},     {"num_heads", c.num_heads},
      {"num_kv_heads", c.num_kv_heads}, {"head_dim", c.head_dim},
      {"max_position", c.max_position}, {"intermediate_size", c.intermediate_size}};
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

struct Transformer::Impl {
  std::shared_ptr<const PackedModel> packed;  // null for unquantised models
  std::shared_ptr<LayerWorkspace> workspace;
  std::unique_ptr<EmbeddingTable> embedding;
  std::vector<std::unique_ptr<DecoderLayer>> layers;
  Tensor norm;  // float [hidden]
  std::unique_ptr<LinearGroup> head;

  std::vector<float> hidden;  // [chunk, hidden]: the residual stream
  std::vector<float> normed;  // [rows, hidden]: the head's input
  std::vector<float> logits;  // [rows, vocab]: ForwardBlocks' block

  // Final norm and head for n rows of the residual stream, the first at position `base`.
  Status Head(const ForwardContext& context, const ModelConfig& config, const float* x, uint64_t n,
              uint64_t base, float* out) {
    if (normed.size() < n * config.hidden_size) normed.resize(n * config.hidden_size);
    RmsNormRows(x, norm.as<float>(), n, config.hidden_size, config.rms_norm_eps, *context.executor,
                normed.data());
    head->Forward(context, normed.data(), n, std::array{out});
    const uint64_t bad = FirstNonFinite(out, n * config.vocab_size);
    if (bad == n * config.vocab_size) return OkStatus();
    return DataLoss("head: the logits of position {} have {} for token {}",
                    base + bad / config.vocab_size, out[bad], bad % config.vocab_size);
  }
};

Transformer::Transformer(const ModelConfig& config, std::unique_ptr<Impl> impl)
    : config_(config), impl_(std::move(impl)) {}
Transformer::~Transformer() = default;

StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const std::filesystem::path& path) {
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(path));
  if (kind == ModelKind::kPacked) {
    TQ_ASSIGN_OR_RETURN(std::shared_ptr<const PackedModel> packed, PackedModel::Open(path));
    return FromPacked(std::move(packed));
  }
  TQ_ASSIGN_OR_RETURN(auto source, ModelSource::Open(path));
  return FromSource(*source);
}

StatusOr<std::unique_ptr<Transformer>> Transformer::FromSource(const ModelSource& source) {
  const ModelConfig& config = source.config();
  TQ_RETURN_IF_ERROR(CheckConfig(config).WithContext(source.path().string()));
  auto impl = std::make_unique<Impl>();
  impl->workspace = std::make_shared<LayerWorkspace>(config);
  const auto load = [&](std::string_view name, Shape shape) -> StatusOr<Tensor> {
    TQ_ASSIGN_OR_RETURN(Tensor tensor, source.LoadFloat(name));
    if (tensor.dtype() == DType::kF32 && tensor.shape() == shape) return tensor;
    return InvalidArgument("{}: {} has shape {}, not {}", source.path().string(), name,
                           ShapeToString(tensor.shape()), ShapeToString(shape));
  };
  const Shape table{config.vocab_size, config.hidden_size};
  TQ_ASSIGN_OR_RETURN(Tensor embedding, load("model.embed_tokens.weight", table));
  Tensor head = embedding;
  if (!config.tie_embeddings) {
    TQ_ASSIGN_OR_RETURN(head, load("lm_head.weight", table));
  }
  TQ_ASSIGN_OR_RETURN(impl->norm, load("model.norm.weight", {config.hidden_size}));
  impl->embedding = MakeDenseEmbedding(std::move(embedding));
  impl->head = MakeDenseGroup({std::move(head)});
  for (uint32_t i = 0; i < config.num_layers; ++i) {
    TQ_ASSIGN_OR_RETURN(auto layer, LoadFloatLayer(source, i, impl->workspace));
    impl->layers.push_back(std::move(layer));
  }
  std::unique_ptr<Transformer> transformer(new Transformer(config, std::move(impl)));
  transformer->num_parameters_ = source.num_parameters();
  transformer->file_bytes_ = source.num_bytes();
  return transformer;
}

namespace {

// Builds the parts of a packed model, checking every shape that the arithmetic relies on.
class PackedLoader {
 public:
  PackedLoader(std::shared_ptr<const PackedModel> model, std::shared_ptr<LayerWorkspace> workspace)
      : model_(std::move(model)), workspace_(std::move(workspace)) {}

  StatusOr<const StoredMatrix*> Matrix(const std::string& name, uint64_t rows,
                                       uint64_t cols) const {
    TQ_ASSIGN_OR_RETURN(const StoredMatrix* matrix, model_->Matrix(name));
    const auto [r, c] =
        std::visit([](const auto& m) { return std::pair(m.rows, m.cols); }, *matrix);
    if (r == rows && c == cols) return matrix;
    return InvalidArgument("{}: {} has shape [{}, {}], not [{}, {}]", model_->path().string(), name,
                           r, c, rows, cols);
  }

  StatusOr<std::unique_ptr<LinearGroup>> Group(
      const std::string& prefix,
      std::initializer_list<std::pair<std::string_view, uint64_t>> members, uint64_t cols) const {
    std::vector<const StoredMatrix*> matrices;
    std::string name;
    for (const auto& [suffix, rows] : members) {
      name = fmt::format("{}{}", prefix, suffix);
      TQ_ASSIGN_OR_RETURN(const StoredMatrix* matrix, Matrix(name, rows, cols));
      matrices.push_back(matrix);
    }
    return MakeStoredGroup(GroupName(name), std::move(matrices), workspace_->rotated, model_);
  }

  StatusOr<Tensor> Norm(const std::string& name) const {
    TQ_ASSIGN_OR_RETURN(Tensor norm, model_->LoadFloat(name));
    const Shape shape{model_->config().hidden_size};
    if (norm.dtype() == DType::kF32 && norm.shape() == shape) return norm;
    return InvalidArgument("{}: {} has shape {}, not {}", model_->path().string(), name,
                           ShapeToString(norm.shape()), ShapeToString(shape));
  }

  StatusOr<std::unique_ptr<DecoderLayer>> Layer(uint32_t index) const {
    const ModelConfig& config = model_->config();
    const uint64_t q = config.q_size(), kv = config.kv_size(), wide = config.intermediate_size;
    const uint64_t hidden = config.hidden_size;
    const std::string prefix = fmt::format("model.layers.{}.", index);
    AttentionWeights attention;
    TQ_ASSIGN_OR_RETURN(attention.norm, Norm(prefix + "input_layernorm.weight"));
    TQ_ASSIGN_OR_RETURN(
        attention.qkv,
        Group(prefix, {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}},
              hidden));
    TQ_ASSIGN_OR_RETURN(attention.o, Group(prefix, {{"self_attn.o_proj", hidden}}, q));
    MlpWeights mlp;
    TQ_ASSIGN_OR_RETURN(mlp.norm, Norm(prefix + "post_attention_layernorm.weight"));
    TQ_ASSIGN_OR_RETURN(mlp.gate_up,
                        Group(prefix, {{"mlp.gate_proj", wide}, {"mlp.up_proj", wide}}, hidden));
    TQ_ASSIGN_OR_RETURN(mlp.down, Group(prefix, {{"mlp.down_proj", hidden}}, wide));
    return std::make_unique<DecoderLayer>(config, std::move(attention), std::move(mlp), workspace_);
  }

 private:
  std::shared_ptr<const PackedModel> model_;
  std::shared_ptr<LayerWorkspace> workspace_;
};

}  // namespace

StatusOr<std::unique_ptr<Transformer>> Transformer::FromPacked(
    std::shared_ptr<const PackedModel> model) {
  const ModelConfig& config = model->config();
  TQ_RETURN_IF_ERROR(CheckConfig(config).WithContext(model->path().string()));
  TQ_RETURN_IF_ERROR(model->VerifyFiles());
  auto impl = std::make_unique<Impl>();
  impl->packed = model;
  impl->workspace = std::make_shared<LayerWorkspace>(config);
  const PackedLoader loader(model, impl->workspace);
  const std::string embedding_name = "model.embed_tokens";
  TQ_ASSIGN_OR_RETURN(const StoredMatrix* embedding,
                      loader.Matrix(embedding_name, config.vocab_size, config.hidden_size));
  TQ_ASSIGN_OR_RETURN(impl->embedding, MakeStoredEmbedding(embedding, model));
  TQ_ASSIGN_OR_RETURN(impl->head, loader.Group(config.tie_embeddings ? embedding_name : "lm_head",
                                               {{"", config.vocab_size}}, config.hidden_size));
  TQ_ASSIGN_OR_RETURN(impl->norm, loader.Norm("model.norm.weight"));
  for (uint32_t i = 0; i < config.num_layers; ++i) {
    TQ_ASSIGN_OR_RETURN(auto layer, loader.Layer(i));
    impl->layers.push_back(std::move(layer));
  }
  std::unique_ptr<Transformer> transformer(new Transformer(config, std::move(impl)));
  transformer->num_parameters_ = model->num_parameters();
  transformer->file_bytes_ = model->num_bytes();
  return transformer;
}

uint64_t Transformer::BytesPerToken() const {
  uint64_t bytes =
      impl_->embedding->bytes_per_row() + impl_->norm.num_bytes() + impl_->head->weight_bytes();
  for (const auto& layer : impl_->layers) bytes += layer->weight_bytes();
  return bytes;
}

uint64_t Transformer::WeightsPerToken() const {
  const uint64_t hidden = config_.hidden_size, q = config_.q_size(), kv = config_.kv_size();
  const uint64_t layer = hidden * (2 * q + 2 * kv + 3 * uint64_t{config_.intermediate_size});
  return config_.num_layers * layer + hidden * config_.vocab_size;
}

Status Transformer::Run(const ForwardContext& context, KvCache& cache,
                        std::span<const int32_t> tokens, const ChunkConsumer& consume) {
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
  // Mapped weights: reading past the end of a file that has shrunk would be a SIGBUS.
  if (impl_->packed != nullptr) TQ_RETURN_IF_ERROR(impl_->packed->VerifyFiles());
  const uint64_t start = cache.length();
  const uint64_t chunk = std::min<uint64_t>(impl_->workspace->chunk(), tokens.size());
  if (impl_->hidden.size() < chunk * config_.hidden_size) {
    impl_->hidden.resize(chunk * config_.hidden_size);
  }
  float* hidden = impl_->hidden.data();
  for (uint64_t begin = 0; begin < tokens.size(); begin += chunk) {
    const uint64_t count = std::min(chunk, tokens.size() - begin);
    impl_->embedding->Lookup(tokens.subspan(begin, count), hidden);
    Status status;
    for (uint32_t i = 0; i < config_.num_layers && status.ok(); ++i) {
      status = impl_->layers[i]->Forward(context, cache, i, hidden, count);
      if (!status.ok()) status = status.WithContext(fmt::format("layer {}", i));
    }
    if (status.ok()) {
      cache.Advance(count);
      status = consume(begin, count, hidden);
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
  return Run(context, cache, tokens, [&](uint64_t begin, uint64_t count, const float* hidden) {
    if (which == Logits::kAll) {
      return impl_->Head(context, config_, hidden, count, base + begin,
                         logits + begin * config_.vocab_size);
    }
    if (which == Logits::kLast && begin + count == tokens.size()) {
      return impl_->Head(context, config_, hidden + (count - 1) * config_.hidden_size, 1,
                         base + begin + count - 1, logits);
    }
    return OkStatus();
  });
}

Status Transformer::ForwardBlocks(const ForwardContext& context, KvCache& cache,
                                  std::span<const int32_t> tokens, uint64_t first,
                                  const LogitsConsumer& consume) {
  const uint64_t base = cache.length();
  const uint64_t rows = std::max(kLogitBytes / (sizeof(float) * config_.vocab_size), kMinLogitRows);
  return Run(context, cache, tokens,
             [&](uint64_t begin, uint64_t count, const float* hidden) -> Status {
               const uint64_t skip = first > begin ? std::min(first - begin, count) : 0;
               for (uint64_t at = skip; at < count; at += rows) {
                 const uint64_t n = std::min(rows, count - at);
                 if (impl_->logits.size() < n * config_.vocab_size) {
                   impl_->logits.resize(n * config_.vocab_size);
                 }
                 TQ_RETURN_IF_ERROR(impl_->Head(context, config_, hidden + at * config_.hidden_size,
                                                n, base + begin + at, impl_->logits.data()));
                 TQ_RETURN_IF_ERROR(consume(begin + at, n, impl_->logits.data()));
               }
               return OkStatus();
             });
}

}  // namespace tq
