// The draw of sampling.h in plain code.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cuda/sampling.h"
#include "kernels/transformer/token_mass.h"

namespace tq::cuda {

struct TwinDraw {
  uint32_t first_bad = UINT32_MAX;  // as ArgmaxResult has it; then there is no token
  uint32_t token = UINT32_MAX;
};

// exp(x) for x <= 0.
inline float TwinExp(float x) {
  x = std::max(x, -80.0f);
  const float n = std::nearbyint(x * 1.44269504f);
  float r = std::fma(-n, 0.693359375f, x);
  r = std::fma(-n, -2.12194440e-4f, r);
  float q = 0.001392621346613538f;
  for (const float c : {0.00836320297157575f, 0.04166655443768795f, 0.1666657684599398f, 0.5f}) {
    q = std::fma(q, r, c);
  }
  const float y = 1.0f + std::fma(q, r * r, r);
  return std::ldexp(y, static_cast<int>(n));
}

inline void TwinPenalise(const SamplingParams& params, const std::vector<int32_t>& recent,
                         std::vector<float>& logits) {
  constexpr float kMost = std::numeric_limits<float>::max();
  for (const int32_t id : recent) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
    float& logit = logits[id];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit = std::clamp(logit, -kMost, kMost);
  }
}

// `recent`: different ids. Steps that take all (top_k 0, top_p 1, penalty 1) are none.
inline TwinDraw DrawTwin(std::vector<float> logits, const SamplingParams& params,
                         const std::vector<int32_t>& recent = {}) {
  TwinDraw draw;
  for (uint32_t id = 0; id < logits.size(); ++id) {
    if (!std::isfinite(logits[id])) return {id, UINT32_MAX};
  }
  TwinPenalise(params, recent, logits);
  const float largest = *std::ranges::max_element(logits);
  std::vector<float> weights;
  for (const float logit : logits)
    weights.push_back(TwinExp((logit - largest) / params.temperature));

  std::vector<uint32_t> kept(logits.size());
  std::iota(kept.begin(), kept.end(), 0u);
  const auto keep_first = [&](size_t count) { kept.resize(std::min(count, kept.size())); };
  if (params.top_k > 0) {
    std::ranges::stable_sort(kept, [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
    keep_first(params.top_k);
    std::ranges::sort(kept);
  }
  const auto mass_of = [&](uint32_t id) { return transformer::MassOf(weights[id]); };
  const auto total = [&] {
    uint64_t sum = 0;
    for (const uint32_t id : kept) sum += mass_of(id);
    return sum;
  };
  if (params.top_p < 1) {
    const uint64_t goal = transformer::TopPMass(params.top_p, total());
    std::ranges::stable_sort(kept, [&](uint32_t a, uint32_t b) { return weights[a] > weights[b]; });
    size_t count = 0;
    for (uint64_t mass = 0; mass < goal; ++count) mass += mass_of(kept[count]);
    keep_first(count);
    std::ranges::sort(kept);
  }
  std::erase_if(kept, [&](uint32_t id) { return weights[id] < params.min_p; });
  const uint64_t place = transformer::DrawnMass(params.uniform, total());
  uint64_t mass = 0;
  for (const uint32_t id : kept) {
    mass += mass_of(id);
    if (place < mass) {
      draw.token = id;
      break;
    }
  }
  return draw;
}

}  // namespace tq::cuda
