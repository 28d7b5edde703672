// From floats to the integer activations of a product on a GPU, and back from its sums; the same
// bits as the CPU's for many rows of x (kernels/hadamard, kernels/trellis_matmul/activations.h). No
// CUDA types here.
#pragma once

#include <cstdint>

#include "kernels/cuda/trellis_units.h"

namespace tq::cuda {

// A block Hadamard transform (kernels/hadamard/hadamard.h): blocks of m << log2 values, in place.
struct HadamardShape {
  int m = 1;  // 1, 12, 20, 28 or 36
  int log2 = 0;
  const float* matrix = nullptr;  // [m][m] in device memory, row-major; unused for m = 1
  float scale = 1;
};

// x' = H (si * x) as integers for the codes of one V.
struct PrepareArgs {
  const float* x = nullptr;            // [n][cols]
  uint64_t n = 0, cols = 0;            // cols a multiple of the Hadamard block and of V
  const uint16_t* in_scale = nullptr;  // si [cols], IEEE binary16
  HadamardShape hadamard;
  int values = 2;                  // V
  float* scratch = nullptr;        // PrepareScratchFloats
  uint8_t* activations = nullptr;  // ActivationBytes of a code of this V, 16-byte aligned
  // [n]: what an integer is worth (NaN where x' is not finite), and the sum of the integers.
  float* scale = nullptr;
  int64_t* sum = nullptr;
};

uint64_t PrepareScratchFloats(uint64_t n, uint64_t cols);
// Starts it; a cudaError_t.
int LaunchPrepare(const PrepareArgs& args, void* stream);

// Rows [row_begin, next segment's) of a matrix, which share a code. Their sums lie together from
// sums_begin on, with those of padding behind them: sum_rows in all.
struct FinishSegment {
  uint64_t row_begin = 0;
  uint64_t sums_begin = 0, sum_rows = 0;
  int values = 2;  // V
  float weight_scale = 1;
  const float* scale = nullptr;  // [n], as prepared for V
  const int64_t* sum = nullptr;
};
inline constexpr int kMaxFinishSegments = 8;

struct FinishMatrix {
  uint64_t rows = 0;
  int num_segments = 0;
  FinishSegment segments[kMaxFinishSegments];
  const uint16_t* out_scale = nullptr;  // so [rows], IEEE binary16
  HadamardShape hadamard;               // of H^T; rows a multiple of its block
  float* y = nullptr;                   // [n][rows]
};
// q, k and v.
inline constexpr int kMaxFinishMatrices = 3;

// y = so * H^T y',  y'[row] = float((sum + bias) * (scale * weight_scale)) in double arithmetic
// with bias = -SumCentre(V) * (sum of the row's integers), for matrices that share their x. Sums
// become 0 for the next product, those of padding too.
struct FinishArgs {
  int64_t* sums = nullptr;  // [n][sum_stride]
  uint64_t n = 0, sum_stride = 0;
  int num_matrices = 0;
  FinishMatrix matrices[kMaxFinishMatrices];
};
// Starts it; a cudaError_t.
int LaunchFinish(const FinishArgs& args, void* stream);

}  // namespace tq::cuda
