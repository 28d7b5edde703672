// What runs of a packed model on a CUDA device share: its weights there, and what a run reports.
// Only in builds with TQ_CUDA.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
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
// Calls it for the input groups of all layers, not of the head.
template <typename Function>
void ForEachGroup(const CudaWeights& weights, const Function& function) {
  for (const CudaLayerWeights& layer : weights.layers) {
    for (const auto* group : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      function(**group);
    }
  }
}

// Members of `Buffers` that point to rows of floats in one allocation, one behind the other, and
// the floats of a row of each.
template <typename Buffers, size_t kParts>
using BufferParts = std::array<std::pair<float * Buffers::*, uint64_t>, kParts>;
template <typename Buffers, size_t kParts>
uint64_t FloatsOfRows(const BufferParts<Buffers, kParts>& parts, uint64_t rows) {
  uint64_t floats = 0;
  for (const auto& [member, size] : parts) floats += rows * size;
  return floats;
}
// Sets the members; returns the end.
template <typename Buffers, size_t kParts>
float* PlaceRows(const BufferParts<Buffers, kParts>& parts, uint64_t rows, float* at,
                 Buffers& buffers) {
  for (const auto& [member, size] : parts) {
    buffers.*member = at;
    at += rows * size;
  }
  return at;
}

}  // namespace tq
