// The kernel: lane i of a warp is lane i of the code, its hashes are its registers of the A operand
// of mma.m16n8k32 (trellis_code.h), and the tensor core adds up the bytes.
#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/lane_codes.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/trellis_gemv.h"
#include "kernels/trellis_matmul/constants.h"

namespace tq::cuda {
namespace {

using trellis::Code;

struct Params {
  const uint8_t* units;
  const uint8_t* activations;
  unsigned long long* sums;
  uint64_t rows, sum_stride;
  uint32_t units_across;
  uint32_t units_per_warp, warps_with_one_more;  // the first ones
  int n;
};

// A lane's activations of a unit: kSlots bytes per tile.
template <Code C>
struct LaneActivations {
  static constexpr int kSlots = SlotsPerTile(C);
  static constexpr int kVectors = kUnitTiles * kSlots / 16;
  uint4 bytes[kVectors];

  // `present`: lanes whose column of B holds no digit multiply by 0.
  __device__ __forceinline__ void Load(const uint8_t* from, bool present) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      bytes[i] = present ? reinterpret_cast<const uint4*>(from)[i] : uint4{0, 0, 0, 0};
    }
  }
  template <int kIndex>
  __device__ __forceinline__ uint32_t Dword() const {
    return LaneCodes<C>::template Part<kIndex % 4>(bytes[kIndex / 4]);
  }
  // Register kHalf of B for fragment kAcross (V = 1: of two side by side) of tile kTile.
  template <int kTile, int kAcross, int kHalf>
  __device__ __forceinline__ uint32_t Register() const {
    if constexpr (C.values == 4) return Dword<2 * kTile + kHalf>();
    const uint32_t slots = Dword<kTile>();
    if constexpr (C.values == 2) return __byte_perm(slots, 0, kHalf == 0 ? 0x1010 : 0x3232);
    return __byte_perm(slots, 0, 0x1111 * (2 * kAcross + kHalf));
  }
};

// kPanels: mma operations that all rows of x need, four rows each.
template <Code C, int kPanels>
struct Gemv {
  static constexpr int kTileRows = UnitTileRows(C);
  static constexpr int kAcross = C.values == 1 ? 2 : 1;  // fragments side by side in a tile
  static constexpr int kTileFragments = trellis::ShapeOf(C).rows / 16;
  static constexpr int kFragments = kTileRows * kTileFragments;
  // What a lane's int32 may add up: a column adds at most four bytes of 255 (V = 1; fewer
  // otherwise) times 64.
  static constexpr uint32_t kMaxUnits = INT32_MAX / (1020u * 64u) / UnitColumns(C);
  using Codes = LaneCodes<C>[kTileRows];
  using Activations = LaneActivations<C>[kPanels];

  int32_t sums[kFragments][kPanels][4] = {};

  template <int kTile, int kAt, int kFragment, int... kWindow>
  __device__ __forceinline__ void AddFragment(const Codes& codes, const uint32_t (&b)[kPanels][2],
                                              std::integer_sequence<int, kWindow...>) {
    constexpr int kFirst = 4 * (kFragment % kTileFragments * kAcross + kAt);
    const LaneCodes<C>& lane_codes = codes[kFragment / kTileFragments];
    const uint32_t hashes[4] = {lane_codes.template State<kTile, kFirst + kWindow>() *
                                trellis::kMultiplier...};
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
      ptx::MmaU8S8(sums[kFragment][p], hashes, b[p][0], b[p][1]);
    }
  }
  template <int kTile, int kAt, int... kFragment>
  __device__ __forceinline__ void AddFragments(const Codes& codes, const Activations& activations,
                                               std::integer_sequence<int, kFragment...>) {
    uint32_t b[kPanels][2];
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
      b[p][0] = activations[p].template Register<kTile, kAt, 0>();
      b[p][1] = activations[p].template Register<kTile, kAt, 1>();
    }
    (AddFragment<kTile, kAt, kFragment>(codes, b, std::make_integer_sequence<int, 4>()), ...);
  }
  template <int... kTile>
  __device__ __forceinline__ void AddUnit(const Codes& codes, const Activations& activations,
                                          std::integer_sequence<int, kTile...>) {
    constexpr auto kAll = std::make_integer_sequence<int, kFragments>();
    if constexpr (kAcross == 1) {
      (AddFragments<kTile, 0>(codes, activations, kAll), ...);
    } else {
      ((AddFragments<kTile, 0>(codes, activations, kAll),
        AddFragments<kTile, 1>(codes, activations, kAll)),
       ...);
    }
  }

  // Adds the warp's share of rows to memory and begins the next.
  __device__ __forceinline__ void Flush(const Params& params, uint32_t unit_row, int lane) {
    const int g = lane / 4, c = lane % 4;
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int p = 0; p < kPanels; ++p) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int b = 4 * p + c;
          const uint64_t row = uint64_t{unit_row} * UnitRows(C) + 16 * f + 8 * half + g;
          const int64_t sum = int64_t{128} * sums[f][p][2 * half] + sums[f][p][2 * half + 1];
          if (b < params.n && row < params.rows) {
            atomicAdd(params.sums + b * params.sum_stride + row,
                      static_cast<unsigned long long>(sum));
          }
          sums[f][p][2 * half] = sums[f][p][2 * half + 1] = 0;
        }
      }
    }
  }
};

// The codes of a warp's run of units, fetched ahead into its part of shared memory.
template <Code C>
class Ring {
 public:
  __device__ __forceinline__ Ring(uint8_t* memory, const uint8_t* units, uint32_t count, int lane)
      : to_(memory + 16 * lane), from_(units + 16 * lane), left_(count) {
    for (int s = 0; s < kStages - 1; ++s) Fetch();
  }
  // Asks for one unit more, and loads the next that has come.
  __device__ __forceinline__ void Next(const uint8_t* memory, int lane,
                                       LaneCodes<C> (&codes)[UnitTileRows(C)]) {
    __syncwarp();  // all lanes have loaded the unit whose place is taken now
    Fetch();
    ptx::WaitCopies<kStages - 1>();
    __syncwarp();
#pragma unroll
    for (int i = 0; i < UnitTileRows(C); ++i) {
      codes[i].Load(memory + read_ + i * LaneCodes<C>::kWords * kChunkBytes, lane);
    }
    read_ = Advanced(read_);
  }

 private:
  static constexpr uint32_t kBytes = UnitBytes(C);
  static constexpr int kStages = GemvStages(C);

  __device__ __forceinline__ static uint32_t Advanced(uint32_t at) {
    return at + kBytes == kStages * kBytes ? 0 : at + kBytes;
  }
  __device__ __forceinline__ void Fetch() {
    if (left_ > 0) {
#pragma unroll
      for (uint32_t q = 0; q < kBytes; q += kChunkBytes) {
        ptx::CopyAsync16(to_ + write_ + q, from_ + q);
      }
      --left_;
    }
    from_ += kBytes;
    write_ = Advanced(write_);
    ptx::CommitCopies();
  }

  uint8_t* to_;
  const uint8_t* from_;
  uint32_t left_, write_ = 0, read_ = 0;
};

// The activations of all panels that a lane needs, unit by unit.
template <Code C, int kPanels>
class ActivationReader {
 public:
  __device__ __forceinline__ ActivationReader(const Params& params, uint32_t across, int lane)
      : digits_(2 * params.n - lane / 4), stride_(4 * 2 * params.n * kBytes) {
    first_ = params.activations + lane % 4 * (2 * params.n * kBytes) + lane / 4 * kBytes;
    at_ = first_ + uint64_t{across} * stride_;
  }
  __device__ __forceinline__ void Rewind() { at_ = first_; }
  __device__ __forceinline__ void Next(LaneActivations<C> (&activations)[kPanels]) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p) activations[p].Load(at_ + 8 * p * kBytes, 8 * p < digits_);
    at_ += stride_;
  }

 private:
  static constexpr int kBytes = kUnitTiles * SlotsPerTile(C);
  const uint8_t *first_, *at_;
  int digits_;
  uint32_t stride_;
};

// (nvcc 13 has no kernels with template parameters of class type.)
template <int kValues, int kBits, int kStateBits, int kPanels>
__global__ void __launch_bounds__(32 * kGemvWarps) GemvKernel(const Params params) {
  constexpr Code C = {kValues, kBits, kStateBits};
  // With many sums there are no registers for the activations of two units.
  constexpr bool kAhead = kPanels * UnitRows(C) <= 64;
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = threadIdx.x % 32;
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const uint32_t begin = warp * params.units_per_warp + min(warp, params.warps_with_one_more);
  uint32_t left = params.units_per_warp + (warp < params.warps_with_one_more ? 1 : 0);
  if (left == 0) return;
  uint8_t* memory = shared + threadIdx.x / 32 * (GemvStages(C) * UnitBytes(C));
  Ring<C> ring(memory, params.units + uint64_t{begin} * UnitBytes(C), left, lane);
  // Codes depend on no kernel before; the rest does.
  ptx::WaitForPreviousKernel();
  ptx::StartNextKernel();

  uint32_t unit_row = begin / params.units_across;
  uint32_t across = begin % params.units_across;
  Gemv<C, kPanels> gemv;
  ActivationReader<C, kPanels> reader(params, across, lane);
  LaneActivations<C> activations[kPanels], ahead[kPanels];
  if constexpr (kAhead) reader.Next(ahead);
  while (left > 0) {
    const uint32_t run = min(min(left, params.units_across - across), Gemv<C, kPanels>::kMaxUnits);
#pragma unroll(kAhead ? 2 : 1)
    for (uint32_t i = 0; i < run; ++i) {
      if constexpr (kAhead) {
#pragma unroll
        for (int p = 0; p < kPanels; ++p) activations[p] = ahead[p];
        if (across + i + 1 == params.units_across) reader.Rewind();
        reader.Next(ahead);
      } else {
        if (across + i == 0) reader.Rewind();
        reader.Next(activations);
      }
      LaneCodes<C> codes[UnitTileRows(C)];
      ring.Next(memory, lane, codes);
      gemv.AddUnit(codes, activations, std::make_integer_sequence<int, kUnitTiles>());
    }
    gemv.Flush(params, unit_row, lane);
    left -= run;
    across += run;
    if (across == params.units_across) across = 0, ++unit_row;
  }
}

template <Code C, int kPanels>
int Launch(const GemvConfig& config, const Params& params, bool after_previous,
           cudaStream_t stream) {
  const auto kernel = GemvKernel<C.values, C.bits, C.state_bits, kPanels>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           config.shared_bytes);
  if (error != cudaSuccess) return error;
  const LaunchShape shape{dim3(static_cast<unsigned>(config.blocks)), 32 * kGemvWarps,
                          static_cast<uint64_t>(config.shared_bytes), stream};
  if (after_previous) return LaunchOverlapped(kernel, shape, params);
  kernel<<<shape.grid, shape.threads, shape.shared_bytes, stream>>>(params);
  return cudaGetLastError();
}

using LaunchFn = int (*)(const GemvConfig&, const Params&, bool, cudaStream_t);

// By code and by panels less one; three are computed as four.
struct Launchers {
  LaunchFn fn[trellis::kNumMatmulCodes][4];
};
template <size_t... I>
constexpr Launchers MakeLaunchers(std::index_sequence<I...>) {
  return {{{Launch<trellis::kMatmulCodes[I], 1>, Launch<trellis::kMatmulCodes[I], 2>,
            Launch<trellis::kMatmulCodes[I], 4>, Launch<trellis::kMatmulCodes[I], 4>}...}};
}
constexpr Launchers kLaunchers =
    MakeLaunchers(std::make_index_sequence<trellis::kNumMatmulCodes>());

}  // namespace

int LaunchGemv(const GemvProblem& problem, const GemvConfig& config, const GemvArgs& args,
               bool after_previous, void* stream) {
  if (problem.n < 1 || problem.n > kMaxGemvRows || problem.units_across < 1 ||
      problem.units_down < 1 || problem.units_down > UINT32_MAX / problem.units_across ||
      config.blocks < 1 ||
      config.shared_bytes < kGemvWarps * GemvStages(problem.code) * UnitBytes(problem.code)) {
    return cudaErrorInvalidValue;
  }
  const uint64_t units = problem.units_down * problem.units_across;
  const auto warps = static_cast<uint64_t>(config.blocks) * kGemvWarps;
  Params params = {};
  params.units = args.units;
  params.activations = args.activations;
  params.sums = reinterpret_cast<unsigned long long*>(args.sums);
  params.rows = args.rows;
  params.sum_stride = args.sum_stride;
  params.units_per_warp = static_cast<uint32_t>(units / warps);
  params.warps_with_one_more = static_cast<uint32_t>(units % warps);
  params.units_across = static_cast<uint32_t>(problem.units_across);
  params.n = problem.n;
  const int panels = (problem.n + 3) / 4;
  for (size_t i = 0; i < trellis::kNumMatmulCodes; ++i) {
    if (trellis::kMatmulCodes[i] == problem.code) {
      return kLaunchers.fn[i][panels - 1](config, params, after_previous,
                                          static_cast<cudaStream_t>(stream));
    }
  }
  return cudaErrorInvalidValue;
}

}  // namespace tq::cuda
