// What the logits of one position say about the next token, in double precision.
#pragma once

#include <cstdint>

namespace tq {

struct LogitScore {
  double nll = 0;  // -log p(target)
  double kl = 0;   // KL(reference || model); 0 without a reference
  double reference_nll = 0;
  bool top1 = false;  // both put the same token first (lowest id on ties)
};

// `reference`: the reference model's logits of the same position, or null.
LogitScore ScoreLogits(const float* logits, const float* reference, uint64_t vocab, int32_t target);

}  // namespace tq
