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
  unsigned cluster = 1;  // thread blocks along x that share their shared memory (sm_90)
};

// Starts a kernel that begins with ptx::WaitForPreviousKernel while the one before may still run.
// Code for less than sm_90, compiled at load for a newer device too, has no such wait: it starts
// after.
template <typename... Params, typename... Args>
cudaError_t LaunchOverlapped(void (*kernel)(Params...), const LaunchShape& shape, Args... args) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute options[2] = {};
  unsigned num_options = 0;
  if (attributes.ptxVersion >= 90) {
    options[num_options].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    options[num_options++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    options[num_options].id = cudaLaunchAttributeClusterDimension;
    options[num_options++].val.clusterDim = {shape.cluster, 1, 1};
  }
  cudaLaunchConfig_t launch = {};
  launch.gridDim = shape.grid;
  launch.blockDim = dim3(shape.threads);
  launch.dynamicSmemBytes = shape.shared_bytes;
  launch.stream = shape.stream;
  launch.attrs = options;
  launch.numAttrs = num_options;
  return cudaLaunchKernelEx(&launch, kernel, Params(args)...);
}

}  // namespace tq::cuda
