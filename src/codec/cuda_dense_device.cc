// Float32 matrices on a CUDA device, through cuBLAS and cuSOLVER. Everything runs on one stream in
// the order of the calls.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "codec/dense_device.h"
#include "device/cublas.h"
#include "device/cuda_device.h"
#include "device/cusolver.h"
#include "device/device_arena.h"

namespace tq {
namespace {

// Rows on their way, on the host (pinned, so that copies run at the bus's speed) and beside it on
// the device: inputs of a product and behind them its results. Room for the 264 positions that go
// through a layer at once in models whose MLP has up to 30,000 values.
constexpr uint64_t kStagingBytes = uint64_t{64} << 20;
// Values that a thread copies at once: more than a page, little beside the work of a product.
constexpr size_t kCopyGrain = size_t{1} << 14;

// What everything that a device made shares.
struct Context {
  std::shared_ptr<CudaDevice> device;
  std::unique_ptr<Cublas> blas;
  std::unique_ptr<Cusolver> solver;
  DeviceMemory host_staging, device_staging;  // kStagingBytes each

  // Copies that are under way end before their memory goes.
  ~Context() {
    if (device != nullptr) (void)device->Synchronize();
  }

  // Copies `count` floats, at most what the staging memory holds, by way of it. Waits until it is
  // free, not for the copy.
  Status UploadFloats(const float* from, uint64_t count, Executor& executor, float* to) const {
    TQ_CHECK(count * sizeof(float) <= kStagingBytes);
    TQ_RETURN_IF_ERROR(device->Synchronize());
    auto* staging = static_cast<float*>(host_staging.get());
    executor.ParallelFor(count, kCopyGrain, [&](size_t begin, size_t end, size_t) {
      std::copy(from + begin, from + end, staging + begin);
    });
    return device->Upload(staging, count * sizeof(float), to);
  }
};

class CudaWeights final : public DenseDevice::Weights {
 public:
  static StatusOr<std::unique_ptr<CudaWeights>> Create(std::shared_ptr<const Context> context,
                                                       std::span<const Tensor> matrices,
                                                       std::string_view what) {
    std::unique_ptr<CudaWeights> weights(new CudaWeights(std::move(context)));
    weights->in_ = matrices[0].shape()[1];
    for (const Tensor& matrix : matrices) {
      TQ_CHECK(matrix.dtype() == DType::kF32 && matrix.shape().size() == 2);
      TQ_CHECK(matrix.shape()[1] == weights->in_);
      weights->first_.push_back(weights->out_);
      weights->out_ += matrix.shape()[0];
    }
    weights->first_.push_back(weights->out_);
    if (weights->StagedRows() == 0) {
      return Unimplemented("{}: rows of {} inputs and {} outputs do not fit into {} bytes", what,
                           weights->in_, weights->out_, kStagingBytes);
    }
    const CudaDevice& device = *weights->context_->device;
    TQ_ASSIGN_OR_RETURN(weights->memory_,
                        device.Allocate(weights->out_ * weights->in_ * sizeof(float), what));
    auto* at = static_cast<uint8_t*>(weights->memory_.get());
    for (const Tensor& matrix : matrices) {
      TQ_RETURN_IF_ERROR(device.Upload(matrix.data(), matrix.num_bytes(), at));
      at += matrix.num_bytes();
    }
    TQ_RETURN_IF_ERROR(device.Synchronize());  // the matrices may go
    return weights;
  }

  Status Multiply(const float* x, uint64_t n, Executor& executor,
                  std::span<float* const> y) const override {
    TQ_CHECK(y.size() + 1 == first_.size());
    const uint64_t rows = StagedRows();
    for (uint64_t done = 0; done < n; done += rows) {
      TQ_RETURN_IF_ERROR(MultiplyRows(x, done, std::min(rows, n - done), executor, y));
    }
    return OkStatus();
  }

 private:
  explicit CudaWeights(std::shared_ptr<const Context> context) : context_(std::move(context)) {}

  // That fit into the staging memory with their results.
  uint64_t StagedRows() const {
    return (kStagingBytes - DeviceArena::kAlignment) / ((in_ + out_) * sizeof(float));
  }

  // Rows [begin, begin + count) of Multiply.
  Status MultiplyRows(const float* x, uint64_t begin, uint64_t count, Executor& executor,
                      std::span<float* const> y) const {
    const CudaDevice& device = *context_->device;
    const uint64_t y_offset = DeviceArena::Aligned(count * in_ * sizeof(float)) / sizeof(float);
    auto* x_device = static_cast<float*>(context_->device_staging.get());
    float* y_device = x_device + y_offset;
    float* y_host = static_cast<float*>(context_->host_staging.get()) + y_offset;
    TQ_RETURN_IF_ERROR(context_->UploadFloats(x + begin * in_, count * in_, executor, x_device));
    // The matrices below each other are one: a row of y has the results of all.
    Cublas::FloatProduct product;
    product.n = count, product.m = out_, product.k = in_;
    product.x = x_device, product.x_stride = in_;
    product.w = static_cast<const float*>(memory_.get()), product.w_stride = in_;
    product.y = y_device, product.y_stride = out_;
    TQ_RETURN_IF_ERROR(context_->blas->StartProduct(product));
    TQ_RETURN_IF_ERROR(device.Download(y_device, count * out_ * sizeof(float), y_host));
    TQ_RETURN_IF_ERROR(device.Synchronize());
    const size_t grain = std::max<size_t>(1, kCopyGrain / out_);
    executor.ParallelFor(count, grain, [&](size_t from, size_t to, size_t) {
      for (size_t row = from; row < to; ++row) {
        for (size_t i = 0; i < y.size(); ++i) {
          const uint64_t size = first_[i + 1] - first_[i];
          std::copy_n(y_host + row * out_ + first_[i], size, y[i] + (begin + row) * size);
        }
      }
    });
    return OkStatus();
  }

  std::shared_ptr<const Context> context_;
  uint64_t in_ = 0, out_ = 0;    // of all matrices together
  std::vector<uint64_t> first_;  // output of each matrix, and out_
  DeviceMemory memory_;          // float [out, in]
};

class CudaGram final : public DenseDevice::Gram {
 public:
  static StatusOr<std::unique_ptr<CudaGram>> Create(std::shared_ptr<const Context> context,
                                                    uint64_t features, std::string_view what) {
    if (features * sizeof(float) > kStagingBytes) {
      return Unimplemented("{}: rows of {} values do not fit into {} bytes", what, features,
                           kStagingBytes);
    }
    std::unique_ptr<CudaGram> gram(new CudaGram(std::move(context), features));
    const CudaDevice& device = *gram->context_->device;
    TQ_ASSIGN_OR_RETURN(gram->memory_, device.Allocate(DenseDevice::GramBytes(features), what));
    gram->sum_ = static_cast<float*>(gram->memory_.get());
    gram->rows_ = gram->sum_ + features * features;
    TQ_RETURN_IF_ERROR(device.Fill(gram->sum_, 0, features * features * sizeof(float)));
    return gram;
  }

  Status Add(const float* x, uint64_t n, Executor& executor) override {
    const uint64_t most =
        std::min(DenseDevice::kGramRows, kStagingBytes / (features_ * sizeof(float)));
    for (uint64_t done = 0; done < n;) {
      const uint64_t take = std::min({most, n - done, DenseDevice::kGramRows - gathered_});
      TQ_RETURN_IF_ERROR(context_->UploadFloats(x + done * features_, take * features_, executor,
                                                rows_ + gathered_ * features_));
      done += take;
      gathered_ += take;
      if (gathered_ == DenseDevice::kGramRows) TQ_RETURN_IF_ERROR(AddGathered());
    }
    return OkStatus();
  }

  Status Read(float* sum) override {
    TQ_RETURN_IF_ERROR(AddGathered());
    const CudaDevice& device = *context_->device;
    TQ_RETURN_IF_ERROR(device.Download(sum_, features_ * features_ * sizeof(float), sum));
    return device.Synchronize();
  }

 private:
  CudaGram(std::shared_ptr<const Context> context, uint64_t features)
      : context_(std::move(context)), features_(features) {}

  Status AddGathered() {
    if (gathered_ == 0) return OkStatus();
    const uint64_t n = std::exchange(gathered_, 0);
    return context_->blas->StartGram(rows_, n, features_, sum_);
  }

  std::shared_ptr<const Context> context_;
  uint64_t features_, gathered_ = 0;
  DeviceMemory memory_;
  float* sum_ = nullptr;   // [features, features]
  float* rows_ = nullptr;  // [kGramRows, features], of which `gathered_` wait to be added
};

class CudaDenseDevice final : public DenseDevice {
 public:
  explicit CudaDenseDevice(std::shared_ptr<const Context> context) : context_(std::move(context)) {}

  const std::string& name() const override { return context_->device->name(); }
  StatusOr<uint64_t> FreeBytes() const override { return context_->device->FreeBytes(); }

  StatusOr<std::unique_ptr<Weights>> Upload(std::span<const Tensor> matrices,
                                            std::string_view what) const override {
    TQ_ASSIGN_OR_RETURN(auto weights, CudaWeights::Create(context_, matrices, what));
    return std::unique_ptr<Weights>(std::move(weights));
  }

  StatusOr<std::unique_ptr<Gram>> NewGram(uint64_t features, std::string_view what) const override {
    TQ_ASSIGN_OR_RETURN(auto gram, CudaGram::Create(context_, features, what));
    return std::unique_ptr<Gram>(std::move(gram));
  }

  StatusOr<bool> FactorLower(uint64_t n, float* a, std::string_view what) const override {
    const CudaDevice& device = *context_->device;
    const uint64_t bytes = FactorBytes(n);
    TQ_ASSIGN_OR_RETURN(const DeviceMemory memory, device.Allocate(bytes, what));
    auto* matrix = static_cast<float*>(memory.get());
    TQ_RETURN_IF_ERROR(device.Upload(a, bytes, matrix));
    TQ_ASSIGN_OR_RETURN(const bool factored, context_->solver->FactorLower(device, n, matrix));
    if (!factored) return false;
    TQ_RETURN_IF_ERROR(device.Download(matrix, bytes, a));
    TQ_RETURN_IF_ERROR(device.Synchronize());
    return true;
  }

 private:
  std::shared_ptr<const Context> context_;
};

}  // namespace

StatusOr<std::shared_ptr<const DenseDevice>> MakeCudaDenseDevice() {
  auto context = std::make_shared<Context>();
  TQ_ASSIGN_OR_RETURN(context->device, CudaDevice::Open());
  const CudaDevice& device = *context->device;
  TQ_ASSIGN_OR_RETURN(context->blas, Cublas::Load(device));
  TQ_ASSIGN_OR_RETURN(context->solver, Cusolver::Load(device));
  constexpr std::string_view kWhat = "rows on their way to products";
  TQ_ASSIGN_OR_RETURN(context->host_staging, device.AllocateHost(kStagingBytes, kWhat));
  TQ_ASSIGN_OR_RETURN(context->device_staging, device.Allocate(kStagingBytes, kWhat));
  return std::shared_ptr<const DenseDevice>(std::make_shared<CudaDenseDevice>(std::move(context)));
}

}  // namespace tq
