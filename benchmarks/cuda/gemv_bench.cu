// Speed of products with few rows of x on a GPU, per code: microseconds, billion weights a second
// and the bytes of the weights as a share of what a copy moves in the same run. Launches follow
// each other in a graph, over codes of which the caches hold a small part.
#include <cuda_runtime.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/trellis_gemv.h"
#include "kernels/trellis_matmul/constants.h"

namespace tq::cuda {
namespace {

struct Options {
  std::vector<std::pair<uint64_t, uint64_t>> shapes = {
      {8192, 28672}, {14336, 4096}, {5120, 5120}, {4096, 4096}};
  std::vector<uint64_t> batches = {1};
  int repeats = 9;
  int blocks = 0;  // per multiprocessor; 0: as chosen
  std::string json;
};
// Ten times the second-level cache.
constexpr uint64_t kPoolBytes = uint64_t{512} << 20;
constexpr uint64_t kMinLaunches = 8, kMaxLaunches = 512;
constexpr uint64_t kMaxSide = 131072;  // rows and columns

void Check(int error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(static_cast<cudaError_t>(error)));
  std::exit(1);
}

__global__ void Copy(const uint4* from, uint4* to, uint64_t n) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    to[i] = from[i];
  }
}
__device__ uint32_t Mixed(uint64_t i) {
  uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  return static_cast<uint32_t>(z >> 32);
}
__global__ void FillWords(uint32_t* words, uint64_t n) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    words[i] = Mixed(i);
  }
}
// Floats in [-1, 1), halves 1, sums of either sign.
__global__ void FillOperands(float* x, uint16_t* halves, int64_t* sums, uint64_t n) {
  const uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  x[i] = static_cast<float>(static_cast<int32_t>(Mixed(i))) * 0x1p-31f;
  sums[i] = static_cast<int32_t>(Mixed(i));
  if (i < kMaxSide) halves[i] = 0x3c00;
}

template <typename T>
T* Allocate(uint64_t n) {
  void* memory;
  Check(cudaMalloc(&memory, n * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(memory);
}

struct Pool {
  uint8_t* codes = Allocate<uint8_t>(2 * kPoolBytes);
  uint8_t* activations = Allocate<uint8_t>(2 * kMaxGemvRows * (kMaxSide + 256));
  uint8_t* prepared = Allocate<uint8_t>(2 * kMaxGemvRows * (kMaxSide + 256));
  int64_t* sums = Allocate<int64_t>(kMaxGemvRows * kMaxSide);
  float* x = Allocate<float>(kMaxGemvRows * kMaxSide);
  float* y = Allocate<float>(kMaxGemvRows * kMaxSide);
  float* scratch = Allocate<float>(PrepareScratchFloats(kMaxGemvRows, kMaxSide));
  uint16_t* halves = Allocate<uint16_t>(kMaxSide);
  float* scale = Allocate<float>(kMaxGemvRows);
  int64_t* sum_of_x = Allocate<int64_t>(kMaxGemvRows);

  Pool() {
    FillWords<<<1024, 256>>>(reinterpret_cast<uint32_t*>(codes), kPoolBytes / 2);
    FillWords<<<256, 256>>>(reinterpret_cast<uint32_t*>(activations), kMaxGemvRows * kMaxSide / 2);
    constexpr uint64_t kFloats = kMaxGemvRows * kMaxSide;
    FillOperands<<<kFloats / 256, 256>>>(x, halves, sums, kFloats);
    Check(cudaDeviceSynchronize(), "filling memory");
  }
};

class Bench {
 public:
  Bench(const Options& options, const cudaDeviceProp& properties)
      : options_(options),
        device_{properties.multiProcessorCount,
                static_cast<int>(properties.sharedMemPerMultiprocessor)} {
    Check(cudaStreamCreate(&stream_), "stream");
    Check(cudaEventCreate(&begin_), "event");
    Check(cudaEventCreate(&end_), "event");
    const double us = MedianUs(1, [&](uint64_t) {
      Copy<<<device_.multiprocessors * 8, 512, 0, stream_>>>(
          reinterpret_cast<const uint4*>(pool_.codes),
          reinterpret_cast<uint4*>(pool_.codes + kPoolBytes), kPoolBytes / 16);
      return static_cast<int>(cudaGetLastError());
    });
    copy_ = 2.0 * kPoolBytes / us / 1e3;
    std::printf("%s, %d multiprocessors; a copy moves %.0f GB/s\n", properties.name,
                device_.multiprocessors, copy_);
    report_ = {{"device", properties.name},
               {"copy_gb_per_s", copy_},
               {"products", nlohmann::json::array()}};
  }

  void RunCode(trellis::Code code, uint64_t rows, uint64_t cols, uint64_t n) {
    const auto tile = static_cast<uint64_t>(trellis::ShapeOf(code).rows);
    const uint64_t tile_rows = (rows + tile - 1) / tile;
    const GemvProblem problem{code, static_cast<int>(n), UnitsDown(code, tile_rows),
                              UnitsAcross(code, cols)};
    const uint64_t bytes = CodesBytes(code, tile_rows, cols);
    if (bytes > kPoolBytes) return;
    GemvConfig config = ChooseGemv(problem, device_);
    if (options_.blocks > 0) config.blocks = options_.blocks * device_.multiprocessors;
    const uint64_t copies = kPoolBytes / bytes;
    const double us = MedianUs(std::clamp(copies, kMinLaunches, kMaxLaunches), [&](uint64_t i) {
      const GemvArgs args{pool_.codes + i % copies * bytes, pool_.activations, pool_.sums, rows,
                          rows};
      return LaunchGemv(problem, config, args, true, stream_);
    });
    const double weights = static_cast<double>(rows * cols) / us / 1e3;
    const double share = 100 * static_cast<double>(bytes) / us / 1e3 / copy_;
    std::printf(
        "%6lu x %-6lu n=%-2lu V=%d k=%d %6.2f bits  %8.2f us  %8.0f Gweights/s  %5.1f %% of copy\n",
        rows, cols, n, code.values, code.bits, code.rate(), us, weights, share);
    report_["products"].push_back({{"rows", rows},
                                   {"cols", cols},
                                   {"n", n},
                                   {"values", code.values},
                                   {"bits", code.rate()},
                                   {"us", us},
                                   {"gweights_per_s", weights},
                                   {"percent_of_copy", share}});
  }

  // What stands around a product: integers of x before it, floats of its sums after it.
  void RunActivations(uint64_t rows, uint64_t cols, uint64_t n) {
    const auto rotation = [](uint64_t values) {
      int log2 = 0;
      while (log2 < 7 && values % (uint64_t{2} << log2) == 0) ++log2;
      return HadamardShape{1, log2, nullptr, 0.0883883461f};
    };
    PrepareArgs prepare;
    prepare.x = pool_.x, prepare.n = n, prepare.cols = cols, prepare.scratch = pool_.scratch;
    prepare.in_scale = pool_.halves, prepare.hadamard = rotation(cols);
    prepare.activations = pool_.prepared, prepare.scale = pool_.scale, prepare.sum = pool_.sum_of_x;
    const double before =
        MedianUs(kMinLaunches, [&](uint64_t) { return LaunchPrepare(prepare, stream_); });
    FinishArgs finish;
    finish.sums = pool_.sums, finish.n = n, finish.sum_stride = rows, finish.num_matrices = 1;
    FinishMatrix& matrix = finish.matrices[0];
    matrix.rows = rows, matrix.num_segments = 1;
    matrix.segments[0] = {0, 0, rows, 2, 0.1f, pool_.scale, pool_.sum_of_x};
    matrix.out_scale = pool_.halves, matrix.hadamard = rotation(rows), matrix.y = pool_.y;
    const double after =
        MedianUs(kMinLaunches, [&](uint64_t) { return LaunchFinish(finish, stream_); });
    std::printf("%6lu x %-6lu n=%-2lu prepare %.2f us, finish %.2f us\n", rows, cols, n, before,
                after);
    report_["around"].push_back(
        {{"rows", rows}, {"cols", cols}, {"n", n}, {"prepare_us", before}, {"finish_us", after}});
  }

  const nlohmann::json& report() const { return report_; }

 private:
  // Median microseconds of one of `launches` launches in a graph.
  double MedianUs(uint64_t launches, const std::function<int(uint64_t)>& launch) {
    cudaGraph_t graph;
    cudaGraphExec_t program;
    Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    for (uint64_t i = 0; i < launches; ++i) Check(launch(i), "launch");
    Check(cudaStreamEndCapture(stream_, &graph), "capture");
    Check(cudaGraphInstantiate(&program, graph, 0), "graph");
    std::vector<float> times;
    for (int i = 0; i < options_.repeats + 2; ++i) {
      Check(cudaEventRecord(begin_, stream_), "record");
      Check(cudaGraphLaunch(program, stream_), "launch");
      Check(cudaEventRecord(end_, stream_), "record");
      Check(cudaEventSynchronize(end_), "run");
      float ms;
      Check(cudaEventElapsedTime(&ms, begin_, end_), "time");
      if (i >= 2) times.push_back(ms);
    }
    Check(cudaGraphExecDestroy(program), "graph");
    Check(cudaGraphDestroy(graph), "graph");
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return 1e3 * static_cast<double>(*middle) / static_cast<double>(launches);
  }

  const Options& options_;
  DeviceShape device_;
  Pool pool_;
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
  double copy_;  // GB/s
  nlohmann::json report_;
};

int Main(const Options& options) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "no CUDA device");
  Bench bench(options, properties);
  for (const auto& [rows, cols] : options.shapes) {
    for (uint64_t n : options.batches) {
      for (trellis::Code code : trellis::kMatmulCodes) {
        if (code.state_bits == 16) bench.RunCode(code, rows, cols, n);
      }
      bench.RunActivations(rows, cols, n);
    }
  }
  if (!options.json.empty()) std::ofstream(options.json) << bench.report().dump(2) << '\n';
  return 0;
}

}  // namespace
}  // namespace tq::cuda

int main(int argc, char** argv) {
  CLI::App app("Speed of products with few rows of x on a GPU.");
  tq::cuda::Options options;
  app.add_option("--shape", options.shapes, "ROWS COLUMNS of the matrix")
      ->check(CLI::Range(uint64_t{64}, tq::cuda::kMaxSide));
  app.add_option("--batch", options.batches, "rows of x")
      ->check(CLI::Range(uint64_t{1}, uint64_t{tq::cuda::kMaxGemvRows}));
  app.add_option("--repeats", options.repeats, "runs, of which the median counts")
      ->check(CLI::Range(1, 1000));
  app.add_option("--blocks", options.blocks, "blocks per multiprocessor, 0: as chosen")
      ->check(CLI::Range(0, 8));
  app.add_option("--json", options.json, "file for the numbers");
  CLI11_PARSE(app, argc, argv);
  return tq::cuda::Main(options);
}
