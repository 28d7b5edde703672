// A model on a CUDA device, or its first layers there and the others on the processor. Everything
// is planned when the model is loaded and when a cache is made; a token at a time runs as one
// recorded graph.
#include <algorithm>
#include <compare>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "base/checked.h"
#include "base/format.h"
#include "device/cuda_device.h"
#include "model/backend.h"
#include "model/cpu_layers.h"
#include "model/cuda_layers.h"
#include "model/cuda_sampler.h"
#include "model/embedding.h"
#include "model/packed_decoder.h"
#include "model/sampler.h"

namespace tq {
namespace {

constexpr uint32_t kNowhere = UINT32_MAX;  // no value that is not finite

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::shared_ptr<const PackedModel> model)
      : model_(std::move(model)), config_(model_->config()) {}

  Status Load(const CudaOptions& options);

  uint64_t Chunk(uint64_t left) const override {
    return rest_ == nullptr ? layers_->Chunk(left) : std::min(left, rest_->chunk());
  }
  StatusOr<KvCache> NewCache(uint64_t capacity) override;
  Status RunLayers(const ForwardContext& context, KvCache& cache,
                   std::span<const int32_t> tokens) override;
  Status Head(const ForwardContext& context, uint64_t first, uint64_t n, uint64_t position,
              float* logits) override;
  StatusOr<int32_t> NextToken(const ForwardContext& context, KvCache& cache, int32_t token,
                              const TokenChoice& choice) override;
  std::string device_name() const override {
    if (rest_ == nullptr) return device_->name();
    return fmt::format("{}, {} of {} layers", device_->name(), layers_->layers(),
                       config_.num_layers);
  }
  uint64_t BytesPerToken() const override {
    return layers_->bytes_per_token() + embedding_->bytes_per_row() +
           (rest_ == nullptr ? 0 : rest_->bytes_per_token());
  }

 private:
  // The host's ends of copies.
  struct Staging {
    float *hidden, *logits;
    uint32_t* base;
    CudaOutcome* outcome;
  };
  enum class Recorded { kLayers, kNextToken, kHead };
  // What recorded work depends on: the cache's memory and capacity, the blocks that attention looks
  // at and the steps of NextToken.
  struct GraphKey {
    Recorded what;
    const void* cache = nullptr;
    uint64_t capacity = 0;
    uint32_t blocks = 0;
    CudaSampler::Steps steps = {};
    auto operator<=>(const GraphKey&) const = default;
  };

  // Puts tokens' rows and the position of the first where StartLayers takes them; blocks of
  // positions that attention looks at.
  StatusOr<uint32_t> Stage(const ForwardContext& context, const KvCache& cache, uint64_t position,
                           std::span<const int32_t> tokens);
  // From there through the device's layers.
  Status StartLayers(KvCache& cache, uint64_t n, uint32_t blocks);
  // The same to the end, for positions from `position` on.
  Status RunPiece(const ForwardContext& context, KvCache& cache, uint64_t position,
                  std::span<const int32_t> tokens);
  Status StartNextToken(KvCache& cache, uint32_t blocks, const CudaSampler::Steps& steps);
  Status StartHead(uint64_t first, uint64_t n);
  Status FetchOutcome() {
    return device_->Download(layers_->outcome(), sizeof(CudaOutcome), staging_.outcome);
  }
  // Starts work for one token, `body`, as a graph, recorded once for what it depends on.
  Status StartGraph(const GraphKey& key, const std::function<Status()>& body);
  Status CheckFinite(uint64_t position, uint64_t n) const;

  std::shared_ptr<const PackedModel> model_;
  ModelConfig config_;
  std::shared_ptr<CudaDevice> device_;
  std::unique_ptr<EmbeddingTable> embedding_;  // on the host: a row per token is read
  std::unique_ptr<CudaLayers> layers_;
  std::unique_ptr<CudaSampler> sampler_;  // where all layers are on the device
  std::unique_ptr<CpuLayers> rest_;       // layers behind them, on the processor; null: none
  std::vector<float> hidden_, logits_;    // of the rest: [its chunk, hidden], [vocab]
  uint64_t rows_ = 0;                     // of the last RunLayers
  DeviceMemory staging_memory_;
  Staging staging_ = {};
  std::map<GraphKey, CudaGraph> graphs_;
};

Status CudaBackend::Load(const CudaOptions& options) {
  TQ_ASSIGN_OR_RETURN(device_, CudaDevice::Open());
  TQ_ASSIGN_OR_RETURN(const PackedDecoder decoder, FindPackedDecoder(*model_));
  TQ_ASSIGN_OR_RETURN(embedding_,
                      MakeStoredEmbedding(decoder.embedding, EmbeddingScale(config_), model_));
  TQ_ASSIGN_OR_RETURN(layers_, CudaLayers::Load(device_, *model_, decoder, options));
  if (!layers_->has_head()) {
    TQ_ASSIGN_OR_RETURN(rest_, CpuLayers::Load(model_, layers_->layers()));
    hidden_.resize(rest_->chunk() * config_.hidden_size);
    logits_.resize(config_.vocab_size);
  } else {
    TQ_ASSIGN_OR_RETURN(sampler_, CudaSampler::Create(device_, config_.vocab_size));
  }
  const uint64_t hidden = layers_->Chunk(UINT64_MAX) * config_.hidden_size;
  const uint64_t logits = CudaLayers::kChunk * config_.vocab_size;
  const uint64_t bytes = (hidden + logits) * sizeof(float) + sizeof(CudaOutcome) + sizeof(uint32_t);
  TQ_ASSIGN_OR_RETURN(staging_memory_, device_->AllocateHost(bytes, "staging memory"));
  staging_.hidden = static_cast<float*>(staging_memory_.get());
  staging_.logits = staging_.hidden + hidden;
  staging_.outcome = reinterpret_cast<CudaOutcome*>(staging_.logits + logits);
  staging_.base = reinterpret_cast<uint32_t*>(staging_.outcome + 1);
  return OkStatus();
}

StatusOr<KvCache> CudaBackend::NewCache(uint64_t capacity) {
  const uint32_t layers = layers_->layers();
  TQ_ASSIGN_OR_RETURN(const uint64_t bytes, KvCache::NumBytes(config_, layers, capacity));
  if (capacity > INT32_MAX) {
    return InvalidArgument("context {}: at most {} positions on a CUDA device", capacity,
                           INT32_MAX);
  }
  TQ_ASSIGN_OR_RETURN(const bool moved, layers_->ReserveAttention(capacity));
  if (moved) graphs_.clear();
  TQ_ASSIGN_OR_RETURN(DeviceMemory memory, device_->Allocate(bytes, "the KV cache"));
  TQ_ASSIGN_OR_RETURN(KvCache cache, KvCache::Over(std::static_pointer_cast<uint16_t>(memory),
                                                   config_, layers, capacity));
  if (layers == config_.num_layers) return cache;
  TQ_ASSIGN_OR_RETURN(KvCache rest,
                      KvCache::Create(config_, config_.num_layers - layers, capacity));
  return KvCache::Joined(std::move(cache), std::move(rest));
}

StatusOr<uint32_t> CudaBackend::Stage(const ForwardContext& context, const KvCache& cache,
                                      uint64_t position, std::span<const int32_t> tokens) {
  // Mapped weights: reading past the end of a file that has shrunk would be a SIGBUS.
  TQ_RETURN_IF_ERROR(model_->VerifyFiles());
  constexpr size_t kGrain = 8;  // rows that are worth a thread
  context.executor->ParallelFor(tokens.size(), kGrain, [&](size_t begin, size_t end, size_t) {
    embedding_->Lookup(tokens.subspan(begin, end - begin),
                       staging_.hidden + begin * config_.hidden_size);
  });
  *staging_.base = static_cast<uint32_t>(position);
  // Few sizes, so that few graphs are recorded: thread blocks beyond what is there end at once.
  const auto fit = [](uint64_t positions) {
    return static_cast<uint32_t>(CeilDiv<uint64_t>(positions, cuda::kAttentionBlock));
  };
  uint32_t blocks = 1;
  while (blocks < fit(position + tokens.size())) blocks *= 2;
  return std::min(blocks, fit(cache.capacity()));
}

Status CudaBackend::StartLayers(KvCache& cache, uint64_t n, uint32_t blocks) {
  const uint64_t bytes = n * config_.hidden_size * sizeof(float);
  TQ_RETURN_IF_ERROR(device_->Upload(staging_.hidden, bytes, layers_->hidden(n)));
  TQ_RETURN_IF_ERROR(device_->Upload(staging_.base, sizeof(uint32_t), layers_->base()));
  return layers_->Start(cache, n, blocks);
}

Status CudaBackend::StartNextToken(KvCache& cache, uint32_t blocks,
                                   const CudaSampler::Steps& steps) {
  TQ_RETURN_IF_ERROR(StartLayers(cache, 1, blocks));
  TQ_RETURN_IF_ERROR(layers_->StartHead(1, 0, 1));
  TQ_RETURN_IF_ERROR(sampler_->Start(steps, layers_->logits(), &layers_->outcome()->next));
  return FetchOutcome();
}

Status CudaBackend::StartHead(uint64_t first, uint64_t n) {
  TQ_RETURN_IF_ERROR(layers_->StartHead(rows_, first, n));
  return device_->Download(layers_->logits(), n * config_.vocab_size * sizeof(float),
                           staging_.logits);
}

Status CudaBackend::StartGraph(const GraphKey& key, const std::function<Status()>& body) {
  auto graph = graphs_.find(key);
  if (graph == graphs_.end()) {
    constexpr size_t kMaxGraphs = 32;
    if (graphs_.size() >= kMaxGraphs) graphs_.clear();
    TQ_ASSIGN_OR_RETURN(CudaGraph recorded, CudaGraph::Record(*device_, body));
    graph = graphs_.emplace(key, std::move(recorded)).first;
  }
  return graph->second.Launch();
}

Status CudaBackend::RunPiece(const ForwardContext& context, KvCache& cache, uint64_t position,
                             std::span<const int32_t> tokens) {
  TQ_ASSIGN_OR_RETURN(const uint32_t blocks, Stage(context, cache, position, tokens));
  const auto start = [&]() -> Status {
    TQ_RETURN_IF_ERROR(StartLayers(cache, tokens.size(), blocks));
    return FetchOutcome();
  };
  if (tokens.size() == 1) {
    const GraphKey key{Recorded::kLayers, cache.Keys(0, 0), cache.capacity(), blocks};
    TQ_RETURN_IF_ERROR(StartGraph(key, start));
  } else {
    TQ_RETURN_IF_ERROR(start());
  }
  if (rest_ != nullptr) {
    const uint64_t values = tokens.size() * config_.hidden_size;
    float* to = &hidden_[(position - cache.length()) * config_.hidden_size];
    TQ_RETURN_IF_ERROR(
        device_->Download(layers_->hidden(tokens.size()), values * sizeof(float), to));
  }
  TQ_RETURN_IF_ERROR(device_->Synchronize());
  return CheckFinite(position, tokens.size());
}

Status CudaBackend::RunLayers(const ForwardContext& context, KvCache& cache,
                              std::span<const int32_t> tokens) {
  rows_ = tokens.size();
  if (rest_ == nullptr) return RunPiece(context, cache, cache.length(), tokens);
  for (size_t done = 0; done < tokens.size();) {
    const size_t n = layers_->Chunk(tokens.size() - done);
    TQ_RETURN_IF_ERROR(RunPiece(context, cache, cache.length() + done, tokens.subspan(done, n)));
    done += n;
  }
  return rest_->Run(context, cache, hidden_.data(), tokens.size());
}

StatusOr<int32_t> CudaBackend::NextToken(const ForwardContext& context, KvCache& cache,
                                         int32_t token, const TokenChoice& choice) {
  if (rest_ != nullptr) {
    TQ_RETURN_IF_ERROR(RunLayers(context, cache, {&token, 1}));
    TQ_RETURN_IF_ERROR(Head(context, 0, 1, cache.length(), logits_.data()));
    return ChooseToken(logits_, choice);
  }
  TQ_ASSIGN_OR_RETURN(const uint32_t blocks, Stage(context, cache, cache.length(), {&token, 1}));
  TQ_ASSIGN_OR_RETURN(const CudaSampler::Steps steps, sampler_->Stage(choice));
  rows_ = 1;
  const GraphKey key{Recorded::kNextToken, cache.Keys(0, 0), cache.capacity(), blocks, steps};
  TQ_RETURN_IF_ERROR(StartGraph(key, [&] { return StartNextToken(cache, blocks, steps); }));
  TQ_RETURN_IF_ERROR(device_->Synchronize());
  TQ_RETURN_IF_ERROR(CheckFinite(cache.length(), 1));
  const cuda::ArgmaxResult& next = staging_.outcome->next;
  if (next.first_bad != UINT32_MAX) {
    return DataLoss("head: the logits of position {} have a value that is not finite for token {}",
                    cache.length(), next.first_bad);
  }
  if (choice.sampler != nullptr) choice.sampler->FinishStep();
  return static_cast<int32_t>(next.best & UINT32_MAX);
}

Status CudaBackend::CheckFinite(uint64_t position, uint64_t n) const {
  const uint32_t place = staging_.outcome->first_bad;
  if (place == kNowhere) return OkStatus();
  if (place == 0) {
    return DataLoss("embedding: a row at position {} or after it is not finite", position);
  }
  const std::string after = n == 1 ? "" : fmt::format(" or one of the {} after it", n - 1);
  return DataLoss("layer {}: after its {} the hidden state of position {}{} is not finite",
                  (place - 1) / 2, place % 2 == 1 ? "attention" : "MLP", position, after);
}

Status CudaBackend::Head(const ForwardContext& context, uint64_t first, uint64_t n,
                         uint64_t position, float* logits) {
  if (rest_ != nullptr) {
    return rest_->Head(context, &hidden_[first * config_.hidden_size], n, position, logits);
  }
  for (uint64_t done = 0; done < n;) {
    const uint64_t count = std::min<uint64_t>(n - done, CudaLayers::kChunk);
    const auto start = [&] { return StartHead(first + done, count); };
    TQ_RETURN_IF_ERROR(rows_ == 1 ? StartGraph({Recorded::kHead}, start) : start());
    TQ_RETURN_IF_ERROR(device_->Synchronize());
    std::memcpy(logits + done * config_.vocab_size, staging_.logits,
                count * config_.vocab_size * sizeof(float));
    done += count;
  }
  return CheckLogits(logits, n, config_.vocab_size, position);
}

// What architectures add to a llama and the device's kernels lack.
Status CheckRunsOnDevice(const PackedModel& model) {
  const ModelConfig& c = model.config();
  const std::pair<bool, std::string_view> lacking[] = {
      {c.activation != Activation::kSilu, "a gate other than SiLU"},
      {c.qkv_bias, "biases of q, k and v"},
      {c.qk_norm, "norms of the heads of q and k"},
      {c.sandwich_norms || c.sub_norms, "norms of outputs or inner values"},
      {c.scaled_embedding, "scaled embeddings"},
      {c.query_scalar != 0, "a scale of queries"},
      {c.attention_softcap != 0 || c.logit_softcap != 0, "soft caps"},
      {c.sliding_window != 0, "sliding windows"},
      {c.num_experts != 0, "experts"}};
  for (const auto& [used, what] : lacking) {
    if (used) {
      return Unimplemented(
          "{}: model_type {} has {}, which do not run on a CUDA device; use --device cpu",
          model.path().string(), c.architecture, what);
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(std::shared_ptr<const PackedModel> model,
                                                   const CudaOptions& options) {
  TQ_RETURN_IF_ERROR(CheckRunsOnDevice(*model));
  auto backend = std::make_unique<CudaBackend>(std::move(model));
  TQ_RETURN_IF_ERROR(backend->Load(options));
  return std::unique_ptr<Backend>(std::move(backend));
}

// Measured as kProgramBytes of engine_memory.cc is: 2.4 MiB more than without CUDA.
uint64_t CudaProgramBytes() { return uint64_t{3} << 20; }

}  // namespace tq
