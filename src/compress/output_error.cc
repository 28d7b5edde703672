#include "compress/output_error.h"

#include <algorithm>
#include <vector>

#include "base/checked.h"
#include "kernels/gemm/gemm_f32.h"

namespace tq {

double OutputError(const Tensor& h, const float* e, uint64_t rows, Executor& executor) {
  // Fixed pieces, so that sums do not depend on the number of threads.
  constexpr uint64_t kRows = 64;
  const uint64_t n = h.shape()[0];
  std::vector<double> sums(CeilDiv(rows, kRows));
  executor.ParallelFor(sums.size(), 1, [&](size_t begin, size_t end, size_t) {
    std::vector<float> product(kRows * n);
    for (size_t piece = begin; piece < end; ++piece) {
      const float* a = e + piece * kRows * n;
      const uint64_t count = std::min(kRows, rows - piece * kRows);
      gemm::MatmulNt({.n = count,
                      .m = n,
                      .k = n,
                      .a = a,
                      .lda = n,
                      .b = h.as<float>(),
                      .ldb = n,
                      .c = product.data(),
                      .ldc = n});
      for (uint64_t i = 0; i < count * n; ++i) {
        sums[piece] += static_cast<double>(a[i]) * product[i];
      }
    }
  });
  double sum = 0;
  for (const double piece : sums) sum += piece;
  // Rounding may leave an error of nothing below it.
  return std::max(sum, 0.0);
}

}  // namespace tq
