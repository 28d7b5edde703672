// Plain twins of the activation kernels, and their dispatch.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/trellis_matmul/activations.h"

namespace tq::trellis {
namespace reference {
namespace {

// IEEE binary16 to float: the exponent is rebiased by a multiplication, which also
// normalises subnormals; infinities and NaNs get the float's own exponent.
float FromHalf(uint16_t half) {
  const uint32_t magnitude = uint32_t{half} & 0x7fffu;
  const uint32_t shifted = magnitude << 13;
  float value;
  std::memcpy(&value, &shifted, sizeof(value));
  value *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (magnitude >= 0x7c00u) bits = shifted | 0x7f800000u;
  bits |= (uint32_t{half} & 0x8000u) << 16;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void ScaleByHalf(const float* x, const uint16_t* half, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * FromHalf(half[i]);
}

uint32_t Magnitude(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits & 0x7fffffffu;
}

uint32_t Combine(int values, const float* x, size_t n, float* out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; i += static_cast<size_t>(values)) {
    if (values == 1) {
      out[i] = x[i];
    } else if (values == 2) {
      const float x0 = x[i], x1 = x[i + 1];
      out[i] = x0 + x1;
      out[i + 1] = x0 - x1;
    } else {
      const float s0 = x[i] + x[i + 1], d0 = x[i] - x[i + 1];
      const float s1 = x[i + 2] + x[i + 3], d1 = x[i + 2] - x[i + 3];
      out[i] = s0 + s1;      // u0 meets + + + +
      out[i + 1] = d0 + d1;  // u1: + - + -
      out[i + 2] = s0 - s1;  // u2: + + - -
      out[i + 3] = d0 - d1;  // u3: + - - +
    }
    for (int j = 0; j < values; ++j) {
      const uint32_t magnitude = Magnitude(out[i + static_cast<size_t>(j)]);
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  return largest;
}

int64_t Quantize(const float* a, size_t n, float inverse, int16_t* q) {
  int64_t sum = 0;
  for (size_t i = 0; i < n; ++i) {
    q[i] = static_cast<int16_t>(std::nearbyintf(a[i] * inverse));
    sum += q[i];
  }
  return sum;
}

double QuantizeBytes(int values, ActivationForm form, const float* a, size_t n, ScaleGroup* scales,
                     int16_t* q) {
  double bias = 0;
  for (size_t i = 0; i < n; i += kScaleColumns, ++scales) {
    uint32_t largest_bits = 0;
    for (size_t j = i; j < i + kScaleColumns; ++j) {
      largest_bits = std::max(largest_bits, Magnitude(a[j]));
    }
    float largest;
    std::memcpy(&largest, &largest_bits, sizeof(largest));
    const ActivationScale scale = ScaleOf(largest, kMaxByteActivation);
    Quantize(a + i, kScaleColumns, scale.inverse, q + i);
    LaneSums sums;
    for (size_t j = 0; j < kScaleColumns; ++j) {
      const size_t half = j / (2 * static_cast<size_t>(values)) % 2;
      sums.all[half] += q[i + j];
      sums.negative[half] += std::min<int>(q[i + j], 0);
    }
    bias += SetGroup(values, form, scale.scale, sums, *scales);
  }
  return bias;
}

// The index of the activation that word (or byte) b of group g holds.
size_t SourceOf(int values, ActivationForm form, size_t g, size_t b) {
  const auto v = static_cast<size_t>(values);
  if (form == ActivationForm::kWords) return g / v * 4 * v + b * v + g % v;
  if (form == ActivationForm::kHalves) {
    const size_t half = v == 4 ? g % 2 : 0, four = v == 4 ? g / 2 : g;
    return (4 * four + b / 2) * v + (2 * half + b % 2) % v;
  }
  const size_t lane = b / 4 % 2 * 2 + b / 8;
  return (4 * g + lane) * v + b % v;
}

void LayOut(int values, ActivationForm form, const int16_t* q, size_t n, uint8_t* out,
            size_t stride) {
  const size_t groups = n / static_cast<size_t>(GroupColumns(values, form));
  for (size_t g = 0; g < groups; ++g, out += stride) {
    if (form == ActivationForm::kWords) {
      for (size_t b = 0; b < 4; ++b) {
        std::memcpy(out + 2 * b, q + SourceOf(values, form, g, b), sizeof(*q));
      }
      continue;
    }
    const size_t bytes = form == ActivationForm::kHalves ? 8 : 16;
    for (size_t b = 0; b < bytes; ++b) {
      const int a = q[SourceOf(values, form, g, b)];
      if (form == ActivationForm::kMagnitudes) {
        out[b] = static_cast<uint8_t>(std::abs(a));
        out[16 + b] = a < 0 ? 0x7f : 0x80;
      } else {
        out[b] = static_cast<uint8_t>(a);
      }
    }
  }
}

void Finish(const int64_t* sums, size_t n, double bias, double scale, float* y) {
  for (size_t i = 0; i < n; ++i) {
    y[i] = static_cast<float>((static_cast<double>(sums[i]) + bias) * scale);
  }
}

}  // namespace

constinit const ActivationKernels kActivations = {ScaleByHalf,   Combine, Quantize,
                                                  QuantizeBytes, LayOut,  Finish};

}  // namespace reference

const ActivationKernels& FindActivationKernels([[maybe_unused]] Isa isa) {
#if TQ_X86
  // Little work: the wider levels would gain nothing by kernels of their own.
  if (isa != Isa::kReference) return avx2::kActivations;
#endif
  return reference::kActivations;
}

}  // namespace tq::trellis
