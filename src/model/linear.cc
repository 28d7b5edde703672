#include "model/linear.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "codec/dense_matmul.h"
#include "codec/grouped_matmul.h"

namespace tq {
namespace {

class DenseGroup final : public LinearGroup {
 public:
  explicit DenseGroup(std::vector<Tensor> weights) : weights_(std::move(weights)) {
    TQ_CHECK(!weights_.empty());
    for (const Tensor& w : weights_) {
      TQ_CHECK(w.dtype() == DType::kF32 && w.shape().size() == 2);
      TQ_CHECK(w.shape()[1] == weights_[0].shape()[1]);
    }
  }
  uint64_t in_features() const override { return weights_[0].shape()[1]; }
  size_t size() const override { return weights_.size(); }
  uint64_t out_features(size_t i) const override { return weights_[i].shape()[0]; }
  uint64_t weight_bytes() const override {
    uint64_t bytes = 0;
    for (const Tensor& w : weights_) bytes += w.num_bytes();
    return bytes;
  }
  Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                 std::span<float* const> y) override {
    for (size_t i = 0; i < weights_.size(); ++i) {
      DenseMatmul(x, n, in_features(), weights_[i].as<float>(), out_features(i), *context.executor,
                  y[i]);
    }
    return OkStatus();
  }

 private:
  std::vector<Tensor> weights_;
};

class BFloat16Group final : public LinearGroup {
 public:
  explicit BFloat16Group(Tensor weights) : weights_(std::move(weights)) {
    TQ_CHECK(weights_.dtype() == DType::kBF16 && weights_.shape().size() == 2);
  }
  uint64_t in_features() const override { return weights_.shape()[1]; }
  size_t size() const override { return 1; }
  uint64_t out_features(size_t) const override { return weights_.shape()[0]; }
  uint64_t weight_bytes() const override { return weights_.num_bytes(); }
  Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                 std::span<float* const> y) override {
    DenseMatmulBFloat16(x, n, in_features(), weights_.as<uint16_t>(), out_features(0),
                        *context.executor, y[0]);
    return OkStatus();
  }

 private:
  Tensor weights_;
};

class DeviceGroup final : public LinearGroup {
 public:
  DeviceGroup(std::span<const Tensor> weights, std::unique_ptr<DenseDevice::Weights> on_device)
      : in_(weights[0].shape()[1]), on_device_(std::move(on_device)) {
    for (const Tensor& w : weights) out_.push_back(w.shape()[0]);
  }
  uint64_t in_features() const override { return in_; }
  size_t size() const override { return out_.size(); }
  uint64_t out_features(size_t i) const override { return out_[i]; }
  uint64_t weight_bytes() const override {
    return sizeof(float) * in_ * std::accumulate(out_.begin(), out_.end(), uint64_t{0});
  }
  Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                 std::span<float* const> y) override {
    return on_device_->Multiply(x, n, *context.executor, y);
  }

 private:
  uint64_t in_;
  std::vector<uint64_t> out_;
  std::unique_ptr<DenseDevice::Weights> on_device_;
};

class TrellisGroup final : public LinearGroup {
 public:
  TrellisGroup(std::vector<const PackedMatrix*> matrices, std::shared_ptr<RotatedInput> rotated,
               std::shared_ptr<const void> owner)
      : matrices_(std::move(matrices)), rotated_(std::move(rotated)), owner_(std::move(owner)) {
    for (const PackedMatrix* m : matrices_) {
      for (const Segment& segment : m->segments) {
        if (std::find(codes_.begin(), codes_.end(), segment.code) == codes_.end()) {
          codes_.push_back(segment.code);
        }
      }
    }
  }
  uint64_t in_features() const override { return matrices_[0]->cols; }
  size_t size() const override { return matrices_.size(); }
  uint64_t out_features(size_t i) const override { return matrices_[i]->rows; }
  uint64_t weight_bytes() const override {
    uint64_t bytes = matrices_[0]->input->in_scale.num_bytes();
    for (const PackedMatrix* m : matrices_) bytes += m->num_bytes();
    return bytes;
  }
  Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                 std::span<float* const> y) override {
    rotated_->Prepare(*matrices_[0]->input, x, n, in_features(), codes_, context.path,
                      *context.executor);
    PackedMatmul(matrices_, *rotated_, context.path, *context.executor, y);
    return OkStatus();
  }

 private:
  std::vector<const PackedMatrix*> matrices_;
  std::vector<trellis::Code> codes_;
  std::shared_ptr<RotatedInput> rotated_;
  std::shared_ptr<const void> owner_;
};

class GroupedGroup final : public LinearGroup {
 public:
  GroupedGroup(std::vector<const GroupedMatrix*> matrices, std::shared_ptr<const void> owner)
      : matrices_(std::move(matrices)), owner_(std::move(owner)) {}
  uint64_t in_features() const override { return matrices_[0]->cols; }
  size_t size() const override { return matrices_.size(); }
  uint64_t out_features(size_t i) const override { return matrices_[i]->rows; }
  uint64_t weight_bytes() const override {
    uint64_t bytes = 0;
    for (const GroupedMatrix* m : matrices_) bytes += m->num_bytes();
    return bytes;
  }
  Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                 std::span<float* const> y) override {
    GroupedMatmul(matrices_, x, n, context.path, one_, *context.executor, y);
    return OkStatus();
  }

 private:
  std::vector<const GroupedMatrix*> matrices_;
  GroupedInput one_;  // a row
  std::shared_ptr<const void> owner_;
};

// The members as one type, all with the same number of columns; an error if they are mixed.
template <class Matrix>
StatusOr<std::vector<const Matrix*>> MembersOf(std::string_view name,
                                               std::span<const StoredMatrix* const> matrices) {
  std::vector<const Matrix*> members;
  for (const StoredMatrix* stored : matrices) {
    const Matrix* matrix = std::get_if<Matrix>(stored);
    if (matrix == nullptr) {
      return Unimplemented("{}: trellis-coded and grouped matrices in one input group", name);
    }
    if (!members.empty() && matrix->cols != members[0]->cols) {
      return InvalidArgument("{}: matrices of {} and of {} columns in one input group", name,
                             members[0]->cols, matrix->cols);
    }
    members.push_back(matrix);
  }
  return members;
}

}  // namespace

std::unique_ptr<LinearGroup> MakeDenseGroup(std::vector<Tensor> weights) {
  return std::make_unique<DenseGroup>(std::move(weights));
}

StatusOr<std::unique_ptr<LinearGroup>> MakeDenseGroup(std::string_view name,
                                                      std::vector<Tensor> weights,
                                                      const DenseDevice* device) {
  if (device == nullptr) return MakeDenseGroup(std::move(weights));
  TQ_ASSIGN_OR_RETURN(auto on_device, device->Upload(weights, name));
  return std::unique_ptr<LinearGroup>(std::make_unique<DeviceGroup>(weights, std::move(on_device)));
}

std::unique_ptr<LinearGroup> MakeBFloat16Group(Tensor weights) {
  return std::make_unique<BFloat16Group>(std::move(weights));
}

StatusOr<std::unique_ptr<LinearGroup>> MakeStoredGroup(std::string_view name,
                                                       std::vector<const StoredMatrix*> matrices,
                                                       std::shared_ptr<RotatedInput> rotated,
                                                       std::shared_ptr<const void> owner) {
  TQ_CHECK(!matrices.empty());
  if (std::holds_alternative<GroupedMatrix>(*matrices[0])) {
    TQ_ASSIGN_OR_RETURN(auto members, MembersOf<GroupedMatrix>(name, matrices));
    return std::unique_ptr<LinearGroup>(
        std::make_unique<GroupedGroup>(std::move(members), std::move(owner)));
  }
  TQ_ASSIGN_OR_RETURN(auto members, MembersOf<PackedMatrix>(name, matrices));
  for (const PackedMatrix* m : members) {
    if (m->input == nullptr || m->input != members[0]->input) {
      return InvalidArgument("{}: its matrices do not share one input transform", name);
    }
  }
  return std::unique_ptr<LinearGroup>(
      std::make_unique<TrellisGroup>(std::move(members), std::move(rotated), std::move(owner)));
}

}  // namespace tq
