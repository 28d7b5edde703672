// The configuration of a product, chosen on the host.
#include <algorithm>

#include "base/checked.h"
#include "kernels/cuda/trellis_gemv.h"

namespace tq::cuda {
namespace {

constexpr int kMaxBlocksPerMultiprocessor = 2;
// A warp's start costs about as much as two units: a second block on every multiprocessor pays off
// while each warp has several (4096 x 4096 at 2 bits: 3.4 us with 4 units per warp and one
// block, 4.1 with 2 and two; H200, November 2026).
constexpr uint64_t kSeveralUnits = 4;
// What the system takes of a multiprocessor's shared memory per block.
constexpr int kReservedShared = 1 << 10;

}  // namespace

GemvConfig ChooseGemv(const GemvProblem& problem, const DeviceShape& device) {
  GemvConfig config;
  config.shared_bytes = kGemvWarps * GemvStages(problem.code) * UnitBytes(problem.code);
  const int resident = std::clamp(device.shared_bytes / (config.shared_bytes + kReservedShared), 1,
                                  kMaxBlocksPerMultiprocessor);
  // A block of the next product that starts beside two of this one would leave another
  // multiprocessor with one (14336 x 4096 at 2 bits: 10.1 us, without 8.1; H200, November 2026):
  // one shared byte more than a third of all keeps it out. Where units have more rows, registers
  // leave no room for a third block, and shared memory is better L1.
  if (UnitRows(problem.code) <= 32) {
    config.shared_bytes =
        std::max(config.shared_bytes, device.shared_bytes / (resident + 1) - kReservedShared + 1);
  }
  const uint64_t units = problem.units_down * problem.units_across;
  // As many on every multiprocessor.
  const auto one_each = static_cast<uint64_t>(device.multiprocessors);
  const uint64_t each =
      std::min(units / (kGemvWarps * kSeveralUnits * one_each), static_cast<uint64_t>(resident));
  config.blocks = static_cast<int>(
      each > 1 ? each * one_each : std::min(one_each, CeilDiv<uint64_t>(units, kGemvWarps)));
  return config;
}

}  // namespace tq::cuda
