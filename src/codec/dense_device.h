// Work with float32 matrices elsewhere than on the processor: products, sums of x x^T and Cholesky
// factors, those of codec/dense_matmul.h and compress/hessian.h but for rounding, and the same bits
// at every run on one device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// One thread at a time uses it and what it makes, which may outlive it. Memory of the device that
// is short is an error that says what it was for, what that takes and what is free.
class DenseDevice {
 public:
  // Matrices with one input, in the device's memory.
  class Weights {
   public:
    virtual ~Weights() = default;
    // y[i], float [n, out_i], = x w_i^T for x, float [n, in]; no y overlaps x.
    virtual Status Multiply(const float* x, uint64_t n, Executor& executor,
                            std::span<float* const> y) const = 0;
  };

  // The sum of x x^T over rows x of `features` values, in the device's memory. Rows are gathered
  // first, kGramRows at a time: the sum does not depend on how they came.
  class Gram {
   public:
    virtual ~Gram() = default;
    // Adds n rows, float [n, features].
    virtual Status Add(const float* x, uint64_t n, Executor& executor) = 0;
    // The sum so far, float [features, features]: its upper triangle (column >= row), zeros below.
    virtual Status Read(float* sum) = 0;
  };

  virtual ~DenseDevice() = default;
  virtual const std::string& name() const = 0;
  virtual StatusOr<uint64_t> FreeBytes() const = 0;

  // Of matrices, float [out_i, in]. `what` is named in errors.
  virtual StatusOr<std::unique_ptr<Weights>> Upload(std::span<const Tensor> matrices,
                                                    std::string_view what) const = 0;
  virtual StatusOr<std::unique_ptr<Gram>> NewGram(uint64_t features,
                                                  std::string_view what) const = 0;
  // a, float [n, n]: the lower triangle (column <= row) of a symmetric matrix becomes C of
  // a = C C^T, the upper one stays. False if a pivot is not positive: then a is as it was.
  virtual StatusOr<bool> FactorLower(uint64_t n, float* a, std::string_view what) const = 0;

  // Bytes of the device's memory that they take; a factor some more, which is cuSOLVER's to say.
  static constexpr uint64_t kGramRows = 1024;
  static constexpr uint64_t GramBytes(uint64_t features) {
    return sizeof(float) * features * (features + kGramRows);
  }
  static constexpr uint64_t FactorBytes(uint64_t n) { return sizeof(float) * n * n; }
};

// The first CUDA device. Errors: builds without TQ_CUDA and no device (they say so), and NotFound
// that names the library where cuBLAS or cuSOLVER is missing.
StatusOr<std::shared_ptr<const DenseDevice>> MakeCudaDenseDevice();

}  // namespace tq
