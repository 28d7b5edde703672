#include "checkpoint/scale_search.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace tq {
namespace {

// Sums run in this many lanes, which are added in a fixed order: vector code, and the same
// result wherever it runs.
constexpr int kLanes = 8;
constexpr int kMaxValues = 32;
using Lanes = std::array<float, kLanes>;

double Sum(const Lanes& lanes) {
  double sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

// round(clamp(v)) to 0 .. top, as a float.
inline float RoundTo(float v, float top) {
  return static_cast<float>(static_cast<int32_t>(std::min(std::max(v, 0.0f), top) + 0.5f));
}

// Candidates of a scale: the code, in levels, that the largest magnitude is given. Beyond the last
// code, values are cut off; well before it, levels are left unused.
struct Candidates {
  float first;  // relative to the number of levels
  float step;
  int count;
};
constexpr Candidates kSymmetric = {-2.25f, 0.25f, 11};
constexpr Candidates kAffine = {-2.5f, 0.125f, 25};

}  // namespace

uint16_t HalfAtLeast(float value) {
  const uint16_t nearest = FloatToHalf(value);
  // Halves of one sign are ordered as their bits are.
  return static_cast<uint16_t>(nearest + (HalfToFloat(nearest) < value ? 1 : 0));
}

float SymmetricScale(const float* x, int n, int levels) {
  float largest = 0;
  for (int i = 0; i < n; ++i) {
    if (std::abs(x[i]) > std::abs(largest)) largest = x[i];
  }
  if (std::abs(largest) < kNegligible) return 0;
  const auto half = static_cast<float>(levels);
  double best_gain = 0, best = 0;
  for (int c = 0; c < kSymmetric.count; ++c) {
    const float code = -(half + kSymmetric.first + kSymmetric.step * static_cast<float>(c));
    const float inverse = code / largest;
    Lanes xq{}, qq{};
    for (int i = 0; i < n; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const float q = RoundTo(x[i + l] * inverse + half, 2 * half - 1) - half;
        xq[l] += x[i + l] * q;
        qq[l] += q * q;
      }
    }
    // With the best d for these codes, sum xq / sum qq, the error is sum xx - (sum xq)^2 / sum qq.
    const double product = Sum(xq), squares = Sum(qq);
    if (squares > 0 && product * product > best_gain * squares) {
      best_gain = product * product / squares;
      best = product / squares;
    }
  }
  return static_cast<float>(best);
}

void RoundSymmetric(const float* x, int n, int levels, float d, uint8_t* q) {
  const auto half = static_cast<float>(levels);
  const float inverse = d == 0 ? 0 : 1 / d;
  for (int i = 0; i < n; ++i) {
    q[i] = static_cast<uint8_t>(RoundTo(x[i] * inverse + half, 2 * half - 1));
  }
}

AffineFit FitAffine(const float* x, int levels) {
  float low = 0, high = x[0];
  double sum_x = 0;
  for (int i = 0; i < kMaxValues; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sum_x += x[i];
  }
  AffineFit best{0, -low};
  const float range = high - low;
  if (range < kNegligible) return best;
  const auto top = static_cast<float>(levels - 1);
  double best_gain = -1;
  for (int c = 0; c < kAffine.count; ++c) {
    const float code =
        static_cast<float>(levels) + kAffine.first + kAffine.step * static_cast<float>(c);
    const float inverse = code / range;
    Lanes q1{}, qq{}, xq{};
    for (int i = 0; i < kMaxValues; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const float q = RoundTo((x[i + l] - low) * inverse, top);
        q1[l] += q;
        qq[l] += q * q;
        xq[l] += x[i + l] * q;
      }
    }
    // Least squares for x ~ scale q - minimum; a minimum below 0 is not stored, then x ~ scale q.
    const double n = kMaxValues, sum_q = Sum(q1), sum_qq = Sum(qq), sum_xq = Sum(xq);
    const double determinant = n * sum_qq - sum_q * sum_q;
    double scale = 0, minimum = -1;
    if (determinant > 0) {
      scale = (n * sum_xq - sum_x * sum_q) / determinant;
      minimum = (scale * sum_q - sum_x) / n;
    }
    if (minimum < 0 && sum_qq > 0) {
      scale = sum_xq / sum_qq;
      minimum = 0;
    }
    if (scale <= 0 || minimum < 0) continue;
    // How much of sum xx the fit explains.
    const double gain = 2 * (scale * sum_xq - minimum * sum_x) - scale * scale * sum_qq +
                        2 * scale * minimum * sum_q - n * minimum * minimum;
    if (gain > best_gain) {
      best_gain = gain;
      best = {static_cast<float>(scale), static_cast<float>(minimum)};
    }
  }
  return best;
}

float RoundAffine(const float* x, int levels, const AffineFit& fit, uint8_t* q) {
  const auto top = static_cast<float>(levels - 1);
  const float inverse = fit.scale == 0 ? 0 : 1 / fit.scale;
  Lanes error{};
  for (int i = 0; i < kMaxValues; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float code = RoundTo((x[i + l] + fit.minimum) * inverse, top);
      const float off = fit.scale * code - fit.minimum - x[i + l];
      error[l] += off * off;
      q[i + l] = static_cast<uint8_t>(code);
    }
  }
  return static_cast<float>(Sum(error));
}

}  // namespace tq
