// Row-wise float operations of a transformer: norms, rotary positions, activations,
// softmax, and conversions of 16-bit floats.
//
// Rows are contiguous. In-place use (out == x) is allowed where an argument is both read
// and written at the same index. The levels AVX2 and AVX-512 give the same bits; the plain
// one differs by rounding. A row's result does not depend on other rows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tq {
enum class Isa;
}

namespace tq::transformer {

// out = x / sqrt(mean(x^2) + eps) * weight for each row of [rows, width]; weight [width].
// Relative error at most (width / 64 + 12) 2^-24.
void RmsNorm(const float* x, size_t rows, size_t width, const float* weight, float eps, float* out);

// Rotary embedding of one position, in place on [heads, head_dim], head_dim even, in the
// half-split convention of Hugging Face's Llama (x[i] pairs with x[i + head_dim / 2]):
//   x[i] <- x[i] cos[i] - x[i + d/2] sin[i],  x[i + d/2] <- x[i + d/2] cos[i] + x[i] sin[i].
void Rope(float* x, size_t heads, size_t head_dim, const float* cos, const float* sin);
// The table of a position, cos and sin [half], of angles position * frequencies[i] in double.
void RopeTable(uint64_t position, const double* frequencies, size_t half, float* cos, float* sin);

// out = silu(gate) * up, silu(g) = g / (1 + exp(-g)). Relative error at most 5 * 2^-24
// (where the result is normal).
void SiluMultiply(const float* gate, const float* up, size_t n, float* out);
// out = gelu(gate) * up in the approximation by tanh (Hendrycks and Gimpel, "Gaussian error linear
// units", 2016, section 2): gelu(g) = g / (1 + exp(-2 u)), u = sqrt(2 / pi) (g + 0.044715 g^3).
// Relative error at most (8 + 4 |u|) 2^-24 (where the result is normal).
void GeluMultiply(const float* gate, const float* up, size_t n, float* out);

// out = max(gate, 0)^2 * up.
void ReluSquaredMultiply(const float* gate, const float* up, size_t n, float* out);

// x <- cap * tanh(x / cap) for cap > 0. Error at most 2^-20 cap.
void SoftCap(float* x, size_t n, float cap);

// exp(x - max) / sum for each row of [rows, width], in place.
void Softmax(float* x, size_t rows, size_t width);

// x += y.
void AddTo(float* x, const float* y, size_t n);

// exp, at most 1.1 units in the last place off (checked over every third float);
// gradual underflow, infinity above 88.7228, exp(-inf) = 0, NaN for NaN.
void Exp(const float* x, size_t n, float* out);

// IEEE half and bfloat16; to half rounds to nearest even, beyond 65519 to infinity; NaN stays
// NaN (quiet, with the leading bits of its payload).
void HalfToFloat(const uint16_t* x, size_t n, float* out);
void FloatToHalf(const float* x, size_t n, uint16_t* out);
void BFloat16ToFloat(const uint16_t* x, size_t n, float* out);

// The same at a given level: for tests and for callers with many short rows.
struct ElementwiseKernels {
  void (*rms_norm)(const float*, size_t, size_t, const float*, float, float*);
  void (*rope)(float*, size_t, size_t, const float*, const float*);
  void (*silu_multiply)(const float*, const float*, size_t, float*);
  void (*gelu_multiply)(const float*, const float*, size_t, float*);
  void (*soft_cap)(float*, size_t, float);
  void (*softmax)(float*, size_t, size_t);
  void (*add_to)(float*, const float*, size_t);
  void (*exp)(const float*, size_t, float*);
  void (*half_to_float)(const uint16_t*, size_t, float*);
  void (*float_to_half)(const float*, size_t, uint16_t*);
  void (*bfloat16_to_float)(const uint16_t*, size_t, float*);
};
const ElementwiseKernels& ElementwiseFor(Isa isa);

}  // namespace tq::transformer
