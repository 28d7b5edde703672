// What runs of a packed model on a CUDA device share: its weights there, and what a run reports.
// Only in builds with TQ_CUDA.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "codec/cuda_matmul.h"
#include "device/cuda_device.h"
#include "kernels/cuda/argmax.h"

namespace tq {

// What a run reports; bytes 0xff before.
struct CudaOutcome {
  uint32_t first_bad;  // half layer after which a value is not finite, counted from the embedding
  uint32_t unused;
  cuda::ArgmaxResult next;
};

// Norms are float [hidden].
struct CudaLayerWeights {
  const float* attention_norm = nullptr;
  std::unique_ptr<CudaMatmul> qkv, o;
  const float* mlp_norm = nullptr;
  std::unique_ptr<CudaMatmul> gate_up, down;
};
struct CudaWeights {
  std::vector<CudaLayerWeights> layers;
  const float* norm = nullptr;
  std::unique_ptr<CudaMatmul> head;
  const double* frequencies = nullptr;  // of RoPE [head_dim / 2]
  DeviceMemory norm_memory, frequency_memory;
};

}  // namespace tq
