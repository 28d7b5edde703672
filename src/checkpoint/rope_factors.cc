#include "checkpoint/rope_factors.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tq {
namespace {

constexpr float kLow = 1, kHigh = 4;
// Of Llama 3 itself; where no pair lies between short and long wavelengths, others do the same.
constexpr uint32_t kUsualContext = 8192;
constexpr double kMaxContext = 1 << 30;

// From a pair whose frequency is neither kept nor divided by the whole of `largest`: what share of
// it is kept says how often it turns within the original context (RopeFrequencies).
uint32_t OriginalContext(std::span<const float> factors, const std::vector<double>& frequencies,
                         double largest) {
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 1 && factors[i] < largest)) continue;
    const double kept = (1 / double{factors[i]} - 1 / largest) / (1 - 1 / largest);
    const double turns = kLow + kept * (kHigh - kLow);
    const double context = std::round(turns * 2 * std::numbers::pi / frequencies[i]);
    if (context >= 1 && context <= kMaxContext) return static_cast<uint32_t>(context);
  }
  return kUsualContext;
}

}  // namespace

std::vector<float> RopeFactors(uint32_t head_dim, float theta, const RopeScaling& scaling) {
  const std::vector<double> plain = RopeFrequencies(head_dim, theta, {});
  const std::vector<double> scaled = RopeFrequencies(head_dim, theta, scaling);
  std::vector<float> factors(plain.size());
  for (size_t i = 0; i < plain.size(); ++i) factors[i] = static_cast<float>(plain[i] / scaled[i]);
  return factors;
}

std::optional<RopeScaling> RopeScalingOf(std::span<const float> factors, uint32_t head_dim,
                                         float theta) {
  if (factors.empty() || factors.size() != head_dim / 2) return std::nullopt;
  const float largest = std::ranges::max(factors);
  if (!(largest > 0 && std::isfinite(largest))) return std::nullopt;
  const uint32_t context =
      OriginalContext(factors, RopeFrequencies(head_dim, theta, {}), double{largest});
  const RopeScaling scaling = {RopeScaling::Kind::kLlama3, largest, kLow, kHigh, context};
  const std::vector<float> expected = RopeFactors(head_dim, theta, scaling);
  for (size_t i = 0; i < factors.size(); ++i) {
    // Also false for what is no number.
    if (!(std::abs(factors[i] - expected[i]) <= 1e-3f * expected[i])) return std::nullopt;
  }
  return scaling;
}

}  // namespace tq
