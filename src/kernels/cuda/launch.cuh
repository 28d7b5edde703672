// Starting kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace tq::cuda {

struct LaunchShape {
  dim3 grid;
  unsigned threads = 0;
  uint64_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// Starts a kernel that begins with ptx::WaitForPreviousKernel while the one before may still run.
// Code for less than sm_90, compiled at load for a newer device too, has no such wait: it starts
// after.
template <typename... Params, typename... Args>
cudaError_t LaunchOverlapped(void (*kernel)(Params...), const LaunchShape& shape, Args... args) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = shape.grid;
  launch.blockDim = dim3(shape.threads);
  launch.dynamicSmemBytes = shape.shared_bytes;
  launch.stream = shape.stream;
  launch.attrs = &overlap;
  launch.numAttrs = attributes.ptxVersion >= 90 ? 1 : 0;
  return cudaLaunchKernelEx(&launch, kernel, Params(args)...);
}

}  // namespace tq::cuda
