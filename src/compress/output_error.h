// What an error of weights does to outputs.
#pragma once

#include <cstdint>

#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// tr(E H E^T) for e, float [rows, n], and h, float [n, n], symmetric: with H = E[x x^T] the mean of
// |E x|^2 over the inputs that H was summed of. The same for any number of threads.
double OutputError(const Tensor& h, const float* e, uint64_t rows, Executor& executor);

}  // namespace tq
