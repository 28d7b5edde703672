// Exact integer products of trellis-coded weights with few rows of x on a GPU. No CUDA types here:
// callers need no toolkit.
//
//   sums[b][row] += sum over columns of (u-combination of the weight) * a[b][column]
//
// which are the sums of trellis_matmul.h for many rows of x, also where there is one: y follows as
// there, with the same bits as on the CPU. Sums are of integers, so that their order, and how many
// blocks share a row, changes nothing: the result is deterministic although blocks add atomically.
#pragma once

#include <cstdint>

#include "kernels/cuda/trellis_units.h"

namespace tq::cuda {

// What the choice of a configuration needs to know of a device.
struct DeviceShape {
  int multiprocessors = 132;
  int shared_bytes = 228 << 10;  // per multiprocessor
};

struct GemvProblem {
  trellis::Code code;
  int n = 1;  // rows of x, at most kMaxGemvRows
  uint64_t units_down = 0, units_across = 0;
};

// How a product is cut. Every warp takes an equal run of units, whatever rows they are in.
struct GemvConfig {
  int blocks = 0;
  int shared_bytes = 0;  // per block
};
inline constexpr int kGemvWarps = 8;  // per block
// Units that a warp has under way, the one in hand among them: with 16 warps on a multiprocessor
// 48 KiB, which keeps memory busy (4.8 TB/s x 1 us / 132 are 36 KiB). Three at least, so that two
// are on their way while one is in hand.
constexpr int GemvStages(trellis::Code code) {
  const int stages = (48 << 10) / (16 * UnitBytes(code));
  return stages < 3 ? 3 : stages;
}

// Pure host code.
GemvConfig ChooseGemv(const GemvProblem& problem, const DeviceShape& device);

struct GemvArgs {
  const uint8_t* units = nullptr;        // trellis_units.h, 16-byte aligned
  const uint8_t* activations = nullptr;  // likewise
  // [n][sum_stride], of which rows [0, rows) of each are added to.
  int64_t* sums = nullptr;
  uint64_t rows = 0;  // beyond them lie rows of padding in the last units
  uint64_t sum_stride = 0;
};

// Starts the product on a stream (cudaStream_t). `after_previous` lets its start overlap the end of
// the kernel before (sm_90), which then must not write `units`. Returns a cudaError_t.
int LaunchGemv(const GemvProblem& problem, const GemvConfig& config, const GemvArgs& args,
               bool after_previous, void* stream);

}  // namespace tq::cuda
