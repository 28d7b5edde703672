// Rows of x as the integers of grouped products.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/grouped_matmul/grouped_matmul.h"
#include "kernels/isa.h"

namespace tq::grouped {

// Blocks whose largest magnitude is below count as zero: far below, 127 / largest would overflow.
inline constexpr float kSmallestLargest = 0x1p-110f;

// Of every block of x [32 * blocks]: with m = max |x|, a[i] = x[i] * (127 / m) rounded to nearest
// even, the scale m / 127 and the sum of a. Where an x is not finite, a = 0 and the scale is NaN.
// The same bits at every level.
using QuantizeFn = void(const float* x, size_t blocks, int8_t* a, float* scale, float* sum);
QuantizeFn& FindQuantize(Isa isa);

// What an integer is worth, and what makes integers.
struct BlockScale {
  float scale, inverse;
};
constexpr BlockScale ScaleOf(float largest) {
  if (largest < kSmallestLargest) return {0, 0};
  constexpr auto kMost = static_cast<float>(kMaxActivation);
  return {largest / kMost, kMost / largest};
}

// a, scale and sum of a row as gemv reads them (ActivationRow): out_a [32 * blocks], out_scale and
// out_sum [4 * blocks]. `blocks` a multiple of kBlockMultiple.
void LayOutRow(int bits, size_t lanes, size_t blocks, const int8_t* a, const float* scale,
               const float* sum, int8_t* out_a, float* out_scale, float* out_sum);
// The same as row i of a panel of `rows` rows of x (MultiplyArgs): out_a [32 * blocks * rows],
// out_scale and out_sum [blocks * rows].
void LayOutPanelRow(int bits, size_t blocks, size_t i, size_t rows, const int8_t* a,
                    const float* scale, const float* sum, int8_t* out_a, float* out_scale,
                    float* out_sum);

namespace reference {
QuantizeFn Quantize;
}
namespace avx2 {
QuantizeFn Quantize;
}

}  // namespace tq::grouped
