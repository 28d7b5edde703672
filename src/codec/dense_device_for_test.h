// A DenseDevice that is the processor, with as much memory as a test says: what uses a device is
// tested without one.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "codec/dense_device.h"
#include "codec/dense_matmul.h"

namespace tq {

class DenseDeviceForTest final : public DenseDevice {
 public:
  explicit DenseDeviceForTest(uint64_t total_bytes)
      : used_(std::make_shared<uint64_t>(0)), total_(total_bytes) {}

  const std::string& name() const override { return name_; }
  StatusOr<uint64_t> FreeBytes() const override { return total_ - *used_; }
  // Of weights that were ever copied here.
  uint64_t uploaded_bytes() const { return uploaded_; }

  StatusOr<std::unique_ptr<Weights>> Upload(std::span<const Tensor> matrices,
                                            std::string_view what) const override {
    uint64_t bytes = 0;
    for (const Tensor& matrix : matrices) bytes += matrix.num_bytes();
    TQ_ASSIGN_OR_RETURN(auto memory, Take(bytes, what));
    uploaded_ += bytes;
    auto weights = std::make_unique<HostWeights>();
    weights->matrices.assign(matrices.begin(), matrices.end());
    weights->memory = std::move(memory);
    return std::unique_ptr<Weights>(std::move(weights));
  }

  StatusOr<std::unique_ptr<Gram>> NewGram(uint64_t features, std::string_view what) const override {
    TQ_ASSIGN_OR_RETURN(auto memory, Take(GramBytes(features), what));
    auto gram = std::make_unique<HostGram>();
    gram->features = features;
    gram->sum.resize(features * features);
    gram->memory = std::move(memory);
    return std::unique_ptr<Gram>(std::move(gram));
  }

  // In float and without a look at how small a pivot is, as cuSOLVER does it.
  StatusOr<bool> FactorLower(uint64_t n, float* a, std::string_view what) const override {
    TQ_ASSIGN_OR_RETURN(const auto memory, Take(FactorBytes(n), what));
    std::vector<float> c(a, a + n * n);
    for (uint64_t j = 0; j < n; ++j) {
      for (uint64_t i = j; i < n; ++i) {
        float sum = c[i * n + j];
        for (uint64_t k = 0; k < j; ++k) sum -= c[i * n + k] * c[j * n + k];
        if (i == j && !(sum > 0)) return false;
        c[i * n + j] = i == j ? std::sqrt(sum) : sum / c[j * n + j];
      }
    }
    std::copy(c.begin(), c.end(), a);
    return true;
  }

 private:
  // Given back when the last owner goes.
  using Memory = std::shared_ptr<void>;

  struct HostWeights final : Weights {
    Status Multiply(const float* x, uint64_t n, Executor& executor,
                    std::span<float* const> y) const override {
      for (size_t i = 0; i < matrices.size(); ++i) {
        const Shape& shape = matrices[i].shape();
        DenseMatmul(x, n, shape[1], matrices[i].as<float>(), shape[0], executor, y[i]);
      }
      return OkStatus();
    }
    std::vector<Tensor> matrices;
    Memory memory;
  };

  struct HostGram final : Gram {
    Status Add(const float* x, uint64_t n, Executor& executor) override {
      AccumulateHessian(x, n, features, executor, sum.data());
      return OkStatus();
    }
    Status Read(float* out) override {
      std::copy(sum.begin(), sum.end(), out);
      return OkStatus();
    }
    uint64_t features = 0;
    std::vector<float> sum;
    Memory memory;
  };

  StatusOr<Memory> Take(uint64_t bytes, std::string_view what) const {
    if (bytes > total_ - *used_) {
      return ResourceExhausted("{}: {} takes {} bytes, {} are free", name_, what, bytes,
                               total_ - *used_);
    }
    *used_ += bytes;
    return Memory(used_.get(), [used = used_, bytes](void*) { *used -= bytes; });
  }

  std::string name_ = "a device of tests";
  std::shared_ptr<uint64_t> used_;
  uint64_t total_;
  mutable uint64_t uploaded_ = 0;
};

}  // namespace tq
