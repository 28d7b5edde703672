// Dispatch and the portable level of elementwise.h.
#include "kernels/transformer/elementwise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "kernels/isa.h"
#include "kernels/transformer/transformer_levels.h"

namespace tq::transformer {
namespace {

void PlainRmsNorm(const float* x, size_t rows, size_t width, const float* weight, float eps,
                  float* out) {
  for (size_t row = 0; row < rows; ++row, x += width, out += width) {
    double sum = 0;
    for (size_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * x[i];
    const auto scale = static_cast<float>(1 / std::sqrt(sum / static_cast<double>(width) + eps));
    for (size_t i = 0; i < width; ++i) out[i] = x[i] * scale * weight[i];
  }
}

void PlainRope(float* x, size_t heads, size_t head_dim, const float* cos, const float* sin) {
  const size_t half = head_dim / 2;
  for (size_t head = 0; head < heads; ++head, x += head_dim) {
    for (size_t i = 0; i < half; ++i) {
      const float a = x[i], b = x[i + half];
      x[i] = a * cos[i] - b * sin[i];
      x[i + half] = b * cos[i] + a * sin[i];
    }
  }
}

void PlainSiluMultiply(const float* gate, const float* up, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

void PlainGeluMultiply(const float* gate, const float* up, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) {
    const double g = gate[i], u = std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g);
    out[i] = static_cast<float>(g / (1 + std::exp(-2 * u)) * up[i]);
  }
}

void PlainSoftCap(float* x, size_t n, float cap) {
  for (size_t i = 0; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

void PlainSoftmax(float* x, size_t rows, size_t width) {
  for (size_t row = 0; row < rows; ++row, x += width) {
    float max = -INFINITY;
    for (size_t i = 0; i < width; ++i) max = std::max(max, x[i]);
    double sum = 0;
    for (size_t i = 0; i < width; ++i) {
      x[i] = std::exp(x[i] - max);
      sum += static_cast<double>(x[i]);
    }
    const auto inverse = static_cast<float>(1 / sum);
    for (size_t i = 0; i < width; ++i) x[i] *= inverse;
  }
}

void PlainAddTo(float* x, const float* y, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] += y[i];
}

void PlainExp(const float* x, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = std::exp(x[i]);
}

float HalfToFloatOne(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t magnitude = half & 0x7FFFu;
  if (magnitude < 0x0400) {  // zero or subnormal: magnitude * 2^-24, exact
    const auto value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  if (magnitude < 0x7C00) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  // Infinity, or a NaN made quiet.
  const uint32_t quiet = magnitude > 0x7C00 ? 0x00400000u : 0;
  return std::bit_cast<float>(sign | 0x7F800000u | quiet | (magnitude << 13));
}

uint16_t FloatToHalfOne(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {
    return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
  }
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and up
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the value's multiple of 2^-24 in the low bits, rounded
    // to nearest even by the addition.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - (112u << 23) + 0xFFFu + odd) >> 13));
}

void PlainHalfToFloat(const uint16_t* x, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = HalfToFloatOne(x[i]);
}
void PlainFloatToHalf(const float* x, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = FloatToHalfOne(x[i]);
}
void PlainBFloat16ToFloat(const uint16_t* x, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(uint32_t{x[i]} << 16);
}

const ElementwiseKernels& Current() {
  static const ElementwiseKernels& current = ElementwiseFor(CurrentIsa());
  return current;
}

}  // namespace

namespace reference {
const ElementwiseKernels kElementwise = {
    PlainRmsNorm,     PlainRope,        PlainSiluMultiply,   PlainGeluMultiply,
    PlainSoftCap,     PlainSoftmax,     PlainAddTo,          PlainExp,
    PlainHalfToFloat, PlainFloatToHalf, PlainBFloat16ToFloat};
}  // namespace reference

const ElementwiseKernels& ElementwiseFor(Isa isa) { return *TQ_AT_LEVEL(isa, kElementwise); }

void RmsNorm(const float* x, size_t rows, size_t width, const float* weight, float eps,
             float* out) {
  Current().rms_norm(x, rows, width, weight, eps, out);
}
void Rope(float* x, size_t heads, size_t head_dim, const float* cos, const float* sin) {
  Current().rope(x, heads, head_dim, cos, sin);
}
void RopeTable(uint64_t position, const double* frequencies, size_t half, float* cos, float* sin) {
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
}
void SiluMultiply(const float* gate, const float* up, size_t n, float* out) {
  Current().silu_multiply(gate, up, n, out);
}
void GeluMultiply(const float* gate, const float* up, size_t n, float* out) {
  Current().gelu_multiply(gate, up, n, out);
}
void ReluSquaredMultiply(const float* gate, const float* up, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) {
    const float positive = gate[i] < 0 ? 0 : gate[i];  // NaN stays
    out[i] = positive * positive * up[i];
  }
}
void SoftCap(float* x, size_t n, float cap) { Current().soft_cap(x, n, cap); }
void Softmax(float* x, size_t rows, size_t width) { Current().softmax(x, rows, width); }
void AddTo(float* x, const float* y, size_t n) { Current().add_to(x, y, n); }
void Exp(const float* x, size_t n, float* out) { Current().exp(x, n, out); }
void HalfToFloat(const uint16_t* x, size_t n, float* out) { Current().half_to_float(x, n, out); }
void FloatToHalf(const float* x, size_t n, uint16_t* out) { Current().float_to_half(x, n, out); }
void BFloat16ToFloat(const uint16_t* x, size_t n, float* out) {
  Current().bfloat16_to_float(x, n, out);
}

}  // namespace tq::transformer
