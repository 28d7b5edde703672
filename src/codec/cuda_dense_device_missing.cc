// In builds without CUDA.
#include "codec/dense_device.h"

namespace tq {

StatusOr<std::shared_ptr<const DenseDevice>> MakeCudaDenseDevice() {
  return Unimplemented("--device cuda: this program was built without CUDA (cmake -DTQ_CUDA=ON)");
}

}  // namespace tq
