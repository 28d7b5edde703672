// What the logits of one position say about the next token, in double precision.
#pragma once

#include <cstdint>
#include <span>

#include "device/executor.h"

namespace tq {

struct LogitScore {
  double nll = 0;  // -log p(target)
  double kl = 0;   // KL(reference || model); 0 without a reference
  double reference_nll = 0;
  bool top1 = false;  // both put the same token first (lowest id on ties)
};

// `reference`: the reference model's logits of the same position, or null.
LogitScore ScoreLogits(const float* logits, const float* reference, uint64_t vocab, int32_t target);

// The same of consecutive positions, one for each of `scores`: logits and reference (or null) are
// [scores, vocab], targets [scores].
void ScoreLogits(Executor& executor, const float* logits, const float* reference, uint64_t vocab,
                 const int32_t* targets, std::span<LogitScore> scores);

}  // namespace tq
