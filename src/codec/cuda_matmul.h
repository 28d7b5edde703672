// Products with packed matrices on a CUDA device: the matrices of an input group, packed for the
// device, against at most 16 rows of x. y has the bits of PackedMatmul's fast path for many rows
// of x, whatever the number of rows. Only in builds with TQ_CUDA.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "codec/packed_matrix.h"
#include "device/cuda_device.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/fused_steps.h"
#include "kernels/cuda/trellis_gemv.h"

namespace tq {

// Device memory that groups use while they run, one after the other.
class CudaMatmulScratch {
 public:
  struct Sizes {
    uint64_t floats = 0, activation_bytes = 0, sums = 0;
    uint64_t num_bytes() const;
    void Include(const Sizes& other) {
      floats = std::max(floats, other.floats);
      activation_bytes = std::max(activation_bytes, other.activation_bytes);
      sums = std::max(sums, other.sums);
    }
  };
  static StatusOr<CudaMatmulScratch> Create(const CudaDevice& device, const Sizes& sizes);

 private:
  friend class CudaMatmul;
  DeviceMemory memory_;
  float* floats_ = nullptr;
  uint8_t* activations_ = nullptr;
  int64_t* sums_ = nullptr;       // zero between products
  float* scales_ = nullptr;       // [V: 3][kMaxGemvRows]
  int64_t* sums_of_x_ = nullptr;  // likewise
};

class CudaMatmul {
 public:
  // Copies the matrices, which share one input transform, to the device.
  static StatusOr<std::unique_ptr<CudaMatmul>> Create(
      const CudaDevice& device, std::span<const PackedMatrix* const> matrices);
  // Device memory that Create takes, without making anything.
  static uint64_t NumBytes(std::span<const PackedMatrix* const> matrices);

  CudaMatmulScratch::Sizes scratch_sizes() const;
  uint64_t cols() const { return cols_; }
  size_t size() const { return outputs_.size(); }
  uint64_t rows(size_t i) const { return outputs_[i].rows; }

  // Starts y[i] = x W_i^T on the device's stream. x: float [n, cols], y[i]: float [n, rows(i)], in
  // device memory; 1 <= n <= kMaxGemvRows.
  Status Run(const CudaDevice& device, const CudaMatmulScratch& scratch, const float* x, uint64_t n,
             std::span<float* const> y) const;

  // The same in parts, for kernels that fuse what stands around the products: Input is to be
  // filled, StartProducts adds to Sums, and Output (but for its y) is to be finished.
  cuda::ProductInput Input(const CudaMatmulScratch& scratch) const;
  cuda::ProductSums Sums(const CudaMatmulScratch& scratch) const;
  cuda::FinishMatrix Output(const CudaMatmulScratch& scratch, size_t i) const;
  Status StartProducts(const CudaDevice& device, const CudaMatmulScratch& scratch,
                       uint64_t n) const;

 private:
  // All segments of the group with one code, as one matrix.
  struct Product {
    trellis::Code code;
    size_t operand = 0;  // of operands_
    uint64_t units_down = 0;
    uint64_t units_offset = 0;  // bytes into memory_
    uint64_t sums_begin = 0;    // rows of sums
  };
  // The integers of x for one V.
  struct Operand {
    int values = 0;
    uint64_t offset = 0;  // bytes of activations of kMaxGemvRows rows before it
  };
  class Layout;

  DeviceMemory memory_;
  uint64_t cols_ = 0, sum_rows_ = 0, activation_bytes_ = 0;
  cuda::HadamardShape in_hadamard_;
  const uint16_t* in_scale_ = nullptr;
  std::vector<Product> products_;
  std::vector<Operand> operands_;
  // Segments' pointers are set when they run.
  std::vector<cuda::FinishMatrix> outputs_;
  std::vector<std::vector<size_t>> segment_operands_;
};

}  // namespace tq
