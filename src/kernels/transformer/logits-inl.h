// logits.h in terms of simd::Vec; a file of one level includes elementwise-inl.h first.
#pragma once

#include <cmath>

#include "kernels/transformer/elementwise-inl.h"

namespace tq::transformer {
namespace {

using simd::VecD;

// Logits this far below the greatest have probability 0: exp(-700) is about 1e-304.
constexpr double kVanishing = -700;

// exp(x) for x <= 1 in double, 0 below kVanishing; NaN passes. As ExpOf, with a
// polynomial of degree 10: relative error 1.2e-15.
inline VecD ExpInDouble(VecD x) {
  const VecD clamped = simd::Max(simd::Set1D(kVanishing), x);
  const VecD n = simd::RoundToInteger(simd::Mul(clamped, simd::Set1D(1.4426950408889634)));
  // log(2) in two parts; the first has 32 bits, so that n times it is exact.
  VecD r = simd::Fma(n, simd::Set1D(-0x1.62e42fee00000p-1), clamped);
  r = simd::Fma(n, simd::Set1D(-0x1.a39ef35793c76p-33), r);
  constexpr double kQ[] = {2.761446384075851e-07, 2.7625145743565928e-06, 2.4801535002272093e-05,
                           0.000198412086783356,  0.0013888888906912046,  0.008333333353759952,
                           0.04166666666664833,   0.1666666666664823,     0.5};
  VecD q = simd::Set1D(kQ[0]);
  for (size_t i = 1; i < sizeof(kQ) / sizeof(kQ[0]); ++i) {
    q = simd::Fma(q, r, simd::Set1D(kQ[i]));
  }
  const VecD y = simd::Add(simd::Set1D(1), simd::Fma(q, simd::Mul(r, r), r));
  return simd::ZeroBelow(x, kVanishing, simd::ScaleByPowerOf2(y, n));
}

// A vector of logits, -inf after the end.
inline Vec LoadLogits(const float* p, size_t count) {
  if (count == kLanes) return simd::Load(p);
  return simd::SelectFirst(count, simd::LoadFirst(p, count), simd::Set1(-__builtin_inff()));
}

LogitStats RowStatsOfLevel(const float* logits, size_t n) {
  LogitStats stats;
  Vec max = simd::Set1(-__builtin_inff());
  ForVectors(n,
             [&](size_t i, size_t count) { max = simd::Max(LoadLogits(logits + i, count), max); });
  stats.max = simd::MaxLane(max);
  const Vec top = simd::Set1(stats.max);
  for (size_t i = 0; i < n; i += kLanes) {
    const size_t count = MinOf(kLanes, n - i);
    const uint32_t equal =
        simd::EqualLanes(LoadLogits(logits + i, count), top) & ((1u << count) - 1);
    if (equal != 0) {
      stats.argmax = i + static_cast<size_t>(__builtin_ctz(equal));
      break;
    }
  }
  const VecD top_double = simd::Set1D(static_cast<double>(stats.max));
  VecD sum = simd::Set1D(0);
  ForVectors(n, [&](size_t i, size_t count) {
    const VecD x = simd::ToDouble(LoadLogits(logits + i, count));
    sum = simd::Add(sum, ExpInDouble(simd::Sub(x, top_double)));
  });
  stats.log_sum_exp = static_cast<double>(stats.max) + __builtin_log(simd::Sum(sum));
  return stats;
}

Divergence RowDivergenceOfLevel(const float* p_logits, const float* q_logits, size_t n) {
  Divergence result;
  result.p = RowStatsOfLevel(p_logits, n);
  result.q = RowStatsOfLevel(q_logits, n);
  const VecD p_total = simd::Set1D(result.p.log_sum_exp);
  const VecD q_total = simd::Set1D(result.q.log_sum_exp);
  VecD sum = simd::Set1D(0);
  ForVectors(n, [&](size_t i, size_t count) {
    const VecD log_p = simd::Sub(simd::ToDouble(LoadLogits(p_logits + i, count)), p_total);
    const VecD log_q = simd::Sub(simd::ToDouble(LoadLogits(q_logits + i, count)), q_total);
    const VecD term = simd::Mul(ExpInDouble(log_p), simd::Sub(log_p, log_q));
    sum = simd::Add(sum, simd::ZeroBelow(log_p, kVanishing, term));
  });
  result.kl = simd::Sum(sum);
  return result;
}

}  // namespace
}  // namespace tq::transformer
