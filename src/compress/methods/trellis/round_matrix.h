// Trellis codes for a rotated matrix: global scales by search, then every tile by the
// Viterbi algorithm with feedback through the Hessian.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "codec/packed_matrix.h"
#include "compress/hessian.h"
#include "compress/methods/trellis/rounding.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

struct RoundedMatrix {
  std::vector<Segment> segments;  // scales and offsets filled in
  Tensor codes;
  double loss = 0;  // tr(E H E^T) over all rows, E = W' - What'
  double norm = 0;  // tr(W' H W'^T)
};

// w: W', float [rows, cols]; becomes the error E. `factor`: null for plain rounding. `device`:
// where segments are rounded whose code it has; the others are on the processor.
StatusOr<RoundedMatrix> RoundMatrix(uint64_t rows, uint64_t cols,
                                    const std::vector<Segment>& segments,
                                    const HessianFactor* factor, float* w, Executor& executor,
                                    const RoundingDevice& device = ProcessorRounding());

}  // namespace tq
