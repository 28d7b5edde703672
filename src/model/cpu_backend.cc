// All layers on the processor.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "model/backend.h"
#include "model/cpu_layers.h"
#include "model/sampler.h"

namespace tq {
namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const ModelConfig& config, std::unique_ptr<CpuLayers> layers)
      : config_(config), layers_(std::move(layers)) {}

  uint64_t Chunk(uint64_t left) const override { return std::min(left, layers_->chunk()); }

  StatusOr<KvCache> NewCache(uint64_t capacity) override {
    return KvCache::Create(config_, capacity);
  }

  Status RunLayers(const ForwardContext& context, KvCache& cache,
                   std::span<const int32_t> tokens) override {
    Grow(hidden_, tokens.size() * config_.hidden_size);
    TQ_RETURN_IF_ERROR(layers_->Embed(tokens, hidden_.data()));
    return layers_->Run(context, cache, hidden_.data(), tokens.size());
  }

  Status Head(const ForwardContext& context, uint64_t first, uint64_t n, uint64_t position,
              float* logits) override {
    return layers_->Head(context, hidden_.data() + first * config_.hidden_size, n, position,
                         logits);
  }

  StatusOr<int32_t> NextToken(const ForwardContext& context, KvCache& cache, int32_t token,
                              const TokenChoice& choice) override {
    TQ_RETURN_IF_ERROR(RunLayers(context, cache, {&token, 1}));
    Grow(logits_, config_.vocab_size);
    TQ_RETURN_IF_ERROR(Head(context, 0, 1, cache.length(), logits_.data()));
    return ChooseToken(logits_, choice);
  }

  std::string device_name() const override { return "cpu"; }

  uint64_t BytesPerToken() const override {
    return layers_->bytes_per_token() + layers_->bytes_per_row();
  }

 private:
  static void Grow(std::vector<float>& values, uint64_t size) {
    if (values.size() < size) values.resize(size);
  }

  ModelConfig config_;
  std::unique_ptr<CpuLayers> layers_;
  std::vector<float> hidden_;  // [chunk, hidden]: the residual stream
  std::vector<float> logits_;  // [vocab]: of NextToken
};

}  // namespace

StatusOr<std::unique_ptr<Backend>> MakeFloatBackend(const ModelSource& source) {
  TQ_ASSIGN_OR_RETURN(auto layers, CpuLayers::Load(source));
  return std::unique_ptr<Backend>(new CpuBackend(source.config(), std::move(layers)));
}

StatusOr<std::unique_ptr<Backend>> MakePackedBackend(std::shared_ptr<const PackedModel> model) {
  const ModelConfig config = model->config();
  TQ_ASSIGN_OR_RETURN(auto layers, CpuLayers::Load(std::move(model)));
  return std::unique_ptr<Backend>(new CpuBackend(config, std::move(layers)));
}

StatusOr<int32_t> ChooseToken(std::span<const float> logits, const TokenChoice& choice) {
  if (choice.sampler == nullptr) return LikeliestToken(logits.first(choice.limit));
  return choice.sampler->Sample(logits.first(choice.limit), choice.history);
}

int32_t LikeliestToken(std::span<const float> logits) {
  // The largest first, in lanes that compilers make vectors of; then where it is.
  constexpr size_t kLanes = 16;
  float lanes[kLanes];
  std::ranges::fill(lanes, logits[0]);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
    }
  }
  float largest = *std::ranges::max_element(lanes);
  for (; i < logits.size(); ++i) largest = std::max(largest, logits[i]);
  return static_cast<int32_t>(std::ranges::find(logits, largest) - logits.begin());
}

Status CheckLogits(const float* logits, uint64_t n, uint64_t vocab, uint64_t position) {
  const uint64_t bad = FirstNonFinite(logits, n * vocab);
  if (bad == n * vocab) return OkStatus();
  return DataLoss("head: the logits of position {} have {} for token {}", position + bad / vocab,
                  logits[bad], bad % vocab);
}

}  // namespace tq
