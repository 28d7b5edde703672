// Trellis codes as numbers in half precision, for products with so many rows of x that a dense
// product pays. No CUDA types here.
#pragma once

#include <cstdint>

#include "kernels/cuda/trellis_units.h"

namespace tq::cuda {

// What the integers of trellis::DecodeState, at most 510, are multiplied with: a power of two, so
// that all of them stay exact, below 1.
inline constexpr float kDenseUnit = 0x1p-9f;

struct DenseWeightsArgs {
  const uint8_t* units = nullptr;  // trellis_units.h, 16-byte aligned
  uint64_t units_down = 0, units_across = 0;
  // kDenseUnit * the weights' integers [rows][stride], 16-byte aligned; columns of a row from the
  // matrix' on are what codes of padding decode to.
  uint16_t* out = nullptr;
  uint64_t rows = 0;    // at most those of the units
  uint64_t stride = 0;  // a multiple of 8, at most the columns of the units
};
// Starts it on a stream (cudaStream_t); a cudaError_t.
int LaunchDenseWeights(trellis::Code code, const DenseWeightsArgs& args, void* stream);

}  // namespace tq::cuda
