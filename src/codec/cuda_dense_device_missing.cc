// In builds without CUDA.
#include "codec/dense_device.h"
#include "device/without_cuda.h"

namespace tq {

StatusOr<std::shared_ptr<const DenseDevice>> MakeCudaDenseDevice() { return BuiltWithoutCuda(); }

}  // namespace tq
