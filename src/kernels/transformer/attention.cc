// Dispatch and the portable level of attention.h: query by query, in double within a span.
#include "kernels/transformer/attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/isa.h"
#include "kernels/transformer/transformer_levels.h"

namespace tq::transformer {
namespace reference {
namespace {

// What a query has seen: the weighted sum of values, relative to the largest score.
struct Seen {
  float* values;  // [head_dim]
  float max, sum;
};

// Keys [begin, end).
void AttendSpan(const AttentionArgs& args, const float* q, size_t begin, size_t end, Seen& seen) {
  const size_t dim = args.head_dim;
  uint16_t halves[kMaxHeadDim];
  float row[kMaxHeadDim];
  double sums[kMaxHeadDim] = {};
  double max = -INFINITY, sum = 0;
  for (size_t key = begin; key < end; ++key) {
    for (size_t i = 0; i < dim; ++i) halves[i] = args.keys[KeyIndex(key, i, dim)];
    kElementwise.half_to_float(halves, dim, row);
    double score = 0;
    for (size_t i = 0; i < dim; ++i) score += static_cast<double>(q[i]) * row[i];
    score *= static_cast<double>(args.scale);
    if (args.softcap != 0) score = args.softcap * std::tanh(score / args.softcap);
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
  for (size_t i = 0; i < dim; ++i) seen.values[i] = static_cast<float>(sums[i]);
  seen.max = static_cast<float>(max);
  seen.sum = static_cast<float>(sum * std::exp(max - static_cast<double>(seen.max)));
}

void Merge(size_t dim, const Seen& next, Seen& seen) {
  const float max = next.max <= seen.max ? seen.max : next.max;
  const float a = std::exp(seen.max - max), b = std::exp(next.max - max);
  for (size_t i = 0; i < dim; ++i) seen.values[i] = seen.values[i] * a + next.values[i] * b;
  seen.max = max;
  seen.sum = seen.sum * a + next.sum * b;
}

void Normalise(size_t dim, const Seen& seen) {
  for (size_t i = 0; i < dim; ++i) seen.values[i] /= seen.sum;
}

}  // namespace

void Attention(const AttentionArgs& args) {
  const size_t dim = args.head_dim;
  float values[kMaxHeadDim];
  for (size_t t = 0; t < args.n; ++t) {
    for (size_t head = 0; head < args.group; ++head) {
      const float* q = args.q + t * args.q_stride + head * dim;
      const size_t length = args.first + t + 1, seen = FirstKey(length - 1, args.window);
      Seen all{args.out + t * args.out_stride + head * dim, 0, 0}, next{values, 0, 0};
      const size_t first = FirstSpan(seen);
      AttendSpan(args, q, seen, std::min(length, (first + 1) * kSpanKeys), all);
      for (size_t begin = (first + 1) * kSpanKeys; begin < length; begin += kSpanKeys) {
        AttendSpan(args, q, begin, std::min(length, begin + kSpanKeys), next);
        Merge(dim, next, all);
      }
      Normalise(dim, all);
    }
  }
}

void AttentionSpan(const AttentionArgs& args, size_t span, float* partial) {
  const size_t dim = args.head_dim;
  const size_t begin = std::max(span * kSpanKeys, FirstKey(args.first, args.window));
  const size_t end = std::min(args.first + 1, (span + 1) * kSpanKeys);
  for (size_t head = 0; head < args.group; ++head, partial += dim + 2) {
    Seen seen{partial, 0, 0};
    AttendSpan(args, args.q + head * dim, begin, end, seen);
    partial[dim] = seen.max;
    partial[dim + 1] = seen.sum;
  }
}

void MergeSpans(const AttentionArgs& args, const float* partials) {
  const size_t dim = args.head_dim;
  const size_t spans = SpansOf(args.first + 1) - FirstSpan(FirstKey(args.first, args.window));
  float values[kMaxHeadDim];
  for (size_t head = 0; head < args.group; ++head) {
    const float* partial = partials + head * (dim + 2);
    Seen all{args.out + head * dim, partial[dim], partial[dim + 1]};
    std::copy_n(partial, dim, all.values);
    for (size_t span = 1; span < spans; ++span) {
      partial += PartialFloats(args.group, dim);
      std::copy_n(partial, dim, values);
      Merge(dim, {values, partial[dim], partial[dim + 1]}, all);
    }
    Normalise(dim, all);
  }
}

}  // namespace reference

void Attention(const AttentionArgs& args, Isa isa) { TQ_AT_LEVEL(isa, Attention)(args); }
void Attention(const AttentionArgs& args) { Attention(args, CurrentIsa()); }

void AttentionSpan(const AttentionArgs& args, size_t span, float* partial, Isa isa) {
  TQ_AT_LEVEL(isa, AttentionSpan)(args, span, partial);
}
void AttentionSpan(const AttentionArgs& args, size_t span, float* partial) {
  AttentionSpan(args, span, partial, CurrentIsa());
}

void MergeSpans(const AttentionArgs& args, const float* partials, Isa isa) {
  TQ_AT_LEVEL(isa, MergeSpans)(args, partials);
}
void MergeSpans(const AttentionArgs& args, const float* partials) {
  MergeSpans(args, partials, CurrentIsa());
}

}  // namespace tq::transformer
