// A decoder-only transformer: load it, run it. Unquantised and packed models are one
// class; only their LinearGroups differ.
//
// On the processor the logits of a position depend on the tokens up to it and on whether it was
// computed alone (activations of 8 bits) or among others (14), to the bit: not on the number of
// threads or of others. On a CUDA device they do not depend on whether tokens came one by one or in
// pieces of up to 63; longer ones, where the device has room for them, have activations of 11 bits
// and an order of additions that depends on their number. (Products are exact integer sums or one
// chain of additions; attention visits keys in fixed blocks.) The reference path of packed models
// is close to that, but makes no such promise.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "model/backend.h"
#include "model/kv_cache.h"
#include "model/linear.h"

namespace tq {

enum class Logits { kNone, kLast, kAll };
enum class DeviceKind { kCpu, kCuda };
// Where a model runs; on a CUDA device with what memory and for how many positions (CudaOptions).
struct DeviceChoice {
  DeviceKind kind = DeviceKind::kCpu;
  uint64_t memory_bytes = 0, positions = 0;
};

class Transformer {
 public:
  // Any of the three kinds of model; on a CUDA device packed ones.
  static StatusOr<std::unique_ptr<Transformer>> Load(const std::filesystem::path& path,
                                                     const DeviceChoice& device = {});
  // Reads everything, packed matrices as such (ModelSource::LoadCoded) and all else into
  // float32; the source may go afterwards.
  static StatusOr<std::unique_ptr<Transformer>> FromSource(const ModelSource& source);
  // Weights stay packed, in the mapped files or in the device's memory, or in both.
  static StatusOr<std::unique_ptr<Transformer>> FromPacked(std::shared_ptr<const PackedModel> model,
                                                           const DeviceChoice& device = {});
  ~Transformer();

  const ModelConfig& config() const { return config_; }
  // Parameters, tied ones once, and bytes of all weights as stored.
  uint64_t num_parameters() const { return num_parameters_; }
  uint64_t file_bytes() const { return file_bytes_; }
  // Whole model: embedding included.
  double bits_per_weight() const {
    return num_parameters_ == 0
               ? 0
               : 8.0 * static_cast<double>(file_bytes_) / static_cast<double>(num_parameters_);
  }
  // "cpu", or the name of the device that it runs on and how many layers do, if not all.
  std::string device_name() const { return backend_->device_name(); }
  // Positions of a prompt that go through the layers together, at most.
  uint64_t positions_at_once() const { return backend_->Chunk(UINT64_MAX); }
  // A cache of this model, where its layers run.
  StatusOr<KvCache> NewCache(uint64_t capacity);

  // Bytes of weights that one decoded token reads: all matrices and norms, the head, and one
  // row of the embedding; of experts, the mean of as many as see it.
  uint64_t BytesPerToken() const;
  // Weights that a decoded token is multiplied with: matrices of the decoder and the head.
  uint64_t WeightsPerToken() const;

  // Runs n tokens after what the cache holds and advances it. `logits`: float [1, vocab]
  // behind the last token, or [n, vocab] behind each, or unused. Errors, which leave the
  // cache's length as it was: no tokens, token ids outside the vocabulary, positions beyond
  // the cache's capacity, and hidden states or logits that are not finite (DataLoss naming
  // the layer where they first appear). One call at a time.
  Status Forward(const ForwardContext& context, KvCache& cache, std::span<const int32_t> tokens,
                 Logits which, float* logits);

  // As Forward, but for the token chosen from the logits behind the last. Where all layers run on a
  // device, the logits behind one token stay there.
  StatusOr<int32_t> NextToken(const ForwardContext& context, KvCache& cache,
                              std::span<const int32_t> tokens, const TokenChoice& choice);

  // Calls `consume` for consecutive blocks of positions [begin, begin + count) of this call
  // with their logits [count, vocab]: bounded memory for long windows. Only positions from
  // `first` on get logits. An error from `consume` ends the run like one of Forward's own.
  using LogitsConsumer = std::function<Status(uint64_t begin, uint64_t count, const float* logits)>;
  Status ForwardBlocks(const ForwardContext& context, KvCache& cache,
                       std::span<const int32_t> tokens, uint64_t first,
                       const LogitsConsumer& consume);

 private:
  Transformer(const ModelConfig& config, std::unique_ptr<Backend> backend);

  // Runs all layers over the tokens, a chunk at a time; `consume` may ask the back end for logits
  // behind positions [begin, begin + count) of this call.
  using ChunkConsumer = std::function<Status(uint64_t begin, uint64_t count)>;
  Status CheckTokens(const KvCache& cache, std::span<const int32_t> tokens) const;
  Status Run(const ForwardContext& context, KvCache& cache, std::span<const int32_t> tokens,
             const ChunkConsumer& consume);

  ModelConfig config_;
  uint64_t num_parameters_ = 0, file_bytes_ = 0;
  std::unique_ptr<Backend> backend_;
  std::vector<float> logits_;  // [rows, vocab]: of ForwardBlocks and NextToken
};

}  // namespace tq
