// From floats to the integer activations of the trellis kernels, and back from their sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"
#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq::trellis {

// What an integer is worth, and what makes integers, where the largest magnitude becomes `most`.
struct ActivationScale {
  float scale = 0, inverse = 0;
};
constexpr ActivationScale ScaleOf(float largest, int most) {
  if (largest < kSmallestActivation) return {};
  const auto integer = static_cast<float>(most);
  return {largest / integer, integer / largest};
}
// Sums of a group's integers over lanes 0 and 1, and 2 and 3, modulo 4: of all and of those below
// 0.
struct LaneSums {
  int all[2] = {}, negative[2] = {};
};
// The group whose integers have these sums. Returns its share of the bias.
inline double SetGroup(int values, ActivationForm form, float scale, const LaneSums& sums,
                       ScaleGroup& group) {
  const int centre = ByteCentre(values);
  for (int i : {0, 1}) {
    group.start[i] = form == ActivationForm::kMagnitudes
                         ? -BytesPerActivation(values) * sums.negative[i]
                         : -centre * sums.all[i];
  }
  group.scale = scale;
  return (centre - SumCentre(values)) * static_cast<double>(sums.all[0] + sums.all[1]) *
         static_cast<double>(scale);
}

struct ActivationKernels {
  // out[i] = x[i] * half[i], half in IEEE binary16. In place allowed.
  void (*scale_by_half)(const float* x, const uint16_t* half, size_t n, float* out);
  // The combined activations a of x (trellis_matmul.h), V = 1, 2 or 4 dividing n; in
  // place allowed. Returns the largest |a| as its float's bits, so that any NaN
  // (0x7f800001 and above) or infinity shows.
  uint32_t (*combine)(int values, const float* x, size_t n, float* out);
  // q[i] = a[i] * inverse, rounded to nearest even; the rounded products must be within
  // kMaxActivation. Returns their sum.
  int64_t (*quantize)(const float* a, size_t n, float inverse, int16_t* q);
  // One row of x: for every kScaleColumns of a (n a multiple, all finite) the scale d of their
  // largest and q[i] = a[i] / d, rounded to nearest even. Returns the bias.
  double (*quantize_bytes)(int values, ActivationForm form, const float* a, size_t n,
                           ScaleGroup* scales, int16_t* q);
  // Lays q (n a multiple of the tile's columns) out in groups, `stride` bytes apart.
  void (*lay_out)(int values, ActivationForm form, const int16_t* q, size_t n, uint8_t* out,
                  size_t stride);
  // y[i] = float((sums[i] + bias) * scale), in double; |sums[i]| < 2^51 (as they are below
  // 2^28 columns), bias a multiple of 0.5 and of like size, so that the sum is exact.
  void (*finish)(const int64_t* sums, size_t n, double bias, double scale, float* y);
};

const ActivationKernels& FindActivationKernels(Isa isa);

namespace reference {
extern const ActivationKernels kActivations;
}
namespace avx2 {
extern const ActivationKernels kActivations;
}

}  // namespace tq::trellis
