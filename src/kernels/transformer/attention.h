// Causal attention over a cache in half precision.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tq {
enum class Isa;
}

namespace tq::transformer {

inline constexpr size_t kMaxHeadDim = 256;
// Positions whose keys lie side by side: value i of each, then value i + 1. Scores of so many keys
// are sums of vectors then, without one sum across lanes.
inline constexpr size_t kKeysTogether = 16;
// Where value i of a position's key is.
constexpr size_t KeyIndex(size_t position, size_t i, size_t head_dim) {
  return (position / kKeysTogether * head_dim + i) * kKeysTogether + position % kKeysTogether;
}

// Attention of n consecutive positions, for one KV head and the `group` query heads that
// share it. Position t (absolute: first + t) sees keys and values [0, first + t], or the last
// `window` of them:
//   out = softmax(cap(scale * q K^T)) V, cap(s) = softcap * tanh(s / softcap) if that is not 0.
struct AttentionArgs {
  size_t n = 0, group = 1, head_dim = 0;  // head_dim <= kMaxHeadDim
  size_t first = 0;
  size_t window = 0;         // 0: all keys
  float scale = 1;           // 1 / sqrt(head_dim), mostly
  float softcap = 0;         // 0: none
  const float* q = nullptr;  // position t, head h of the group: q + t * q_stride + h * head_dim
  size_t q_stride = 0;
  // IEEE half [ceil((first + n) / kKeysTogether), head_dim, kKeysTogether]
  const uint16_t* keys = nullptr;
  const uint16_t* values = nullptr;  // [first + n or more, head_dim]
  float* out = nullptr;              // as q; not overlapping it
  size_t out_stride = 0;
};

// Keys are visited in blocks of fixed absolute positions, with a running maximum and sum
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), which begin anew
// with each span of kSpanKeys positions; spans are then merged in order. So the result of a
// query has the same bits whether it comes alone or among others, and a caller may split n, the
// KV heads and, for one position, the spans over threads in any way. The levels AVX2 and AVX-512
// give the same bits; against the plain level (in double within a span) they err by at most
// (d + len / 16 + 32) 2^-23 (1 + 2 max |scale q k|) max |v|, with a softcap by 2^-20 softcap max
// |v| more. Non-finite scores give NaN. Uses about 140 KiB of stack.
void Attention(const AttentionArgs& args);
void Attention(const AttentionArgs& args, Isa isa);

inline constexpr size_t kSpanKeys = 256;
// The first key that a position sees.
constexpr size_t FirstKey(size_t position, size_t window) {
  return window == 0 || position < window ? 0 : position + 1 - window;
}
// Spans of the first `length` keys; the first of them that has one of keys [begin, ..). Floats of
// the partial result of one: of each query the weighted sum of values [head_dim], the largest
// score, and the sum of weights relative to it.
constexpr size_t SpansOf(size_t length) { return (length + kSpanKeys - 1) / kSpanKeys; }
constexpr size_t FirstSpan(size_t begin) { return begin / kSpanKeys; }
constexpr size_t PartialFloats(size_t group, size_t head_dim) { return group * (head_dim + 2); }

// The same for n = 1 in two steps: the partial result of keys [span * kSpanKeys, ..), for each span
// that the position sees any of, and the merge of all of them into out, [spans][PartialFloats] from
// the first seen on.
void AttentionSpan(const AttentionArgs& args, size_t span, float* partial);
void AttentionSpan(const AttentionArgs& args, size_t span, float* partial, Isa isa);
void MergeSpans(const AttentionArgs& args, const float* partials);
void MergeSpans(const AttentionArgs& args, const float* partials, Isa isa);

}  // namespace tq::transformer
