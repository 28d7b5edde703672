#include <cuda_runtime.h>

#include "kernels/cuda/feedback.h"
#include "kernels/viterbi/target.h"

namespace tq::cuda {
namespace {

using trellis::Code;

constexpr uint32_t kThreads = kFeedbackColumns;
constexpr uint32_t kRowsTogether = 16;  // that a thread sums side by side; a tile has a multiple
constexpr uint32_t kMaxTileRows = 64, kMaxTileColumns = 32;

// Where a step's values are.
struct Place {
  int row, column;
};
__device__ __forceinline__ Place PlaceOf(const FeedbackArgs& args, uint32_t step) {
  const auto windows = static_cast<uint32_t>(args.shape.windows);
  const int lane = static_cast<int>(step / windows), window = static_cast<int>(step % windows);
  return {trellis::TileRow(args.code, lane, window), trellis::TileColumn(args.code, lane, window)};
}

// A tile of the column block: thread block `blockIdx.x`.
struct Tile {
  uint64_t first_row;   // of w
  uint32_t run, rows;   // rows that are there
  uint64_t first;       // column
  uint32_t columns;     // that are there
  uint32_t in_carried;  // first column of the block among those of `carried`

  __device__ __forceinline__ explicit Tile(const FeedbackArgs& args) {
    const auto tile_rows = static_cast<uint32_t>(args.shape.rows);
    const auto tile_columns = static_cast<uint32_t>(args.shape.columns);
    run = blockIdx.x / args.run_tiles;
    first_row = uint64_t{blockIdx.x} * tile_rows;
    rows = min(tile_rows, args.run_rows - blockIdx.x % args.run_tiles * tile_rows);
    first = uint64_t{args.block} * tile_columns;
    columns = static_cast<uint32_t>(min(uint64_t{tile_columns}, args.cols - first));
    in_carried = static_cast<uint32_t>(first % kFeedbackColumns);
  }
};

// W_ij + (G C_jj^-1)_ij. Products and sums round apart, as the processor's do.
__device__ __forceinline__ float TargetAt(const FeedbackArgs& args, const Tile& tile, int row,
                                          uint32_t column) {
  if (static_cast<uint32_t>(row) >= tile.rows || column >= tile.columns) return 0;
  float target = args.w[(tile.first_row + row) * args.cols + tile.first + column];
  if (args.factor == nullptr) return target;
  const float* g = args.carried + (tile.first_row + row) * kFeedbackColumns + tile.in_carried;
  for (uint32_t i = column; i < tile.columns; ++i) {
    const float product = __fmul_rn(g[i], args.inverse[i * args.shape.columns + column]);
    target = __fadd_rn(target, product);
  }
  return target;
}

template <int kValues>
__global__ void __launch_bounds__(kThreads)
    TargetsKernel(const __grid_constant__ FeedbackArgs args) {
  const Tile tile(args);
  const float inverse = __frcp_rn(args.scales[tile.run]);
  constexpr int kWords = viterbi::Words(kValues);
  const auto steps = static_cast<uint32_t>(args.shape.steps());
  int32_t* words = args.targets + uint64_t{blockIdx.x} * steps * kWords;
  for (uint32_t step = threadIdx.x; step < steps; step += kThreads) {
    const Place place = PlaceOf(args, step);
    float values[kValues];
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const float target = TargetAt(args, tile, place.row, place.column + v);
      values[v] = __fmul_rn(target, inverse);
    }
    int32_t quantized[kWords];
    viterbi::QuantizeTarget({kValues, args.code.bits, args.code.state_bits}, values, quantized);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[step * kWords + i] = quantized[i];
  }
}

// Word `word` of the stream of a path: the low k bits of its states, one after the other.
__device__ __forceinline__ uint16_t StreamWord(const FeedbackArgs& args, const uint16_t* states,
                                               uint32_t word) {
  const auto bits = static_cast<uint32_t>(args.code.bits);
  const uint32_t mask = (1u << bits) - 1;
  uint32_t step = 16 * word / bits;
  uint32_t stream = (states[step] & mask) >> (16 * word - step * bits);
  uint32_t filled = (step + 1) * bits - 16 * word;
  for (++step; filled < 16; ++step, filled += bits) stream |= (states[step] & mask) << filled;
  return static_cast<uint16_t>(stream);
}

__device__ __forceinline__ void StoreCodes(const FeedbackArgs& args, const uint16_t* states) {
  const auto across = (args.cols + args.shape.columns - 1) / args.shape.columns;
  const auto words = static_cast<uint32_t>(args.shape.words);
  uint8_t* codes =
      args.codes + (blockIdx.x * across + args.block) * static_cast<uint64_t>(args.shape.bytes());
  for (uint32_t word = threadIdx.x; word < trellis::kLanes * words; word += kThreads) {
    const uint32_t at = 64 * (word % words) + 2 * (word / words);
    *reinterpret_cast<uint16_t*>(codes + at) = StreamWord(args, states, word);
  }
}

// G += E_j C_j for the block and what is before it among the columns of `carried`: column
// threadIdx.x of all rows.
__device__ __forceinline__ void Carry(const FeedbackArgs& args, const Tile& tile,
                                      const float (*errors)[kMaxTileColumns]) {
  const uint64_t super = tile.first - tile.in_carried;
  if (threadIdx.x >= tile.in_carried + tile.columns) return;
#pragma unroll 1
  for (uint32_t row = 0; row < tile.rows; row += kRowsTogether) {
    float sums[kRowsTogether];
    float* g = args.carried + (tile.first_row + row) * kFeedbackColumns + threadIdx.x;
#pragma unroll
    for (uint32_t r = 0; r < kRowsTogether; ++r) sums[r] = g[r * kFeedbackColumns];
#pragma unroll 4
    for (uint32_t i = 0; i < tile.columns; ++i) {
      const float c = args.factor[(tile.first + i) * args.cols + super + threadIdx.x];
#pragma unroll
      for (uint32_t r = 0; r < kRowsTogether; ++r) {
        sums[r] = __fadd_rn(sums[r], __fmul_rn(errors[row + r][i], c));
      }
    }
#pragma unroll
    for (uint32_t r = 0; r < kRowsTogether; ++r) g[r * kFeedbackColumns] = sums[r];
  }
}

template <int kValues>
__global__ void __launch_bounds__(kThreads) ApplyKernel(const __grid_constant__ FeedbackArgs args) {
  __shared__ float errors[kMaxTileRows][kMaxTileColumns];
  const Tile tile(args);
  const float scale = args.scales[tile.run];
  const auto steps = static_cast<uint32_t>(args.shape.steps());
  const uint16_t* states = args.states + uint64_t{blockIdx.x} * steps;
#pragma unroll 1
  for (uint32_t step = threadIdx.x; step < steps; step += kThreads) {
    const Place place = PlaceOf(args, step);
    int values[4];
    trellis::DecodeState({kValues, args.code.bits, args.code.state_bits}, states[step], values);
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      const auto column = static_cast<uint32_t>(place.column + v);
      float error = 0;
      if (static_cast<uint32_t>(place.row) < tile.rows && column < tile.columns) {
        float* w = args.w + (tile.first_row + place.row) * args.cols + tile.first + column;
        error = __fsub_rn(*w, __fmul_rn(static_cast<float>(values[v]), scale));
        *w = error;
      }
      errors[place.row][column] = error;
    }
  }
  if (args.codes != nullptr) StoreCodes(args, states);
  __syncthreads();
  if (args.factor != nullptr) Carry(args, tile, errors);
  __syncthreads();
  if (threadIdx.x >= tile.rows) return;
  const uint64_t row = tile.first_row + threadIdx.x;
  const float* lost = args.factor == nullptr
                          ? errors[threadIdx.x]
                          : args.carried + row * kFeedbackColumns + tile.in_carried;
  double loss = 0;
  for (uint32_t j = 0; j < tile.columns; ++j) loss += static_cast<double>(lost[j]) * lost[j];
  args.losses[row] += loss;
}

__global__ void ClearAboveKernel(float* a, uint64_t n) {
  const uint64_t row = blockIdx.x;
  for (uint64_t j = row + 1 + threadIdx.x; j < n; j += blockDim.x) a[row * n + j] = 0;
}

__global__ void __launch_bounds__(kThreads)
    AddSquaresKernel(const float* a, uint64_t cols, uint64_t stride, double* sums) {
  __shared__ double parts[kThreads / 32];
  const float* row = a + blockIdx.x * stride;
  double sum = 0;
  for (uint64_t j = threadIdx.x; j < cols; j += kThreads) {
    sum += static_cast<double>(row[j]) * row[j];
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) sums[blockIdx.x] += (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

bool IsValid(const FeedbackArgs& args) {
  return args.runs > 0 && args.run_tiles > 0 && args.run_rows > 0 &&
         args.run_rows <= uint64_t{args.run_tiles} * args.shape.rows &&
         args.shape.rows % kRowsTogether == 0 &&
         static_cast<uint32_t>(args.shape.rows) <= kMaxTileRows &&
         static_cast<uint32_t>(args.shape.columns) <= kMaxTileColumns &&
         uint64_t{args.block} * args.shape.columns < args.cols;
}

}  // namespace

int LaunchFeedbackTargets(const FeedbackArgs& args, void* stream) {
  if (!IsValid(args)) return cudaErrorInvalidValue;
  const auto kernel = args.code.values == 1   ? TargetsKernel<1>
                      : args.code.values == 2 ? TargetsKernel<2>
                                              : TargetsKernel<4>;
  kernel<<<args.tiles(), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

int LaunchFeedbackApply(const FeedbackArgs& args, void* stream) {
  if (!IsValid(args)) return cudaErrorInvalidValue;
  const auto kernel = args.code.values == 1   ? ApplyKernel<1>
                      : args.code.values == 2 ? ApplyKernel<2>
                                              : ApplyKernel<4>;
  kernel<<<args.tiles(), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

int LaunchClearAbove(float* a, uint64_t n, void* stream) {
  if (n < 1 || n > INT32_MAX) return cudaErrorInvalidValue;
  ClearAboveKernel<<<static_cast<unsigned>(n), 256, 0, static_cast<cudaStream_t>(stream)>>>(a, n);
  return cudaGetLastError();
}

int LaunchAddSquares(const float* a, uint64_t rows, uint64_t cols, uint64_t stride, double* sums,
                     void* stream) {
  if (rows < 1 || rows > INT32_MAX) return cudaErrorInvalidValue;
  AddSquaresKernel<<<static_cast<unsigned>(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      a, cols, stride, sums);
  return cudaGetLastError();
}

}  // namespace tq::cuda
