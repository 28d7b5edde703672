// Statistics of rows of logits, in double: for evaluation and sampling.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tq {
enum class Isa;
}

namespace tq::transformer {

struct LogitStats {
  float max = 0;
  size_t argmax = 0;       // the lowest index of the greatest value
  double log_sum_exp = 0;  // log p[i] = logits[i] - log_sum_exp
};

// n >= 1. log_sum_exp is off by at most 1e-13 + |max| 2^-52; NaN if a logit is NaN, or +inf, or
// if all are -inf.
LogitStats RowStats(const float* logits, size_t n);
LogitStats RowStats(const float* logits, size_t n, Isa isa);

// KL(p || q) = sum_i p_i (log p_i - log q_i) of the distributions of two rows of logits; its
// error is at most about 1e-12 (1 + max |log p - log q|). Infinite if q is 0 where p is not.
struct Divergence {
  double kl = 0;
  LogitStats p, q;
  bool same_top1() const { return p.argmax == q.argmax; }
};
Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n);
Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n, Isa isa);

}  // namespace tq::transformer
