// In builds without CUDA.
#include "model/backend.h"

namespace tq {

StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(std::shared_ptr<const PackedModel>,
                                                   const CudaOptions&) {
  return Unimplemented("--device cuda: this program was built without CUDA (cmake -DTQ_CUDA=ON)");
}

}  // namespace tq
