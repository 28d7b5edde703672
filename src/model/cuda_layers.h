// A packed model's layers and head, or the first of its layers, in the memory of a CUDA device, and
// the buffers that a chunk of positions needs there, and through CudaPrefill those of many. Work is
// started on the device's stream; nothing waits. Only in builds with TQ_CUDA.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "checkpoint/packed_model.h"
#include "device/cuda_device.h"
#include "kernels/cuda/transformer.h"
#include "model/backend.h"
#include "model/cuda_prefill.h"
#include "model/cuda_weights.h"
#include "model/kv_cache.h"
#include "model/packed_decoder.h"

namespace tq {

class CudaLayers {
 public:
  // Positions at once with the bits of one at a time. More go through CudaPrefill.
  static constexpr uint64_t kChunk = cuda::kMaxGemvRows;

  // As many of the first layers as fit. Errors: a group that is not trellis-coded, or shares no
  // input transform; not all layers fit, or with CudaOptions::memory_bytes not one;
  // CudaOptions::Fuse::kMust where steps cannot be fused.
  static StatusOr<std::unique_ptr<CudaLayers>> Load(std::shared_ptr<CudaDevice> device,
                                                    const PackedModel& model,
                                                    const PackedDecoder& decoder,
                                                    const CudaOptions& options);

  // Room for attention over `capacity` positions. Recorded work holds its address: whether that has
  // changed.
  StatusOr<bool> ReserveAttention(uint64_t capacity);

  uint32_t layers() const { return static_cast<uint32_t>(weights_.layers.size()); }
  // Whether the head is here too: then all layers are.
  bool has_head() const { return weights_.head != nullptr; }
  // Positions that Start takes, of `left`.
  uint64_t Chunk(uint64_t left) const {
    const bool many = prefill_ != nullptr && left >= CudaPrefill::kMinRows;
    return std::min(left, many ? prefill_->rows() : kChunk);
  }

  // In device memory: what Start reads for n positions (hidden [n, hidden], base), and what it (the
  // residual stream there too) and StartHead leave.
  float* hidden(uint64_t n) { return n > kChunk ? prefill_->hidden() : buffers_.hidden; }
  uint32_t* base() { return buffers_.base; }
  float* logits() { return buffers_.logits; }
  CudaOutcome* outcome() { return buffers_.outcome; }

  // The layers and, if they are all, the final norm for n rows, as Chunk says, at positions *base
  // on; attention looks at `blocks` blocks of positions, at least those that there are.
  Status Start(KvCache& cache, uint64_t n, uint32_t blocks);
  // Logits of rows [first, first + n) of the last Start, which had `rows`; n is at most kChunk.
  Status StartHead(uint64_t rows, uint64_t first, uint64_t n);
  // Bytes of weights that a token reads, but for its row of the embedding.
  uint64_t bytes_per_token() const { return bytes_per_token_; }

 private:
  struct Buffers {
    float *hidden, *normed, *q, *k, *v, *attended, *gate, *up, *narrow, *logits;
    float *cosines, *sines;
    uint32_t* base;
    CudaOutcome* outcome;
  };

  CudaLayers(std::shared_ptr<CudaDevice> device, const ModelConfig& config)
      : device_(std::move(device)), config_(config) {}
  // What fits: the decoder's first layers, the head too if all do, and the memory that is left.
  struct Fitting {
    uint32_t layers = 0;
    bool head = false;
    uint64_t room = 0;
  };
  StatusOr<Fitting> Plan(const PackedModel& model, const PackedDecoder& decoder,
                         const CudaOptions& options) const;
  BufferParts<Buffers, 12> Parts() const;
  uint64_t BufferFloats() const;
  uint64_t AttentionFloats(uint64_t positions) const;
  Status LoadWeights(const PackedDecoder& decoder, const Fitting& fitting);
  StatusOr<std::unique_ptr<CudaMatmul>> LoadGroup(const PackedGroup& group);
  Status LoadNorms(const PackedDecoder& decoder, const Fitting& fitting);
  Status AllocateBuffers();
  bool CanFuseAll() const;

  Status StartLayer(uint32_t index, KvCache& cache, uint64_t n, uint32_t blocks);
  Status StartFusedLayer(uint32_t index, KvCache& cache, uint64_t n, uint32_t blocks);
  // x += the output of `added` (none: null), its norm, and from that the input of `to`.
  Status StartFusedNorm(const CudaMatmul* added, const float* weight, uint32_t place, uint64_t n,
                        const CudaMatmul& to);
  Status FinishLast(uint64_t n);
  // x += added, then its norm into normed; `place` counts half layers.
  Status StartNorm(const float* added, const float* weight, uint64_t n, uint32_t place);
  Status Run(const CudaMatmul& group, const float* x, uint64_t n, std::span<float* const> y) {
    return group.Run(*device_, scratch_, x, n, y);
  }
  Status Check(int error, std::string_view what) const { return CudaDevice::Check(error, what); }
  cuda::NormArgs Norm(const float* weight, uint64_t n, uint32_t place) const;
  cuda::RopeArgs Rope(uint32_t index, KvCache& cache, uint64_t n) const;
  cuda::AttentionArgs Attention(uint32_t index, KvCache& cache, uint64_t n, uint32_t blocks) const;

  std::shared_ptr<CudaDevice> device_;
  ModelConfig config_;
  bool fuse_ = false;
  CudaWeights weights_;
  DeviceMemory buffer_memory_, attention_scratch_;
  CudaMatmulScratch scratch_;
  CudaMatmulScratch::Sizes scratch_sizes_;
  Buffers buffers_ = {};
  std::unique_ptr<CudaPrefill> prefill_;  // null: prompts go through kChunk positions at a time
  uint64_t bytes_per_token_ = 0, attention_floats_ = 0;
};

}  // namespace tq
