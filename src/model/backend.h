// Where a model's layers run: the processor, or a CUDA device.
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

class Backend {
 public:
  virtual ~Backend() = default;

  // Positions that go through the layers at once, at most.
  virtual uint64_t chunk() const = 0;
  // A cache where the layers run.
  virtual StatusOr<KvCache> NewCache(uint64_t capacity) = 0;
  // Runs 1 to chunk() tokens of the vocabulary through all layers at positions cache.length() on,
  // for which there is room; the caller advances the cache. The residual stream behind them stays
  // here. Errors: values that are not finite (DataLoss naming the layer).
  virtual Status RunLayers(const ForwardContext& context, KvCache& cache,
                           std::span<const int32_t> tokens) = 0;
  // Logits [n, vocab] behind tokens [first, first + n) of the last RunLayers, the first of which is
  // at `position`. Errors: logits that are not finite.
  virtual Status Head(const ForwardContext& context, uint64_t first, uint64_t n, uint64_t position,
                      float* logits) = 0;
  // RunLayers for one token, and the lowest id among the first `limit` of those with the largest
  // logit behind it.
  virtual StatusOr<int32_t> NextToken(const ForwardContext& context, KvCache& cache, int32_t token,
                                      uint32_t limit) = 0;
  // What the layers run on, "cpu" or a device's name.
  virtual std::string device_name() const = 0;
  // Bytes of weights that a token reads.
  virtual uint64_t BytesPerToken() const = 0;
};

// Reads everything into float32; the source may go afterwards.
StatusOr<std::unique_ptr<Backend>> MakeFloatBackend(const ModelSource& source);
// Weights stay packed in the mapped files.
StatusOr<std::unique_ptr<Backend>> MakePackedBackend(std::shared_ptr<const PackedModel> model);
// Copies packed weights to the device. An error that says so in builds without TQ_CUDA.
struct CudaOptions {
  // Memory of the device for weights, activations and a cache of `positions` (0: as many as the
  // model was trained for). Layers that do not fit run on the processor, and the head with them. 0:
  // all that is free, and all layers must fit.
  uint64_t memory_bytes = 0, positions = 0;
  // Several steps in one kernel: the same bits in less time. kMust is an error where device or
  // model do not allow it.
  enum class Fuse { kNever, kWherePossible, kMust };
  Fuse fuse = Fuse::kWherePossible;
  // Positions of a prompt that go through the layers together; fewer where memory is short, and 0
  // for those that a token's kernels take.
  uint64_t prefill_rows = 2048;
  // Weights that are in half precision at once for them.
  uint64_t prefill_weight_bytes = uint64_t{256} << 20;
};
StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(std::shared_ptr<const PackedModel> model,
                                                   const CudaOptions& options = {});

// What NextToken picks from logits that Head has checked.
int32_t LikeliestToken(std::span<const float> logits);
// An error naming the first of logits [n, vocab] from `position` on that is not finite.
Status CheckLogits(const float* logits, uint64_t n, uint64_t vocab, uint64_t position);

}  // namespace tq
