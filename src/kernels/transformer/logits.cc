// Dispatch and the portable level of logits.h.
#include "kernels/transformer/logits.h"

#include <cmath>

#include "kernels/isa.h"
#include "kernels/transformer/transformer_levels.h"

namespace tq::transformer {
namespace reference {

LogitStats RowStats(const float* logits, size_t n) {
  LogitStats stats;
  stats.max = -INFINITY;
  for (size_t i = 0; i < n; ++i) {
    if (logits[i] > stats.max) stats.max = logits[i], stats.argmax = i;
  }
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += std::exp(static_cast<double>(logits[i]) - static_cast<double>(stats.max));
  }
  stats.log_sum_exp = static_cast<double>(stats.max) + std::log(sum);
  return stats;
}

Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n) {
  Divergence result;
  result.p = RowStats(p_logits, n);
  result.q = RowStats(q_logits, n);
  for (size_t i = 0; i < n; ++i) {
    const double log_p = static_cast<double>(p_logits[i]) - result.p.log_sum_exp;
    const double log_q = static_cast<double>(q_logits[i]) - result.q.log_sum_exp;
    const double p = std::exp(log_p);
    if (p != 0) result.kl += p * (log_p - log_q);
  }
  return result;
}

}  // namespace reference

LogitStats RowStats(const float* logits, size_t n, Isa isa) {
  return TQ_AT_LEVEL(isa, RowStats)(logits, n);
}
LogitStats RowStats(const float* logits, size_t n) { return RowStats(logits, n, CurrentIsa()); }

Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n, Isa isa) {
  return TQ_AT_LEVEL(isa, RowDivergence)(p_logits, q_logits, n);
}
Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n) {
  return RowDivergence(p_logits, q_logits, n, CurrentIsa());
}

}  // namespace tq::transformer
