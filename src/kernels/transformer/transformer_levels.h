// The levels behind elementwise.h, attention.h and logits.h.
#pragma once

#include "kernels/transformer/attention.h"
#include "kernels/transformer/elementwise.h"
#include "kernels/transformer/logits.h"

namespace tq::transformer {

namespace reference {
extern const ElementwiseKernels kElementwise;
void Attention(const AttentionArgs& args);
void AttentionSpan(const AttentionArgs& args, size_t span, float* partial);
void MergeSpans(const AttentionArgs& args, const float* partials);
LogitStats RowStats(const float* logits, size_t n);
Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n);
}  // namespace reference

namespace avx2 {
extern const ElementwiseKernels kElementwise;
void Attention(const AttentionArgs& args);
void AttentionSpan(const AttentionArgs& args, size_t span, float* partial);
void MergeSpans(const AttentionArgs& args, const float* partials);
LogitStats RowStats(const float* logits, size_t n);
Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n);
}  // namespace avx2

namespace avx512 {
extern const ElementwiseKernels kElementwise;
void Attention(const AttentionArgs& args);
void AttentionSpan(const AttentionArgs& args, size_t span, float* partial);
void MergeSpans(const AttentionArgs& args, const float* partials);
LogitStats RowStats(const float* logits, size_t n);
Divergence RowDivergence(const float* p_logits, const float* q_logits, size_t n);
}  // namespace avx512

}  // namespace tq::transformer
