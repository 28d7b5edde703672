// elementwise.h in terms of simd::Vec; a file of one level includes its simd header first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/transformer/transformer_levels.h"

namespace tq::transformer {
namespace {

using simd::Vec;

constexpr size_t kLanes = 16;
constexpr size_t RoundUpToLanes(size_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
constexpr size_t MinOf(size_t a, size_t b) { return a < b ? a : b; }
constexpr size_t MaxOf(size_t a, size_t b) { return a < b ? b : a; }

// Calls f(i, count) for [0, n) in steps of a vector; count < 16 only in the last.
template <class F>
inline void ForVectors(size_t n, const F& f) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, n - i);
}
// LoadFirst and StoreFirst without masks for whole vectors.
inline Vec LoadCount(const float* p, size_t count) {
  return count == kLanes ? simd::Load(p) : simd::LoadFirst(p, count);
}
inline void StoreCount(float* p, size_t count, Vec x) {
  count == kLanes ? simd::Store(p, x) : simd::StoreFirst(p, count, x);
}

// exp(x) = 2^n exp(r), |r| <= log(2) / 2. exp(r) = 1 + r + r^2 Q(r), Q interpolated at Chebyshev
// nodes: relative error 1.0e-8, against 6e-8 of half a unit.
inline Vec ExpOf(Vec x) {
  // Beyond these the result is 0 or infinity; NaN passes, being the second operand.
  x = simd::Max(simd::Set1(-104.0f), x);
  x = simd::Min(simd::Set1(89.0f), x);
  const Vec n = simd::RoundToInteger(simd::Mul(x, simd::Set1(1.44269504f)));
  // log(2) in two parts: n times the first is exact.
  Vec r = simd::Fnma(n, simd::Set1(0.693359375f), x);
  r = simd::Fnma(n, simd::Set1(-2.12194440e-4f), r);
  Vec q = simd::Set1(0.001392621346613538f);
  q = simd::Fma(q, r, simd::Set1(0.00836320297157575f));
  q = simd::Fma(q, r, simd::Set1(0.04166655443768795f));
  q = simd::Fma(q, r, simd::Set1(0.1666657684599398f));
  q = simd::Fma(q, r, simd::Set1(0.5f));
  const Vec y = simd::Add(simd::Set1(1.0f), simd::Fma(q, simd::Mul(r, r), r));
  return simd::ScaleByPowerOf2(y, n);
}

void RmsNormRows(const float* x, size_t rows, size_t width, const float* weight, float eps,
                 float* out) {
  for (size_t row = 0; row < rows; ++row, x += width, out += width) {
    // Four sums: shorter chains err less, and hide the latency of the addition.
    Vec sums[4] = {simd::Zero(), simd::Zero(), simd::Zero(), simd::Zero()};
    size_t i = 0;
    for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
      for (size_t s = 0; s < 4; ++s) {
        const Vec v = simd::Load(x + i + s * kLanes);
        sums[s] = simd::Fma(v, v, sums[s]);
      }
    }
    for (size_t s = 0; i < width; i += kLanes, ++s) {
      const Vec v = simd::LoadFirst(x + i, MinOf(kLanes, width - i));
      sums[s] = simd::Fma(v, v, sums[s]);
    }
    const float sum =
        simd::Sum(simd::Add(simd::Add(sums[0], sums[1]), simd::Add(sums[2], sums[3])));
    const double mean = static_cast<double>(sum) / static_cast<double>(width);
    const Vec scale =
        simd::Set1(static_cast<float>(1 / __builtin_sqrt(mean + static_cast<double>(eps))));
    ForVectors(width, [&](size_t at, size_t count) {
      const Vec scaled = simd::Mul(LoadCount(x + at, count), scale);
      StoreCount(out + at, count, simd::Mul(scaled, LoadCount(weight + at, count)));
    });
  }
}

void RopeHeads(float* x, size_t heads, size_t head_dim, const float* cos, const float* sin) {
  const size_t half = head_dim / 2;
  for (size_t head = 0; head < heads; ++head, x += head_dim) {
    ForVectors(half, [&](size_t i, size_t count) {
      const Vec a = LoadCount(x + i, count), b = LoadCount(x + half + i, count);
      const Vec c = LoadCount(cos + i, count), s = LoadCount(sin + i, count);
      StoreCount(x + i, count, simd::Fnma(b, s, simd::Mul(a, c)));
      StoreCount(x + half + i, count, simd::Fma(a, s, simd::Mul(b, c)));
    });
  }
}

void SiluMultiplyAll(const float* gate, const float* up, size_t n, float* out) {
  ForVectors(n, [&](size_t i, size_t count) {
    const Vec g = LoadCount(gate + i, count);
    const Vec e = ExpOf(simd::Sub(simd::Zero(), g));
    const Vec silu = simd::Div(g, simd::Add(simd::Set1(1.0f), e));
    StoreCount(out + i, count, simd::Mul(silu, LoadCount(up + i, count)));
  });
}

void GeluMultiplyAll(const float* gate, const float* up, size_t n, float* out) {
  constexpr float kRoot = 0.7978845608028654f;  // sqrt(2 / pi)
  ForVectors(n, [&](size_t i, size_t count) {
    const Vec g = LoadCount(gate + i, count);
    const Vec cubic = simd::Fma(simd::Mul(g, g), simd::Set1(0.044715f), simd::Set1(1.0f));
    const Vec u = simd::Mul(simd::Mul(g, simd::Set1(-2 * kRoot)), cubic);
    const Vec gelu = simd::Div(g, simd::Add(simd::Set1(1.0f), ExpOf(u)));
    StoreCount(out + i, count, simd::Mul(gelu, LoadCount(up + i, count)));
  });
}

// cap * tanh(x / cap), tanh(y) = 1 - 2 / (exp(2 y) + 1).
inline Vec Capped(Vec x, float cap) {
  const Vec e = ExpOf(simd::Mul(x, simd::Set1(2 / cap)));
  const Vec share = simd::Div(simd::Set1(-2.0f), simd::Add(e, simd::Set1(1.0f)));
  return simd::Mul(simd::Add(share, simd::Set1(1.0f)), simd::Set1(cap));
}

void SoftCapAll(float* x, size_t n, float cap) {
  ForVectors(n, [&](size_t i, size_t count) {
    StoreCount(x + i, count, Capped(LoadCount(x + i, count), cap));
  });
}

void SoftmaxRows(float* x, size_t rows, size_t width) {
  const Vec lowest = simd::Set1(-__builtin_inff());
  for (size_t row = 0; row < rows; ++row, x += width) {
    Vec max = lowest;
    ForVectors(width, [&](size_t i, size_t count) {
      max = simd::Max(simd::SelectFirst(count, LoadCount(x + i, count), lowest), max);
    });
    const Vec top = simd::Set1(simd::MaxLane(max));
    Vec sum = simd::Zero();
    ForVectors(width, [&](size_t i, size_t count) {
      const Vec e = ExpOf(simd::Sub(LoadCount(x + i, count), top));
      StoreCount(x + i, count, e);
      sum = simd::Add(sum, simd::SelectFirst(count, e, simd::Zero()));
    });
    const Vec inverse = simd::Set1(1.0f / simd::Sum(sum));
    ForVectors(width, [&](size_t i, size_t count) {
      StoreCount(x + i, count, simd::Mul(LoadCount(x + i, count), inverse));
    });
  }
}

void AddAll(float* x, const float* y, size_t n) {
  ForVectors(n, [&](size_t i, size_t count) {
    StoreCount(x + i, count, simd::Add(LoadCount(x + i, count), LoadCount(y + i, count)));
  });
}

void ExpAll(const float* x, size_t n, float* out) {
  ForVectors(n, [&](size_t i, size_t count) {
    StoreCount(out + i, count, ExpOf(LoadCount(x + i, count)));
  });
}

void HalfToFloatAll(const uint16_t* x, size_t n, float* out) {
  ForVectors(n, [&](size_t i, size_t count) {
    StoreCount(out + i, count,
               count == kLanes ? simd::LoadHalf(x + i) : simd::LoadHalfFirst(x + i, count));
  });
}

void FloatToHalfAll(const float* x, size_t n, uint16_t* out) {
  ForVectors(n, [&](size_t i, size_t count) {
    simd::StoreHalfFirst(out + i, count, LoadCount(x + i, count));
  });
}

void BFloat16ToFloatAll(const uint16_t* x, size_t n, float* out) {
  ForVectors(n, [&](size_t i, size_t count) {
    StoreCount(out + i, count, simd::LoadBFloat16First(x + i, count));
  });
}

constexpr ElementwiseKernels kElementwiseOfLevel = {
    RmsNormRows, RopeHeads, SiluMultiplyAll, GeluMultiplyAll, SoftCapAll,         SoftmaxRows,
    AddAll,      ExpAll,    HalfToFloatAll,  FloatToHalfAll,  BFloat16ToFloatAll,
};

}  // namespace
}  // namespace tq::transformer
