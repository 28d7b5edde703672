// elementwise.h, attention.h and logits.h on AVX2.
#include "kernels/gemm/simd_avx2.h"

namespace tq::transformer {
namespace {
// 4 vectors of scores, or 4 x 1 of sums of values: a Vec is two of 16 registers.
constexpr int kScoreVecs = 4, kValueRows = 4, kValueVecs = 1;
}  // namespace
}  // namespace tq::transformer

#include "kernels/transformer/attention-inl.h"
#include "kernels/transformer/elementwise-inl.h"
#include "kernels/transformer/logits-inl.h"

namespace tq::transformer::avx2 {

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

}  // namespace tq::transformer::avx2
