// Rows of x as the integers of ternary products: BitNet b1.58's rule (arXiv 2402.17764, section 2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/isa.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace tq::ternary {

// A row of x: what an integer is worth, and the sum of all.
struct ActivationRow {
  float scale = 0;
  int32_t sum = 0;
};

// The largest magnitude counts as this at least, so that rows of zeros have a scale.
inline constexpr float kSmallestLargest = 1e-5f;

// a[i] = x[i] * (127 / max |x|), rounded to nearest even, and the scale max |x| / 127. Where an x
// is not finite all a are 0 and the scale is NaN. n up to kMaxColumns. The same bits at every
// level.
using QuantizeFn = ActivationRow(const float* x, size_t n, int8_t* a);
QuantizeFn& FindQuantize(Isa isa);

// The scale, and what makes integers, of a row whose largest magnitude is `largest`.
struct ActivationScale {
  float scale, inverse;
};
constexpr ActivationScale ScaleOf(float largest) {
  if (largest < kSmallestLargest) largest = kSmallestLargest;
  constexpr auto kMost = static_cast<float>(kMaxActivation);
  return {largest / kMost, kMost / largest};
}
// The bits of infinity: those of a magnitude that is not finite are no less.
inline constexpr uint32_t kInfinityBits = 0x7f800000;
inline constexpr ActivationRow kNotFinite = {std::numeric_limits<float>::quiet_NaN(), 0};

namespace reference {
QuantizeFn Quantize;
// a of n values of x, and their sum.
int32_t RoundAll(const float* x, size_t n, float inverse, int8_t* a);
// The largest magnitude's bits.
uint32_t LargestBits(const float* x, size_t n);
}  // namespace reference
namespace avx2 {
QuantizeFn Quantize;
}

}  // namespace tq::ternary
