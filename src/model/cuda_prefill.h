// Many positions at once through the layers of a packed model on a CUDA device: dense products in
// half precision (codec/cuda_matmul.h) and attention through tensor cores. Logits differ by that
// rounding from those of the kernels for few positions, and with the number of positions, as
// cuBLAS has several kernels; the same call gives the same bits. Only in builds with TQ_CUDA.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "device/cublas.h"
#include "kernels/cuda/transformer.h"
#include "model/backend.h"
#include "model/cuda_weights.h"
#include "model/kv_cache.h"

namespace tq {

class CudaPrefill {
 public:
  // Below, a token's kernels are as fast.
  static constexpr uint64_t kMinRows = 64;

  // For a model that is on the device as a whole. Takes up to half of `room`, bytes of the device's
  // memory. Null where prompts go another way: none is asked for, heads are not of 64 or 128
  // values, or, with a warning, cuBLAS or memory are missing.
  static StatusOr<std::unique_ptr<CudaPrefill>> Create(std::shared_ptr<CudaDevice> device,
                                                       const ModelConfig& config,
                                                       const CudaWeights& weights, uint64_t room,
                                                       const CudaOptions& options);

  uint64_t rows() const { return rows_; }  // positions at once, at most
  // In device memory, float [rows, hidden]: what Start reads and what it leaves.
  float* hidden() { return buffers_.hidden; }
  const float* normed() const { return buffers_.normed; }

  // The layers and the final norm for n rows at positions *base on. Lowers *first_bad to the half
  // layer after which a value is not finite, counted from the embedding.
  Status Start(KvCache& cache, uint64_t n, const uint32_t* base, uint32_t* first_bad);

 private:
  struct Buffers {
    float *hidden, *normed, *q, *k, *v, *attended, *gate, *up, *narrow, *cosines, *sines;
  };

  CudaPrefill(std::shared_ptr<CudaDevice> device, const ModelConfig& config,
              const CudaWeights& weights)
      : device_(std::move(device)), config_(config), weights_(weights) {}
  bool CanKeepRows() const;
  BufferParts<Buffers, 11> Parts() const;
  CudaDenseScratch::Sizes ScratchSizes(uint64_t rows, uint64_t weight_bytes) const;
  uint64_t NumBytes(uint64_t rows, uint64_t weight_bytes) const;
  Status Allocate(uint64_t rows, uint64_t weight_bytes);

  Status StartLayer(uint32_t index, KvCache& cache);
  // x += the output of `added` (none: null), its norm, and the products of `to` with that.
  Status StartNorm(const CudaMatmul* added, const float* weight, uint32_t place,
                   const CudaMatmul& to);
  Status StartAttention(uint32_t index, KvCache& cache);
  Status StartSilu(const CudaMatmul& gate_up, const CudaMatmul& to);
  // The products of `to` with x [n, cols], which is overwritten.
  Status StartFrom(float* x, const CudaMatmul& to);
  Status StartProducts(const CudaMatmul& to) {
    return to.StartDenseProducts(*device_, *blas_, scratch_, n_);
  }
  Status Finish(const CudaMatmul& from, size_t i, float* y);
  cuda::NormArgs Norm(const float* weight, uint32_t place) const;
  Status Check(int error, std::string_view what) const { return CudaDevice::Check(error, what); }

  std::shared_ptr<CudaDevice> device_;
  ModelConfig config_;
  const CudaWeights& weights_;
  std::unique_ptr<Cublas> blas_;
  bool keep_rows_ = false;  // between products, in registers (kernels/cuda/dense_steps.h)
  uint64_t rows_ = 0;
  CudaDenseScratch scratch_;
  DeviceMemory buffer_memory_;
  Buffers buffers_ = {};
  // Of the run in hand.
  uint64_t n_ = 0;
  const uint32_t* base_ = nullptr;
  uint32_t* first_bad_ = nullptr;
};

}  // namespace tq
