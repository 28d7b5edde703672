// Matrices that share their input, dense or packed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/packed_model.h"
#include "codec/dense_device.h"
#include "codec/packed_matmul.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// What a forward pass needs besides the weights.
struct ForwardContext {
  Executor* executor = nullptr;
  // For packed matrices; dense ones compute in float on both paths.
  MatmulPath path = MatmulPath::kFast;
};

// q,k,v / o / gate,up / down / head: y_i = x W_i^T for matrices with one input.
class LinearGroup {
 public:
  virtual ~LinearGroup() = default;
  virtual uint64_t in_features() const = 0;
  virtual size_t size() const = 0;
  virtual uint64_t out_features(size_t i) const = 0;
  // Bytes that one product reads: codes and scales, or floats.
  virtual uint64_t weight_bytes() const = 0;
  // x: float [n, in]; y[i]: float [n, out_i], row-major, not overlapping x. Fails where a device
  // does; on the processor it cannot.
  virtual Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                         std::span<float* const> y) = 0;
};

// From float32 tensors [out_i, in].
std::unique_ptr<LinearGroup> MakeDenseGroup(std::vector<Tensor> weights);
// The same in the memory of `device` (null: on the processor), where the products differ by
// rounding; `weights` are let go. `name` is for errors.
StatusOr<std::unique_ptr<LinearGroup>> MakeDenseGroup(std::string_view name,
                                                      std::vector<Tensor> weights,
                                                      const DenseDevice* device);
// From one tensor [out, in] of bfloat16: the bits of the same weights in float32.
std::unique_ptr<LinearGroup> MakeBFloat16Group(Tensor weights);

// From matrices of a packed model, all trellis-coded with one common input transform or all
// grouped; anything else is an error naming `name`. They stay where they are: `owner` keeps
// them alive. `rotated` may be shared by all groups of a model, which run one at a time.
StatusOr<std::unique_ptr<LinearGroup>> MakeStoredGroup(std::string_view name,
                                                       std::vector<const StoredMatrix*> matrices,
                                                       std::shared_ptr<RotatedInput> rotated,
                                                       std::shared_ptr<const void> owner);

}  // namespace tq
