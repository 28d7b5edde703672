// Rounding with feedback (compress/feedback.h) on a GPU: what stands around the Viterbi search of a
// column block, in the processor's arithmetic and order. No CUDA types here.
#pragma once

#include <cstdint>

#include "kernels/trellis/trellis_code.h"

namespace tq::cuda {

// Columns whose feedback from everything later is one matrix product.
inline constexpr uint32_t kFeedbackColumns = 128;

// Runs of rows, each in tiles of its own: row r of run i is row i * run_tiles * shape.rows + r of
// what follows, and rows past a run's end are there, unused.
struct FeedbackArgs {
  trellis::Code code;
  trellis::TileShape shape = {};
  uint32_t runs = 0, run_rows = 0, run_tiles = 0;
  uint64_t cols = 0;
  uint32_t block = 0;                // this column block: columns block * shape.columns on
  float* w = nullptr;                // [rows][cols]: targets; becomes their error, block by block
  const float* factor = nullptr;     // C [cols][cols], zeros above the diagonal; null: the identity
  const float* inverse = nullptr;    // C_jj^-1 of the block, [columns][columns]
  float* carried = nullptr;          // G of the block's kFeedbackColumns columns, [rows][them]
  const float* scales = nullptr;     // [runs]
  int32_t* targets = nullptr;        // of the search, [tiles][steps][viterbi::Words]
  const uint16_t* states = nullptr;  // its paths, [tiles][steps]
  uint8_t* codes = nullptr;          // [tiles][tiles across][shape.bytes()], or null
  double* losses = nullptr;          // [rows]: grow by what the block loses

  uint32_t tiles() const { return runs * run_tiles; }
};
// Each starts a kernel on a stream (cudaStream_t) and returns a cudaError_t.
// targets: what the block is to be rounded to.
int LaunchFeedbackTargets(const FeedbackArgs& args, void* stream);
// w, carried, codes and losses: what the paths give.
int LaunchFeedbackApply(const FeedbackArgs& args, void* stream);

// Zeros above the diagonal of a [n][n].
int LaunchClearAbove(float* a, uint64_t n, void* stream);
// sums [rows] grow by the squares of rows of a [rows][stride], `cols` of each.
int LaunchAddSquares(const float* a, uint64_t rows, uint64_t cols, uint64_t stride, double* sums,
                     void* stream);

}  // namespace tq::cuda
