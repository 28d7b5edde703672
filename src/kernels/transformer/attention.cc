// Dispatch and the portable level of attention.h: query by query, in double.
#include "kernels/transformer/attention.h"

#include <cmath>

#include "kernels/isa.h"
#include "kernels/transformer/transformer_levels.h"

namespace tq::transformer {
namespace reference {
namespace {

void AttendOne(const AttentionArgs& args, const float* q, size_t length, float* out) {
  const size_t dim = args.head_dim;
  float row[kMaxHeadDim];
  double sums[kMaxHeadDim] = {};
  double max = -INFINITY, sum = 0;
  for (size_t key = 0; key < length; ++key) {
    kElementwise.half_to_float(args.keys + key * dim, dim, row);
    double score = 0;
    for (size_t i = 0; i < dim; ++i) score += static_cast<double>(q[i]) * row[i];
    score *= static_cast<double>(args.scale);
    if (!(score <= max)) {  // also for NaN, which then spoils everything, as it must
      const double factor = std::exp(max - score);
      max = score;
      sum *= factor;
      for (size_t i = 0; i < dim; ++i) sums[i] *= factor;
    }
    const double weight = std::exp(score - max);
    sum += weight;
    kElementwise.half_to_float(args.values + key * dim, dim, row);
    for (size_t i = 0; i < dim; ++i) sums[i] += weight * row[i];
  }
  for (size_t i = 0; i < dim; ++i) out[i] = static_cast<float>(sums[i] / sum);
}

}  // namespace

void Attention(const AttentionArgs& args) {
  for (size_t t = 0; t < args.n; ++t) {
    for (size_t head = 0; head < args.group; ++head) {
      AttendOne(args, args.q + t * args.q_stride + head * args.head_dim, args.first + t + 1,
                args.out + t * args.out_stride + head * args.head_dim);
    }
  }
}

}  // namespace reference

void Attention(const AttentionArgs& args, Isa isa) {
#ifdef TQ_X86
  if (CommonIsa(isa) == Isa::kAvx512) return avx512::Attention(args);
  if (isa != Isa::kReference) return avx2::Attention(args);
#endif
  (void)isa;
  reference::Attention(args);
}
void Attention(const AttentionArgs& args) { Attention(args, CurrentIsa()); }

}  // namespace tq::transformer
