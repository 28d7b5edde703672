// In builds without CUDA.
#include "device/without_cuda.h"
#include "model/backend.h"

namespace tq {

StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(std::shared_ptr<const PackedModel>,
                                                   const CudaOptions&) {
  return BuiltWithoutCuda();
}

uint64_t CudaProgramBytes() { return 0; }

}  // namespace tq
