// A weight matrix of ternary weights, as models of the kind of BitNet b1.58 (arXiv 2402.17764)
// have:
//
//   W [rows, cols] = scale * t,   t in {-1, 0, 1}
//
// in 2 or 1.6 bits a weight. How bytes hold them: kernels/ternary_matmul/packing.h.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "device/executor.h"
#include "kernels/ternary_matmul/packing.h"
#include "tensor/tensor.h"

namespace tq {

struct TernaryMatrix {
  uint64_t rows = 0, cols = 0;
  ternary::Packing packing = ternary::Packing::k2Bits;
  Tensor codes;               // U8 [TernaryBytes]: every byte is a code of the packing
  std::vector<float> scales;  // one of all rows, or one per row: positive, finite

  float scale(uint64_t row) const { return scales.size() == 1 ? scales[0] : scales[row]; }
  // All bytes stored for this matrix.
  uint64_t num_bytes() const { return codes.num_bytes() + sizeof(float) * scales.size(); }
};

// Bytes of the codes of a matrix, rows and cols within the limits of the functions below.
uint64_t TernaryBytes(ternary::Packing packing, uint64_t rows, uint64_t cols);

// The following refuse sides that are 0, more than 2^31 - 1 rows and more than 2^23 columns (which
// sums in int32 may cover), and scales that are not positive and finite.

// A matrix of packed bytes: U8 [TernaryBytes], each of which must be a code.
StatusOr<TernaryMatrix> TernaryMatrixFromCodes(ternary::Packing packing, uint64_t rows,
                                               uint64_t cols, Tensor codes,
                                               std::vector<float> scales);

// Packs trits, I8 [rows, cols]. One outside -1..1 is an error naming row and column.
StatusOr<TernaryMatrix> PackTernaryMatrix(ternary::Packing packing, const TensorView& trits,
                                          std::vector<float> scales, Executor& executor);

// What `weight_scale` means. Hugging Face's layers of class `bitlinear` divide products by it,
// those of class `autobitlinear` (quantization_config.linear_class) multiply.
enum class WeightScale { kMultiplies, kDivides };

// Packs a weight in Hugging Face's layout of BitNet: U8 [rows / 4, cols], where bits 2 i and 2 i +
// 1 of byte [j, c] hold t + 1 of row i * rows / 4 + j. Three in those bits is an error naming row
// and column.
StatusOr<TernaryMatrix> TernaryMatrixFromBitNet(ternary::Packing packing, const TensorView& weight,
                                                float weight_scale, WeightScale meaning,
                                                Executor& executor);

// BitNet b1.58's rounding of W, float [rows, cols] (arXiv 2402.17764, section 2): scale = mean |W|,
// at least 1e-5, and t = W / scale rounded to nearest (halves to even), within -1..1. A weight that
// is not finite is an error naming row and column. The same for any number of threads.
StatusOr<TernaryMatrix> TernaryMatrixFromFloats(ternary::Packing packing, const float* weights,
                                                uint64_t rows, uint64_t cols, Executor& executor);

// W[begin..end), float [end - begin, cols].
void DecodeRows(const TernaryMatrix& matrix, uint64_t begin, uint64_t end, float* out);

}  // namespace tq
