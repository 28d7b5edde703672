// Viterbi searches on a CUDA device. Lanes have a stream each, so that several threads keep it
// busy.
#include <algorithm>
#include <utility>

#include "codec/path_search.h"
#include "device/cuda_device.h"
#include "kernels/cuda/viterbi.h"
#include "kernels/viterbi/viterbi.h"

namespace tq {
namespace {

// Twelve for each of an H100's multiprocessors.
constexpr size_t kBatch = 1584;

// Device memory that grows.
class Growing {
 public:
  StatusOr<void*> AtLeast(const CudaDevice& device, uint64_t bytes, std::string_view what) {
    if (bytes > bytes_) {
      bytes_ = 0;
      memory_.reset();
      TQ_ASSIGN_OR_RETURN(memory_, device.Allocate(bytes, what));
      bytes_ = bytes;
    }
    return memory_.get();
  }

 private:
  DeviceMemory memory_;
  uint64_t bytes_ = 0;
};

class CudaLane final : public PathSearch::Lane {
 public:
  explicit CudaLane(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}

  Status FindPaths(trellis::Code code, int steps, int reach, const int32_t* targets, size_t tiles,
                   uint16_t* states) override {
    const cuda::DeviceShape shape{device_->multiprocessors(), device_->shared_bytes()};
    const cuda::ViterbiConfig config =
        cuda::ChooseViterbi(code, steps, tiles, shape, device_->block_shared_bytes());
    const uint64_t all_steps = tiles * static_cast<uint64_t>(steps);
    const uint64_t target_bytes =
        all_steps * static_cast<uint64_t>(viterbi::Words(code.values)) * sizeof(int32_t);
    const uint64_t state_bytes = all_steps * sizeof(uint16_t);
    cuda::ViterbiArgs args{code, steps, reach, tiles};
    TQ_ASSIGN_OR_RETURN(void* on_device,
                        targets_.AtLeast(*device_, target_bytes, "targets of a search"));
    args.targets = static_cast<const int32_t*>(on_device);
    TQ_RETURN_IF_ERROR(device_->Upload(targets, target_bytes, on_device));
    TQ_ASSIGN_OR_RETURN(on_device, states_.AtLeast(*device_, state_bytes, "paths of a search"));
    args.states = static_cast<uint16_t*>(on_device);
    TQ_ASSIGN_OR_RETURN(on_device, scratch_.AtLeast(*device_, config.scratch_bytes, "a search"));
    args.scratch = static_cast<uint8_t*>(on_device);
    TQ_RETURN_IF_ERROR(
        CudaDevice::Check(cuda::LaunchViterbi(args, config, device_->stream()), "a search"));
    TQ_RETURN_IF_ERROR(device_->Download(args.states, state_bytes, states));
    return device_->Synchronize();
  }

 private:
  std::shared_ptr<CudaDevice> device_;
  Growing targets_, states_, scratch_;
};

class CudaPathSearch final : public PathSearch {
 public:
  explicit CudaPathSearch(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}

  bool Has(trellis::Code code, int steps) const override {
    const cuda::DeviceShape shape{device_->multiprocessors(), device_->shared_bytes()};
    return cuda::ChooseViterbi(code, steps, kBatch, shape, device_->block_shared_bytes()).together >
           0;
  }
  StatusOr<std::unique_ptr<Lane>> NewLane() const override {
    TQ_ASSIGN_OR_RETURN(std::shared_ptr<CudaDevice> device, CudaDevice::Open());
    return std::unique_ptr<Lane>(std::make_unique<CudaLane>(std::move(device)));
  }
  size_t batch() const override { return kBatch; }

 private:
  std::shared_ptr<CudaDevice> device_;
};

}  // namespace

StatusOr<std::shared_ptr<const PathSearch>> MakeCudaPathSearch() {
  TQ_ASSIGN_OR_RETURN(std::shared_ptr<CudaDevice> device, CudaDevice::Open());
  return std::shared_ptr<const PathSearch>(std::make_shared<CudaPathSearch>(std::move(device)));
}

}  // namespace tq
