// Scales of small blocks by least squares: what the encoders of ggml's formats share.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

namespace tq {

// Below this a magnitude is zero to every format here: their smallest step is 2^-24. It keeps
// reciprocals and squares finite.
inline constexpr float kNegligible = 0x1p-60f;

// The least half-precision number that is not below `value`, which is in [0, 65504].
uint16_t HalfAtLeast(float value);

inline void StoreU16(uint16_t value, uint8_t* out) { std::memcpy(out, &value, sizeof(value)); }

// d for which x [n] ~ d q with integers -levels <= q < levels; d may be negative, so that the
// value of the largest magnitude can take the code -levels. n is a multiple of 8, at most 32.
float SymmetricScale(const float* x, int n, int levels);
// The nearest codes at a scale d, q + levels in [0, 2 levels). A d of 0 gives q = 0.
void RoundSymmetric(const float* x, int n, int levels, float d, uint8_t* q);

// x [32] ~ scale q - minimum with 0 <= q < levels, scale >= 0 and minimum >= 0.
struct AffineFit {
  float scale = 0, minimum = 0;
};
AffineFit FitAffine(const float* x, int levels);
// The nearest codes of x [32] at a fit, and their squared error.
float RoundAffine(const float* x, int levels, const AffineFit& fit, uint8_t* q);

}  // namespace tq
