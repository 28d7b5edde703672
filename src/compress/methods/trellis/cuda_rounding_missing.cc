// In builds without CUDA.
#include "compress/methods/trellis/rounding.h"
#include "device/without_cuda.h"

namespace tq {

StatusOr<std::shared_ptr<const RoundingDevice>> MakeCudaRounding(uint64_t) {
  return BuiltWithoutCuda();
}

}  // namespace tq
