// The error of what needs a CUDA device, in builds without TQ_CUDA.
#pragma once

#include "base/status.h"

namespace tq {

inline Status BuiltWithoutCuda() {
  return Unimplemented("--device cuda: this program was built without CUDA (cmake -DTQ_CUDA=ON)");
}

}  // namespace tq
