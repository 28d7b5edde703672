// From floats to the int8 activations of the trellis kernels, and back from their sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"
#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq::trellis {

// Sums of the quantised activations of a range of columns.
struct ActivationSums {
  int32_t plain = 0, absolute = 0;
};

struct ActivationKernels {
  // out[i] = x[i] * half[i], half in IEEE binary16. In place allowed.
  void (*scale_by_half)(const float* x, const uint16_t* half, size_t n, float* out);
  // The combined activations a of x (trellis_matmul.h), V = 1, 2 or 4 dividing n; in
  // place allowed. Returns the largest |a| as its float's bits, so that any NaN
  // (0x7f800001 and above) or infinity shows.
  uint32_t (*combine)(int values, const float* x, size_t n, float* out);
  // q[i] = a[i] * inverse, rounded to nearest even; the products must be within 127.
  ActivationSums (*quantize)(const float* a, size_t n, float inverse, int8_t* q);
  // Lays q (n a multiple of the tile's columns) out in groups, `stride` bytes apart.
  void (*lay_out)(int values, ActivationForm form, const int8_t* q, size_t n, uint8_t* out,
                  size_t stride);
  // y[i] = float(factor * (partial[2 i] + partial[2 i + 1]) + bias) * scale
  void (*finish)(const int32_t* partial, size_t n, int32_t factor, int32_t bias, float scale,
                 float* y);
};

const ActivationKernels& FindActivationKernels(Isa isa);

// The constant that completes a sum (trellis_matmul.h).
constexpr int32_t SumBias(int values, ActivationForm form, ActivationSums sums) {
  switch (form) {
    // The sums are of the activations themselves, each of which kBytes holds twice for V = 1.
    case ActivationForm::kSignMagnitude:
      return (values == 1 ? 2 : 1) * sums.absolute;
    case ActivationForm::kBytes:
    case ActivationForm::kWords:
      break;
  }
  return (values == 1 ? -510 : -255) * sums.plain;
}

namespace reference {
extern const ActivationKernels kActivations;
}
namespace avx2 {
extern const ActivationKernels kActivations;
}

}  // namespace tq::trellis
