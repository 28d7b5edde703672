#include "evaluate/logit_score.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

uint64_t ArgMax(const float* logits, uint64_t vocab) {
  return std::max_element(logits, logits + vocab) - logits;
}

}  // namespace

LogitScore ScoreLogits(const float* logits, const float* reference, uint64_t vocab,
                       int32_t target) {
  LogitScore score;
  const uint64_t best = ArgMax(logits, vocab);
  const double largest = logits[best];
  double sum = 0;
  for (uint64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - largest);
  const double log_sum = largest + std::log(sum);
  score.nll = log_sum - logits[target];
  if (reference == nullptr) return score;

  // sum_i p_i (log p_i - log q_i) with log p_i = r_i - log_sum_r, log q_i = l_i - log_sum.
  const uint64_t reference_best = ArgMax(reference, vocab);
  const double reference_largest = reference[reference_best];
  double reference_sum = 0, weighted = 0;
  for (uint64_t i = 0; i < vocab; ++i) {
    const double p = std::exp(reference[i] - reference_largest);
    reference_sum += p;
    weighted += p * (static_cast<double>(reference[i]) - logits[i]);
  }
  const double reference_log_sum = reference_largest + std::log(reference_sum);
  // Never negative but for rounding.
  score.kl = std::max(0.0, weighted / reference_sum - reference_log_sum + log_sum);
  score.top1 = best == reference_best;
  return score;
}

}  // namespace tq
