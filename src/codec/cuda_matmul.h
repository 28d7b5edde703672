// Products with packed matrices on a CUDA device: the matrices of an input group, packed for the
// device. Against at most 16 rows of x codes are used as they are, and y has the bits of
// PackedMatmul's fast path for many rows of x, whatever the number of rows. Against more they are
// decoded to half precision first, a part at a time, for cuBLAS: weights are exact, x is rounded to
// 11 bits. Only in builds with TQ_CUDA.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/checked.h"
#include "base/status.h"
#include "codec/packed_matrix.h"
#include "device/cublas.h"
#include "device/cuda_device.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/dense_steps.h"
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

// The same for dense products of at most `rows` rows of x.
class CudaDenseScratch {
 public:
  struct Sizes {
    uint64_t rows = 0;         // of x
    uint64_t x_stride = 0;     // halves of a row of x
    uint64_t sums_stride = 0;  // halves of a row of outputs
    // Of what is decoded at once: CudaMatmul::kMinDenseRows rows of all groups at least.
    uint64_t weight_bytes = 0;
    uint64_t num_bytes() const;
  };
  static StatusOr<CudaDenseScratch> Create(const CudaDevice& device, const Sizes& sizes);

 private:
  friend class CudaMatmul;
  Sizes sizes_;
  DeviceMemory memory_;
  uint16_t *x_ = nullptr, *sums_ = nullptr, *weights_ = nullptr;
  float* scale_ = nullptr;
};

class CudaMatmul {
 public:
  // Copies the matrices, which share one input transform, to the device.
  static StatusOr<std::unique_ptr<CudaMatmul>> Create(
      const CudaDevice& device, std::span<const PackedMatrix* const> matrices);
  // Device memory that Create takes, and the scratch of what it would make.
  static uint64_t NumBytes(std::span<const PackedMatrix* const> matrices);
  static CudaMatmulScratch::Sizes ScratchSizes(std::span<const PackedMatrix* const> matrices);

  const CudaMatmulScratch::Sizes& scratch_sizes() const { return scratch_sizes_; }
  size_t size() const { return outputs_.size(); }

  // Starts y[i] = x W_i^T on the device's stream. x: float [n, cols], y[i]: float [n, its rows], in
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

  // Dense products: DenseInput is to be filled, StartDenseProducts makes the sums of DenseOutput.
  // n is at most the scratch's rows.
  static constexpr uint64_t kMinDenseRows = 512;  // of weights, decoded at once
  uint64_t dense_x_stride() const { return DenseStride(cols_); }
  uint64_t dense_sums_stride() const { return DenseStride(first_rows_.back()); }
  cuda::DenseInput DenseInput(const CudaDenseScratch& scratch) const;
  cuda::DenseOutput DenseOutput(const CudaDenseScratch& scratch, size_t i) const;
  Status StartDenseProducts(const CudaDevice& device, const Cublas& blas,
                            const CudaDenseScratch& scratch, uint64_t n) const;

 private:
  // Rows of halves begin at multiples of 128 bytes.
  static constexpr uint64_t DenseStride(uint64_t values) {
    return RoundUp<uint64_t>(values, 128 / sizeof(uint16_t));
  }
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
  // A segment's place among the rows of all matrices, for dense products.
  struct DensePart {
    size_t product;
    uint64_t unit_row;  // of the product
    uint64_t rows;
  };
  class Layout;

  DeviceMemory memory_;
  uint64_t cols_ = 0, sum_rows_ = 0;
  CudaMatmulScratch::Sizes scratch_sizes_;
  cuda::HadamardShape in_hadamard_;
  const uint16_t* in_scale_ = nullptr;
  std::vector<Product> products_;
  std::vector<Operand> operands_;
  // Segments' pointers are set when they run.
  std::vector<cuda::FinishMatrix> outputs_;
  std::vector<std::vector<size_t>> segment_operands_;
  std::vector<DensePart> dense_parts_;
  std::vector<uint64_t> first_rows_;  // of each matrix among all, and their end
};

}  // namespace tq
