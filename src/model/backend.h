// Where a model's layers run: the processor, a CUDA device, or the first of them there and the
// others on the processor.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "checkpoint/packed_model.h"
#include "model/kv_cache.h"
#include "model/linear.h"

namespace tq {

class Sampler;

// How a token is chosen from logits.
struct TokenChoice {
  uint32_t limit = 0;                     // among the first of the vocabulary, 1 to all of them
  Sampler* sampler = nullptr;             // null: the lowest id of those with the largest logit
  std::span<const int32_t> history = {};  // the sampler's: all tokens before the one chosen
};

class Backend {
 public:
  virtual ~Backend() = default;

  // How many of `left` positions (at least 1) should go through the layers at once: 1 to `left`.
  virtual uint64_t Chunk(uint64_t left) const = 0;
  // A cache where the layers run.
  virtual StatusOr<KvCache> NewCache(uint64_t capacity) = 0;
  // Runs 1 to Chunk(all of them) tokens of the vocabulary through all layers at positions
  // cache.length() on, for which there is room; the caller advances the cache. The residual stream
  // behind them stays here. Errors: values that are not finite (DataLoss naming the layer).
  virtual Status RunLayers(const ForwardContext& context, KvCache& cache,
                           std::span<const int32_t> tokens) = 0;
  // Logits [n, vocab] behind tokens [first, first + n) of the last RunLayers, the first of which is
  // at `position`. Errors: logits that are not finite.
  virtual Status Head(const ForwardContext& context, uint64_t first, uint64_t n, uint64_t position,
                      float* logits) = 0;
  // RunLayers for one token, and the choice of the next from the logits behind it.
  virtual StatusOr<int32_t> NextToken(const ForwardContext& context, KvCache& cache, int32_t token,
                                      const TokenChoice& choice) = 0;
  // What the layers run on, "cpu" or a device's name.
  virtual std::string device_name() const = 0;
  // Bytes of weights that a token reads.
  virtual uint64_t BytesPerToken() const = 0;
};

// Reads everything, packed matrices as such and all else into float32; the source may go
// afterwards.
StatusOr<std::unique_ptr<Backend>> MakeFloatBackend(const ModelSource& source);
// Weights stay packed in the mapped files.
StatusOr<std::unique_ptr<Backend>> MakePackedBackend(std::shared_ptr<const PackedModel> model);
struct CudaOptions {
  // Bytes of the device for weights, activations and a cache of `positions`. Layers that do not fit
  // run on the processor, and the head with them. 0: all that is free, and all layers must fit.
  uint64_t memory_bytes = 0;
  // Of the caches that will be made; 0, and at most: as many as the model was trained for.
  uint64_t positions = 0;
  // Several steps in one kernel: the same bits in less time. kMust is an error where device or
  // model do not allow it.
  enum class Fuse { kNever, kWherePossible, kMust };
  Fuse fuse = Fuse::kWherePossible;
  // Positions of a prompt that go through the layers together where all are on the device; fewer
  // where memory is short, and below 64 those that a token's kernels take.
  uint64_t prefill_rows = 2048;
  // Bytes of weights that are in half precision at once for them.
  uint64_t prefill_weight_bytes = uint64_t{256} << 20;
};
// Copies packed weights to the first device. Errors: a build without TQ_CUDA, no usable device,
// matrices that are not trellis-coded, too little memory (ResourceExhausted, with what it takes).
StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(std::shared_ptr<const PackedModel> model,
                                                   const CudaOptions& options = {});

// What the CUDA kernels add to the program in memory, used or not; 0 in builds without them.
uint64_t CudaProgramBytes();

// What NextToken picks from logits [vocab] that Head has checked.
StatusOr<int32_t> ChooseToken(std::span<const float> logits, const TokenChoice& choice);
// The lowest id of those with the largest logit.
int32_t LikeliestToken(std::span<const float> logits);
// An error naming the first of logits [n, vocab] from `position` on that is not finite.
Status CheckLogits(const float* logits, uint64_t n, uint64_t vocab, uint64_t position);

}  // namespace tq
