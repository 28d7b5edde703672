// Matrices that share their input, dense or packed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "codec/packed_matmul.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// What a forward pass needs besides the weights.
struct ForwardContext {
  Executor* executor = nullptr;
  MatmulPath path = MatmulPath::kFast;
};

// q,k,v / o / gate,up / down / head: y_i = x W_i^T for matrices with one input.
class LinearGroup {
 public:
  virtual ~LinearGroup() = default;
  virtual uint64_t in_features() const = 0;
  virtual size_t size() const = 0;
  virtual uint64_t out_features(size_t i) const = 0;
  // x: float [n, in]; y[i]: float [n, out_i], row-major, not overlapping x.
  virtual void Forward(const ForwardContext& context, const float* x, uint64_t n,
                       std::span<float* const> y) = 0;
};

// From float32 tensors [out_i, in].
std::unique_ptr<LinearGroup> MakeDenseGroup(std::vector<Tensor> weights);

}  // namespace tq
