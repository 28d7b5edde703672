// The steps around products of many rows of x in half precision (dense_weights.h): what a product's
// x becomes before, and its outputs after. No CUDA types here: each Launch starts work on a stream
// (cudaStream_t) and returns a cudaError_t.
//
// x' = H (si * x) goes into a product divided by its root mean square over the row, so that sums of
// K columns stay below about K / 3 (K for the worst of weights), in half precision whatever x is.
// Rows whose squares overflow float count as not finite, those whose squares vanish as zeros.
//
// Pointers to floats are 16-byte aligned, or where any transform will do of floats.
#pragma once

#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/transformer.h"

namespace tq::cuda {

struct DenseInput {
  uint64_t cols = 0;
  uint64_t stride = 0;                 // of rows: at least cols; what is between becomes 0
  const uint16_t* in_scale = nullptr;  // si [cols], IEEE binary16
  HadamardShape hadamard;
  uint16_t* x = nullptr;  // x' / scale [n][stride], IEEE binary16
  // [n]: NaN where x' is not finite. May be the scale of the output that it is made from.
  float* scale = nullptr;
};

// Rows [row_begin, next segment's) of a matrix.
struct DenseSegment {
  uint64_t row_begin = 0;
  float weight_scale = 1;  // of the integers of the code
};
struct DenseOutput {
  uint64_t rows = 0;
  int num_segments = 0;
  DenseSegment segments[kMaxFinishSegments];
  const uint16_t* out_scale = nullptr;  // so [rows], IEEE binary16
  HadamardShape hadamard;               // of H^T
  const uint16_t* sums = nullptr;       // [n][stride] of this matrix, IEEE binary16
  uint64_t stride = 0;
  const float* scale = nullptr;  // [n], of the product's input
};

// Whether the kernels that keep a row in registers, all but those below that say otherwise, can
// make this input, take this output, turn heads of this size.
bool CanKeepRow(const DenseInput& input);
bool CanKeepRow(const DenseOutput& output);
bool CanKeepRope(uint32_t head_dim);

// x [n][cols] to a product's input. Of any transform; x may be overwritten.
int LaunchDensePrepare(float* x, uint64_t n, const DenseInput& to, void* stream);
// A product's output to y [n][rows]. Of any transform.
int LaunchDenseFinish(const DenseOutput& from, uint64_t n, float* y, void* stream);

// x += y of `added` (none if it has no segments), its norm, and from that a product's input.
struct DenseNormArgs {
  DenseOutput added;
  NormArgs norm;  // but for added and y
  DenseInput to;
};
int LaunchDenseNorm(const DenseNormArgs& args, void* stream);

// silu(y of gate) * y of up, and from that a product's input.
struct DenseSiluArgs {
  DenseOutput gate, up;
  uint64_t n = 0;
  DenseInput to;
};
int LaunchDenseSilu(const DenseSiluArgs& args, void* stream);

// y of queries, keys and values, turned and stored as LaunchRope does.
struct DenseRopeArgs {
  DenseOutput q, k, v;
  RopeArgs rope;  // but for keys and values
};
int LaunchDenseRope(const DenseRopeArgs& args, void* stream);

}  // namespace tq::cuda
