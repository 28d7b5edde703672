// Products with packed matrices, never unpacking them whole.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/packed_matrix.h"
#include "device/executor.h"

namespace tq {

// How products are computed. kFast: activations as int8 (one scale per row of x),
// integer sums, the same for any number of threads. kReference: float activations
// against decoded floats, plain code; slow, the twin of the fast path.
enum class MatmulPath { kFast, kReference };

// x' = Hin (si * x) for n rows, plus its int8 forms for the codes that its readers use.
// Reusable between calls: buffers grow and stay.
class RotatedInput {
 public:
  // x: float [n, cols], row-major. `codes`: the codes of all segments that will read it.
  void Prepare(const InputTransform& input, const float* x, uint64_t n, uint64_t cols,
               std::span<const trellis::Code> codes, MatmulPath path, Executor& executor);

  uint64_t n() const { return n_; }
  uint64_t cols() const { return cols_; }
  // (The matmul kernels' side of the contract is added by its implementation.)

 private:
  uint64_t n_ = 0, cols_ = 0;
  std::vector<float> rotated_;
};

// y [n, rows] = x W^T for the x prepared in `input` (so and Hout^T included).
// Scratch memory is bounded: at most about 4 MiB per thread, whatever the sizes.
void PackedMatmul(const PackedMatrix& matrix, const RotatedInput& input, MatmulPath path,
                  Executor& executor, float* y);

}  // namespace tq
