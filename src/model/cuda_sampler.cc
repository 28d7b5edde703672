#include "model/cuda_sampler.h"

#include <algorithm>
#include <vector>

#include "model/sampler.h"

namespace tq {

StatusOr<std::unique_ptr<CudaSampler>> CudaSampler::Create(std::shared_ptr<CudaDevice> device,
                                                           uint64_t vocab) {
  std::unique_ptr<CudaSampler> sampler(new CudaSampler(std::move(device)));
  const CudaDevice& on = *sampler->device_;
  const auto place = [](void* memory, Choice& choice) {
    choice.params = static_cast<cuda::SamplingParams*>(memory);
    choice.recent = reinterpret_cast<int32_t*>(choice.params + 1);
  };
  const uint64_t bytes = sizeof(cuda::SamplingParams) + vocab * sizeof(int32_t);
  TQ_ASSIGN_OR_RETURN(sampler->host_memory_, on.AllocateHost(bytes, "staging memory"));
  place(sampler->host_memory_.get(), sampler->host_);
  TQ_ASSIGN_OR_RETURN(sampler->memory_, on.Allocate(NumBytes(vocab), "sampling"));
  // The scratch first: it is of words of 8 bytes.
  const uint64_t scratch_bytes = cuda::SamplingScratchBytes(vocab);
  sampler->scratch_ = static_cast<uint8_t*>(sampler->memory_.get());
  place(sampler->scratch_ + scratch_bytes, sampler->on_device_);
  TQ_RETURN_IF_ERROR(on.Fill(sampler->scratch_, 0, scratch_bytes));
  return sampler;
}

StatusOr<CudaSampler::Steps> CudaSampler::Stage(const TokenChoice& choice) {
  Steps steps;
  steps.limit = choice.limit;
  if (choice.sampler == nullptr) return steps;
  const SamplerOptions& options = choice.sampler->options();
  SamplingStep step = choice.sampler->NextStep(choice.history);
  // Tokens that are left are different: there is room for all.
  std::erase_if(step.recent,
                [&](int32_t id) { return id < 0 || static_cast<uint32_t>(id) >= choice.limit; });
  steps.penalty = !step.recent.empty();
  steps.draw = options.temperature != 0;
  steps.top_k = steps.draw && options.top_k > 0 && options.top_k < choice.limit;
  steps.top_p = steps.draw && options.top_p < 1;

  cuda::SamplingParams& params = *host_.params;
  params.repetition_penalty = options.repetition_penalty;
  params.num_recent = static_cast<uint32_t>(step.recent.size());
  params.temperature = options.temperature;
  params.top_k = options.top_k;
  params.top_p = options.top_p;
  params.min_p = options.min_p;
  params.uniform = step.uniform;
  // Their number changes: not in recorded work.
  if (steps.penalty) {
    std::ranges::copy(step.recent, host_.recent);
    TQ_RETURN_IF_ERROR(
        device_->Upload(host_.recent, step.recent.size() * sizeof(int32_t), on_device_.recent));
  }
  return steps;
}

Status CudaSampler::Start(const Steps& steps, float* logits, cuda::ArgmaxResult* result) {
  void* stream = device_->stream();
  cuda::SamplingArgs args;
  args.logits = logits, args.n = steps.limit;
  args.top_k = steps.top_k, args.top_p = steps.top_p;
  args.params = on_device_.params, args.recent = on_device_.recent;
  args.scratch = scratch_, args.result = result;
  if (steps.penalty || steps.draw) {
    TQ_RETURN_IF_ERROR(
        device_->Upload(host_.params, sizeof(cuda::SamplingParams), on_device_.params));
  }
  if (steps.penalty) {
    TQ_RETURN_IF_ERROR(CudaDevice::Check(cuda::LaunchPenalise(args, stream), "a penalty"));
  }
  TQ_RETURN_IF_ERROR(CudaDevice::Check(cuda::LaunchArgmax(logits, steps.limit, result, stream),
                                       "choosing a token"));
  if (!steps.draw) return OkStatus();
  return CudaDevice::Check(cuda::LaunchDraw(args, stream), "drawing a token");
}

}  // namespace tq
