// In builds without CUDA.
#include "codec/path_search.h"

namespace tq {

StatusOr<std::shared_ptr<const PathSearch>> MakeCudaPathSearch() {
  return Unimplemented("--device cuda: this program was built without CUDA (cmake -DTQ_CUDA=ON)");
}

}  // namespace tq
