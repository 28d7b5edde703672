// Trellis codes for a rotated matrix: global scales by search, then every tile by the
// Viterbi algorithm with feedback through the Hessian.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "codec/packed_matrix.h"
#include "codec/path_search.h"
#include "compress/hessian.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

struct RoundedMatrix {
  std::vector<Segment> segments;  // scales and offsets filled in
  Tensor codes;
  double loss = 0;  // tr(E H E^T) over all rows, E = W' - What'
  double norm = 0;  // tr(W' H W'^T)
};

// w: W', float [rows, cols]; becomes the error E. `factor`: null for plain rounding. `search`:
// where paths are searched, with the same result; null: on the processor.
StatusOr<RoundedMatrix> RoundMatrix(uint64_t rows, uint64_t cols,
                                    const std::vector<Segment>& segments,
                                    const HessianFactor* factor, float* w, Executor& executor,
                                    std::shared_ptr<const PathSearch> search = nullptr);

}  // namespace tq
