// Dispatch and the portable twin.
#include "kernels/ternary_matmul/ternary_activations.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tq::ternary {

QuantizeFn& FindQuantize([[maybe_unused]] Isa isa) {
#if TQ_X86
  if (isa != Isa::kReference) return avx2::Quantize;
#endif
  return reference::Quantize;
}

namespace reference {

uint32_t LargestBits(const float* x, size_t n) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffff);
  }
  return largest;
}

int32_t RoundAll(const float* x, size_t n, float inverse, int8_t* a) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; ++i) {
    a[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    sum += a[i];
  }
  return sum;
}

ActivationRow Quantize(const float* x, size_t n, int8_t* a) {
  const uint32_t largest = LargestBits(x, n);
  if (largest >= kInfinityBits) {
    std::fill_n(a, n, int8_t{0});
    return kNotFinite;
  }
  const ActivationScale scale = ScaleOf(std::bit_cast<float>(largest));
  return {scale.scale, RoundAll(x, n, scale.inverse, a)};
}

}  // namespace reference
}  // namespace tq::ternary
