// elementwise.h, attention.h and logits.h on AVX-512.
#include "kernels/gemm/simd_avx512.h"

namespace tq::transformer {
namespace {
// 4 vectors of scores, or 4 x 4 of sums of values, of 32 registers. More groups of keys at once are
// four streams for the prefetchers instead of one: a third slower from memory.
constexpr int kScoreVecs = 4, kValueRows = 4, kValueVecs = 4;
}  // namespace
}  // namespace tq::transformer

#include "kernels/transformer/attention-inl.h"
#include "kernels/transformer/elementwise-inl.h"
#include "kernels/transformer/logits-inl.h"

namespace tq::transformer::avx512 {

const ElementwiseKernels kElementwise = kElementwiseOfLevel;
void Attention(const AttentionArgs& args) { AttentionOfLevel(args); }
void AttentionSpan(const AttentionArgs& args, size_t span, float* partial) {
  AttentionSpanOfLevel(args, span, partial);
}
void MergeSpans(const AttentionArgs& args, const float* partials) {
  MergeSpansOfLevel(args, partials);
}
LogitStats RowStats(const float* logits, size_t n) { return RowStatsOfLevel(logits, n); }
Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n) {
  return RowDivergenceOfLevel(p_logits, q_logits, n);
}

}  // namespace tq::transformer::avx512
