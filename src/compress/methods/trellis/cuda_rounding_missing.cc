// In builds without CUDA.
#include "compress/methods/trellis/rounding.h"

namespace tq {

StatusOr<std::shared_ptr<const RoundingDevice>> MakeCudaRounding(uint64_t) {
  return Unimplemented("--device cuda: this program was built without CUDA (cmake -DTQ_CUDA=ON)");
}

}  // namespace tq
