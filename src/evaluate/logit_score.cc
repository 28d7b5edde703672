#include "evaluate/logit_score.h"

#include <algorithm>

#include "kernels/transformer/logits.h"

namespace tq {

LogitScore ScoreLogits(const float* logits, const float* reference, uint64_t vocab,
                       int32_t target) {
  LogitScore score;
  if (reference == nullptr) {
    score.nll = transformer::RowStats(logits, vocab).log_sum_exp - logits[target];
    return score;
  }
  const transformer::Divergence divergence = transformer::RowDivergence(reference, logits, vocab);
  score.nll = divergence.q.log_sum_exp - logits[target];
  score.reference_nll = divergence.p.log_sum_exp - reference[target];
  score.kl = std::max(0.0, divergence.kl);  // below 0 only by rounding
  score.top1 = divergence.same_top1();
  return score;
}

void ScoreLogits(Executor& executor, const float* logits, const float* reference, uint64_t vocab,
                 const int32_t* targets, std::span<LogitScore> scores) {
  executor.ParallelFor(scores.size(), 1, [&](size_t from, size_t to, size_t) {
    for (size_t i = from; i < to; ++i) {
      const float* other = reference != nullptr ? reference + i * vocab : nullptr;
      scores[i] = ScoreLogits(logits + i * vocab, other, vocab, targets[i]);
    }
  });
}

}  // namespace tq
