// The Viterbi search (kernels/viterbi/viterbi.h) on a GPU: the same integer costs, so the same
// paths, bit for bit. No CUDA types here.
#pragma once

#include <cstdint>

#include "kernels/cuda/trellis_gemv.h"
#include "kernels/trellis/trellis_code.h"

namespace tq::cuda {

// Codes whose winners have at most 5 bits: those of 6 and 8 bits stay with the processor.
constexpr bool HasViterbi(trellis::Code code) { return code.bits <= 5; }

// How a search is cut: thread blocks take `together` tiles at a time, in turn.
struct ViterbiConfig {
  int together = 0;  // 0: the device has not enough shared memory
  int threads = 0;
  int blocks = 0;
  uint64_t shared_bytes = 0;
  uint64_t scratch_bytes = 0;  // of all blocks
};
// Pure host code. `block_shared_bytes`: what a thread block may have.
ViterbiConfig ChooseViterbi(trellis::Code code, int steps, uint64_t tiles,
                            const DeviceShape& device, uint64_t block_shared_bytes);

struct ViterbiArgs {
  trellis::Code code;
  int steps = 0;  // of the circle; at least 32
  int reach = 0;  // half the steps of the free search; at most steps / 2
  uint64_t tiles = 0;
  const int32_t* targets = nullptr;  // [tiles][steps][viterbi::Words]
  uint16_t* states = nullptr;        // [tiles][steps]: the result
  uint8_t* scratch = nullptr;        // ViterbiConfig::scratch_bytes, 16-byte aligned
};
// Starts it on a stream (cudaStream_t); a cudaError_t.
int LaunchViterbi(const ViterbiArgs& args, const ViterbiConfig& config, void* stream);

}  // namespace tq::cuda
