#include "codec/dense_matmul.h"

#include <algorithm>

#include "base/checked.h"
#include "kernels/gemm/gemm_f32.h"
#include "tensor/dtype.h"

namespace tq {
namespace {

// Pieces of a product that threads take: rows of the result, so that a packed panel of b
// serves many of them, and columns, in whole panels of the kernel (48).
constexpr uint64_t kPieceRows = 512, kPieceColumns = 48;
// Terms of the kernel's own pieces: with so many columns 36 KiB of floats, which stay in L1.
constexpr uint64_t kPieceDepth = 192;

// Runs `product` (one of the kernels) over pieces of args.c. `b_step` is the distance of
// neighbouring columns of the result in args.b.
void ForPieces(const gemm::Args& args, size_t b_step, void (*product)(const gemm::Args&),
               Executor& executor) {
  const uint64_t down = CeilDiv<uint64_t>(args.n, kPieceRows);
  const uint64_t across = CeilDiv<uint64_t>(args.m, kPieceColumns);
  executor.ParallelFor(down * across, 1, [&](size_t begin, size_t end, size_t) {
    for (size_t at = begin; at < end;) {
      // The pieces of [begin, end) beside each other are one call.
      const uint64_t row = at / across, column = at % across;
      const uint64_t count = std::min<uint64_t>(end - at, across - column);
      gemm::Args piece = args;
      piece.n = std::min(kPieceRows, args.n - row * kPieceRows);
      piece.m = std::min(count * kPieceColumns, args.m - column * kPieceColumns);
      piece.a += row * kPieceRows * args.lda;
      piece.b += column * kPieceColumns * b_step;
      piece.c += row * kPieceRows * args.ldc + column * kPieceColumns;
      product(piece);
      at += count;
    }
  });
}

}  // namespace

void DenseMatmul(const float* x, uint64_t n, uint64_t k, const float* w, uint64_t m,
                 Executor& executor, float* y) {
  ForPieces({n, m, k, x, k, w, k, y, m, false}, k, gemm::MatmulNt, executor);
}

void DenseMatmulBFloat16(const float* x, uint64_t n, uint64_t k, const uint16_t* w, uint64_t m,
                         Executor& executor, float* y) {
  executor.ParallelFor(CeilDiv(m, kPieceColumns), 1, [&](size_t begin, size_t end, size_t) {
    float floats[kPieceColumns * kPieceDepth];
    for (uint64_t first = begin * kPieceColumns; first < std::min(end * kPieceColumns, m);
         first += kPieceColumns) {
      const uint64_t columns = std::min(kPieceColumns, m - first);
      for (uint64_t p = 0; p < k; p += kPieceDepth) {
        const uint64_t depth = std::min(kPieceDepth, k - p);
        for (uint64_t j = 0; j < columns; ++j) {
          const uint16_t* from = w + (first + j) * k + p;
          for (uint64_t i = 0; i < depth; ++i) floats[j * depth + i] = BFloat16ToFloat(from[i]);
        }
        // Chains go on where those of the last piece ended.
        gemm::MatmulNt({n, columns, depth, x + p, k, floats, depth, y + first, m, p > 0});
      }
    }
  });
}

void AccumulateHessian(const float* x, uint64_t n, uint64_t k, Executor& executor, float* h) {
  // The first rows of the triangle are the longest; several strips per thread keep threads
  // even. The kernel packs 96 rows at a time.
  const uint64_t strip = k >= 96 * 4 * executor.threads() ? 96 : 48;
  executor.ParallelFor(CeilDiv(k, strip), 1, [&](size_t begin, size_t end, size_t) {
    gemm::SyrkUpper({n, k, x, k, h, k, begin * strip, std::min<size_t>(k, end * strip)});
  });
}

}  // namespace tq
