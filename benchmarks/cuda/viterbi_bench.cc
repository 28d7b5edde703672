// Speed of the Viterbi search on a GPU, per code, with the encoder's steps and reach.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/viterbi.h"
#include "kernels/viterbi/viterbi.h"

namespace tq::cuda {
namespace {

void Check(int error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(static_cast<cudaError_t>(error)));
  std::exit(1);
}
template <typename T>
T* Allocate(uint64_t n) {
  void* memory;
  Check(cudaMalloc(&memory, n * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(memory);
}

void Run(trellis::Code code, uint64_t tiles, const DeviceShape& shape, uint64_t shared) {
  const int steps = trellis::ShapeOf(code).steps();
  // As codec/trellis_encoder.cc.
  const int reach = std::min(steps / 2, (10 * code.state_bits + code.bits - 1) / code.bits);
  std::vector<int32_t> targets(tiles * static_cast<uint64_t>(steps * viterbi::Words(code.values)));
  Random random(1, "targets");
  for (size_t n = 0; n < tiles * static_cast<uint64_t>(steps); ++n) {
    float x[4];
    for (float& value : x) value = 140 * static_cast<float>(random.NextNormal());
    viterbi::QuantizeTarget(code, x, &targets[n * viterbi::Words(code.values)]);
  }
  const ViterbiConfig config = ChooseViterbi(code, steps, tiles, shape, shared);
  if (config.together == 0) return;
  auto* device_targets = Allocate<int32_t>(targets.size());
  Check(cudaMemcpy(device_targets, targets.data(), targets.size() * sizeof(int32_t),
                   cudaMemcpyHostToDevice),
        "copy");
  auto* states = Allocate<uint16_t>(tiles * static_cast<uint64_t>(steps));
  auto* scratch = Allocate<uint8_t>(config.scratch_bytes);
  const ViterbiArgs args{code, steps, reach, tiles, device_targets, states, scratch};
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < 4; ++i) {
    Check(cudaEventRecord(begin), "record");
    Check(LaunchViterbi(args, config, nullptr), "search");
    Check(cudaEventRecord(end), "record");
    Check(cudaEventSynchronize(end), "search");
    float ms;
    Check(cudaEventElapsedTime(&ms, begin, end), "time");
    if (i > 0) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  const double values = static_cast<double>(tiles) * trellis::ShapeOf(code).values();
  std::printf("V=%d k=%d L=%d %5.2f bits, %lu tiles, %d together: %8.2f Mvalues/s\n", code.values,
              code.bits, code.state_bits, code.rate(), tiles, config.together,
              values / times[1] / 1e3);
  Check(cudaFree(device_targets), "free");
  Check(cudaFree(states), "free");
  Check(cudaFree(scratch), "free");
}

}  // namespace
}  // namespace tq::cuda

int main() {
  using namespace tq;
  cudaDeviceProp properties;
  cuda::Check(cudaGetDeviceProperties(&properties, 0), "no CUDA device");
  const cuda::DeviceShape shape{properties.multiProcessorCount,
                                static_cast<int>(properties.sharedMemPerMultiprocessor)};
  std::printf("%s\n", properties.name);
  for (int state_bits : {16, 12}) {
    for (trellis::Code code : trellis::kSupportedCodes) {
      if (!cuda::HasViterbi(code)) continue;
      for (uint64_t tiles : {256, 1792}) {
        cuda::Run({code.values, code.bits, state_bits}, tiles, shape,
                  properties.sharedMemPerBlockOptin);
      }
    }
  }
}
