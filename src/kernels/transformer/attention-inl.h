// attention.h in terms of simd::Vec. A file of one level defines, in tq::transformer,
// kScoreVecs (accumulators of scores), kValueRows and kValueVecs (of the product with the
// values) and includes this after elementwise-inl.h.
#pragma once

#include "kernels/transformer/elementwise-inl.h"

namespace tq::transformer {
namespace {

// Keys per step, at absolute positions divisible by it: the running maximum and sum are
// brought up to date once per block. 64 x 64 floats are 16 KiB of the first-level cache.
constexpr size_t kKeyBlock = 64;
constexpr size_t kKeyVecs = kKeyBlock / kLanes;
// Queries that share one conversion of a block to float; it then costs about 5 %.
constexpr size_t kQueryBlock = 32;
// Up to that many queries of one position convert as they go: nothing is written.
constexpr size_t kDirectQueries = 8;

// One query and its state.
struct Query {
  float* out;            // unnormalised sum of values
  size_t begin, length;  // keys [begin, length) that it sees
  float max, sum;        // over the keys so far
};

struct Workspace {
  // Keys [group of kKeysTogether][dim][kKeysTogether], then values [key][padded dim].
  alignas(64) float block[kKeyBlock * kMaxHeadDim];
  alignas(64) float q[kQueryBlock * kMaxHeadDim];  // scaled and padded with 0
  alignas(64) float weights[kQueryBlock][kKeyBlock];
  alignas(64) float span[kQueryBlock * kMaxHeadDim];  // sums of values of a span
  Query queries[kQueryBlock];                         // of a span
};

// Rows of halves to floats; columns of padding are 0.
inline void ConvertBlock(const uint16_t* rows, size_t count, size_t dim, size_t padded,
                         float* block) {
  for (size_t row = 0; row < count; ++row, rows += dim, block += padded) {
    ForVectors(dim, [&](size_t i, size_t n) {
      simd::Store(block + i,
                  n == kLanes ? simd::LoadHalf(rows + i) : simd::LoadHalfFirst(rows + i, n));
    });
  }
}

// Groups of keys and rows of values as the arithmetic reads them, 16 at a time: converted, or as
// they lie in the cache.
struct FloatRows {
  const float* begin;
  size_t stride;

  Vec At(size_t row, size_t i) const { return simd::Load(begin + row * stride + i); }
  void Prefetch(size_t, size_t) const {}
};
struct HalfRows {
  const uint16_t* begin;
  size_t stride;
  const uint16_t* next;  // what is read after it, as many halves

  Vec At(size_t row, size_t i) const { return simd::LoadHalf(begin + row * stride + i); }
  // Asks for the line of `next` where At is here: keys and values take turns every few KiB, too
  // short for the processor to foresee.
  void Prefetch(size_t row, size_t i) const { __builtin_prefetch(next + row * stride + i, 0, 2); }
};
constexpr size_t kHalvesPerLine = 32;

// Groups of keys that kRows queries meet at once.
constexpr int GroupsAtOnce(int rows) {
  int groups = kKeyVecs;
  while (groups > 1 && groups * rows > kScoreVecs) groups /= 2;
  return groups;
}

// Scores of kRows queries, [query][padded] at q, with the keys of kGroups groups: one chain of
// additions for each, along the dimension.
template <int kRows, int kGroups, class Rows>
inline void Scores(const float* q, const Rows& keys, size_t group, size_t dim, size_t padded,
                   Vec (&scores)[kRows][kKeyVecs]) {
  Vec acc[kRows][kGroups];
  for (auto& row : acc) {
    for (Vec& sum : row) sum = simd::Zero();
  }
  for (size_t i = 0; i < dim; ++i) {
    Vec key[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      if (i * kLanes % kHalvesPerLine == 0) keys.Prefetch(group + g, i * kLanes);
      key[g] = keys.At(group + g, i * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const Vec value = simd::Set1(q[r * padded + i]);
      for (int g = 0; g < kGroups; ++g) acc[r][g] = simd::Fma(value, key[g], acc[r][g]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) scores[r][group + g] = acc[r][g];
  }
}

// Which of a vector's lanes are of keys before `key`: the first so many.
inline size_t InVector(size_t key, size_t vector) {
  const size_t first = vector * kLanes;
  return key <= first ? 0 : MinOf(kLanes, key - first);
}

// Keys [begin, end) of a block.
struct Seen {
  size_t begin, end;
};

// Scores of a block's keys for kRows queries that see `seen` of them, ascending; minus infinity for
// those that a query does not see.
template <int kRows, class Rows>
inline void BlockScores(const float* q, const Rows& keys, size_t dim, size_t padded, float softcap,
                        const Seen (&seen)[kRows], Vec (&scores)[kRows][kKeyVecs]) {
  static_assert(kKeysTogether == kLanes);
  constexpr size_t kGroups = GroupsAtOnce(kRows);
  const Vec lowest = simd::Set1(-__builtin_inff());
  const size_t groups = (seen[kRows - 1].end + kLanes - 1) / kLanes;
  size_t group = 0;
  for (; group + kGroups <= groups; group += kGroups) {
    Scores<kRows, kGroups>(q, keys, group, dim, padded, scores);
  }
  for (; group < groups; ++group) Scores<kRows, 1>(q, keys, group, dim, padded, scores);
  for (int r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kKeyVecs; ++v) {
      const size_t before = InVector(seen[r].begin, v), until = InVector(seen[r].end, v);
      if (before >= until) {
        scores[r][v] = lowest;
        continue;
      }
      if (softcap != 0) scores[r][v] = Capped(scores[r][v], softcap);
      scores[r][v] = simd::SelectFirst(until, scores[r][v], lowest);
      if (before > 0) scores[r][v] = simd::SelectFirst(before, lowest, scores[r][v]);
    }
  }
}

// Turns the scores of a block into weights exp(score - max) of a new running maximum; what was
// summed before is scaled to it.
inline void UpdateQuery(const Vec (&scores)[kKeyVecs], size_t dim, float* weights, Query& query) {
  Vec max = simd::Set1(-__builtin_inff());
  for (const Vec& score : scores) max = simd::Max(score, max);
  const float top = simd::MaxLane(max);
  if (top == -__builtin_inff()) {  // behind the window: none of these is seen
    for (size_t v = 0; v < kKeyVecs; ++v) simd::Store(weights + v * kLanes, simd::Zero());
    return;
  }
  if (!(top <= query.max)) {
    float factors[kLanes];
    simd::Store(factors, ExpOf(simd::Set1(query.max - top)));
    query.max = top;
    query.sum *= factors[0];
    const Vec factor = simd::Set1(factors[0]);
    ForVectors(dim, [&](size_t i, size_t n) {
      StoreCount(query.out + i, n, simd::Mul(LoadCount(query.out + i, n), factor));
    });
  }
  const Vec offset = simd::Set1(query.max);
  Vec sum = simd::Zero();
  for (size_t v = 0; v < kKeyVecs; ++v) {
    const Vec weight = ExpOf(simd::Sub(scores[v], offset));
    simd::Store(weights + v * kLanes, weight);
    sum = simd::Add(sum, weight);
  }
  query.sum += simd::Sum(sum);
}

// out += sum of weight * value over keys [begin, end), one chain per element in this order.
template <int kRows, int kVecs, class Rows>
inline void AddValues(const Query* queries, const float (*weights)[kKeyBlock], size_t begin,
                      size_t end, const Rows& values, size_t column, size_t last) {
  Vec acc[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = LoadCount(queries[r].out + column + v * kLanes, v + 1 < kVecs ? kLanes : last);
    }
  }
  for (size_t key = begin; key < end; ++key) {
    Vec value[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      if (v * kLanes % kHalvesPerLine == 0) values.Prefetch(key, column + v * kLanes);
      value[v] = values.At(key, column + v * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const Vec weight = simd::Set1(weights[r][key]);
      for (int v = 0; v < kVecs; ++v) acc[r][v] = simd::Fma(weight, value[v], acc[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      StoreCount(queries[r].out + column + v * kLanes, v + 1 < kVecs ? kLanes : last, acc[r][v]);
    }
  }
}

// AddValues over all columns, with the sizes of the tile as constants.
template <int kRows, class Rows>
inline void AddValuesOfRows(const Query* queries, const float (*weights)[kKeyBlock], size_t begin,
                            size_t end, const Rows& values, size_t dim) {
  size_t column = 0;
  for (; column + kValueVecs * kLanes <= dim; column += kValueVecs * kLanes) {
    AddValues<kRows, kValueVecs>(queries, weights, begin, end, values, column, kLanes);
  }
  for (; column < dim; column += kLanes) {
    AddValues<kRows, 1>(queries, weights, begin, end, values, column, MinOf(kLanes, dim - column));
  }
}

// The values of one block for all queries [0, count) that see any of it.
inline void AddBlockValues(Workspace& work, size_t count, size_t base, size_t dim, size_t padded) {
  const FloatRows values{work.block, padded};
  size_t i = 0;
  while (i < count) {
    const Query* queries = work.queries + i;
    const auto seen = [&](size_t r) {
      return queries[r].length <= base ? 0 : MinOf(kKeyBlock, queries[r].length - base);
    };
    if (seen(0) == 0) {
      ++i;
      continue;
    }
    // Lengths ascend: the first of the rows sees least. The rest of the others follows.
    const size_t shared = seen(0);
    if (count - i >= kValueRows) {
      AddValuesOfRows<kValueRows>(queries, work.weights + i, 0, shared, values, dim);
      for (size_t r = 1; r < kValueRows; ++r) {
        if (seen(r) > shared) {
          AddValuesOfRows<1>(queries + r, work.weights + i + r, shared, seen(r), values, dim);
        }
      }
      i += kValueRows;
    } else {
      AddValuesOfRows<1>(queries, work.weights + i, 0, shared, values, dim);
      ++i;
    }
  }
}

// One block for kRows queries of one position from the i-th on, straight from the cache.
template <int kRows>
inline void AttendDirectly(const HalfRows& keys, const HalfRows& values, size_t dim, float softcap,
                           Seen of_block, size_t i, Workspace& work) {
  Vec scores[kRows][kKeyVecs];
  Seen seen[kRows];
  for (Seen& keys_of_query : seen) keys_of_query = of_block;
  BlockScores(work.q + i * dim, keys, dim, dim, softcap, seen, scores);
  for (int r = 0; r < kRows; ++r) {
    UpdateQuery(scores[r], dim, work.weights[i + r], work.queries[i + r]);
  }
  AddValuesOfRows<kRows>(work.queries + i, work.weights + i, of_block.begin, of_block.end, values,
                         dim);
}

inline void AttendBlockDirectly(const AttentionArgs& args, size_t base, size_t keys, size_t count,
                                Workspace& work) {
  const size_t dim = args.head_dim;
  const uint16_t *block = args.keys + base * dim, *values = args.values + base * dim;
  const HalfRows k{block, dim * kLanes, values}, v{values, dim, block + kKeyBlock * dim};
  const size_t begin = work.queries[0].begin;
  const Seen seen{begin <= base ? 0 : begin - base, keys};
  const float cap = args.softcap;
  size_t i = 0;
  for (; i + 4 <= count; i += 4) AttendDirectly<4>(k, v, dim, cap, seen, i, work);
  if (count - i == 3) AttendDirectly<3>(k, v, dim, cap, seen, i, work);
  if (count - i == 2) AttendDirectly<2>(k, v, dim, cap, seen, i, work);
  if (count - i == 1) AttendDirectly<1>(k, v, dim, cap, seen, i, work);
}

// The weights of a block for kRows queries from the i-th on, which all see some of it.
template <int kRows>
inline void WeighBlock(const FloatRows& keys, size_t base, size_t dim, size_t padded, float softcap,
                       size_t i, Workspace& work) {
  Vec scores[kRows][kKeyVecs];
  Seen seen[kRows];
  for (int r = 0; r < kRows; ++r) {
    const Query& query = work.queries[i + r];
    seen[r] = {query.begin <= base ? 0 : query.begin - base, MinOf(kKeyBlock, query.length - base)};
  }
  BlockScores(work.q + i * padded, keys, dim, padded, softcap, seen, scores);
  for (int r = 0; r < kRows; ++r) {
    UpdateQuery(scores[r], dim, work.weights[i + r], work.queries[i + r]);
  }
}

// One block for all queries that see any of it, converted once.
inline void AttendBlock(const AttentionArgs& args, size_t base, size_t keys, size_t count,
                        Workspace& work) {
  const size_t dim = args.head_dim, padded = RoundUpToLanes(dim);
  ConvertBlock(args.keys + base * dim, RoundUpToLanes(keys) / kLanes, dim * kLanes, dim * kLanes,
               work.block);
  const FloatRows rows{work.block, dim * kLanes};
  size_t i = 0;
  while (i < count && work.queries[i].length <= base) ++i;  // lengths ascend
  const float cap = args.softcap;
  for (; i + 4 <= count; i += 4) WeighBlock<4>(rows, base, dim, padded, cap, i, work);
  for (; i < count; ++i) WeighBlock<1>(rows, base, dim, padded, cap, i, work);
  ConvertBlock(args.values + base * dim, keys, dim, padded, work.block);
  AddBlockValues(work, count, base, dim, padded);
}

// Scaled and padded queries [begin, begin + count), numbered position by position.
inline void LoadQueries(const AttentionArgs& args, size_t begin, size_t count, Workspace& work) {
  const size_t dim = args.head_dim, padded = RoundUpToLanes(dim);
  const Vec scale = simd::Set1(args.scale);
  for (size_t i = 0; i < count; ++i) {
    const size_t t = (begin + i) / args.group, head = (begin + i) % args.group;
    work.queries[i].begin = FirstKey(args.first + t, args.window);
    work.queries[i].length = args.first + t + 1;
    const float* q = args.q + t * args.q_stride + head * dim;
    ForVectors(dim, [&](size_t at, size_t n) {
      simd::Store(work.q + i * padded + at, simd::Mul(LoadCount(q + at, n), scale));
    });
  }
}

// The keys of a span for the first `count` queries, whose state begins anew.
inline void AttendSpan(const AttentionArgs& args, size_t span, size_t count, Workspace& work) {
  const size_t dim = args.head_dim;
  for (size_t i = 0; i < count; ++i) {
    Query& query = work.queries[i];
    query.max = -__builtin_inff();
    query.sum = 0;
    ForVectors(dim, [&](size_t at, size_t n) { StoreCount(query.out + at, n, simd::Zero()); });
  }
  const bool direct = args.n == 1 && count <= kDirectQueries && dim % kLanes == 0;
  const size_t end = MinOf(work.queries[count - 1].length, (span + 1) * kSpanKeys);
  // From the first block that a query sees some of; begins ascend.
  const size_t begin = work.queries[0].begin / kKeyBlock * kKeyBlock;
  for (size_t base = MaxOf(begin, span * kSpanKeys); base < end; base += kKeyBlock) {
    const size_t keys = MinOf(kKeyBlock, end - base);
    if (direct) {
      AttendBlockDirectly(args, base, keys, count, work);
    } else {
      AttendBlock(args, base, keys, count, work);
    }
  }
}

// Adds what the query saw in a later span.
inline void Merge(const float* values, float max, float sum, size_t dim, Query& query) {
  const float top = max <= query.max ? query.max : max;  // NaN spoils everything, as it must
  float a[kLanes], b[kLanes];
  simd::Store(a, ExpOf(simd::Set1(query.max - top)));
  simd::Store(b, ExpOf(simd::Set1(max - top)));
  const Vec before = simd::Set1(a[0]), later = simd::Set1(b[0]);
  ForVectors(dim, [&](size_t at, size_t n) {
    const Vec scaled = simd::Mul(LoadCount(query.out + at, n), before);
    StoreCount(query.out + at, n, simd::Fma(LoadCount(values + at, n), later, scaled));
  });
  float sums[kLanes];
  simd::Store(sums, simd::Fma(simd::Set1(sum), later, simd::Mul(simd::Set1(query.sum), before)));
  query.max = top;
  query.sum = sums[0];
}

// Begins with what the query saw in its first span.
inline void Take(const Query& seen, size_t dim, Query& query) {
  ForVectors(dim, [&](size_t at, size_t n) {
    StoreCount(query.out + at, n, LoadCount(seen.out + at, n));
  });
  query.max = seen.max;
  query.sum = seen.sum;
}

inline void Normalise(size_t dim, const Query& query) {
  const Vec inverse = simd::Set1(1.0f / query.sum);
  ForVectors(dim, [&](size_t at, size_t n) {
    StoreCount(query.out + at, n, simd::Mul(LoadCount(query.out + at, n), inverse));
  });
}

// Queries [begin, begin + count), span by span.
inline void AttendQueries(const AttentionArgs& args, size_t begin, size_t count, Workspace& work) {
  const size_t dim = args.head_dim;
  LoadQueries(args, begin, count, work);
  Query all[kQueryBlock];
  for (size_t i = 0; i < count; ++i) {
    const size_t t = (begin + i) / args.group, head = (begin + i) % args.group;
    work.queries[i].out = args.out + t * args.out_stride + head * dim;
  }
  const size_t first = FirstSpan(work.queries[0].begin);
  AttendSpan(args, first, count, work);
  for (size_t i = 0; i < count; ++i) {
    all[i] = work.queries[i];
    work.queries[i].out = work.span + i * dim;
  }
  for (size_t span = first + 1; span < SpansOf(all[count - 1].length); ++span) {
    AttendSpan(args, span, count, work);
    for (size_t i = 0; i < count; ++i) {
      const Query& query = work.queries[i];
      if (query.length <= span * kSpanKeys) continue;
      if (FirstSpan(query.begin) < span) {
        Merge(query.out, query.max, query.sum, dim, all[i]);
      } else if (FirstSpan(query.begin) == span) {
        Take(query, dim, all[i]);
      }
    }
  }
  for (size_t i = 0; i < count; ++i) Normalise(dim, all[i]);
}

void AttentionOfLevel(const AttentionArgs& args) {
  Workspace work;
  const size_t total = args.n * args.group;
  for (size_t begin = 0; begin < total; begin += kQueryBlock) {
    AttendQueries(args, begin, MinOf(kQueryBlock, total - begin), work);
  }
}

void AttentionSpanOfLevel(const AttentionArgs& args, size_t span, float* partial) {
  Workspace work;
  const size_t dim = args.head_dim;
  for (size_t begin = 0; begin < args.group; begin += kQueryBlock) {
    const size_t count = MinOf(kQueryBlock, args.group - begin);
    LoadQueries(args, begin, count, work);
    for (size_t i = 0; i < count; ++i) work.queries[i].out = partial + (begin + i) * (dim + 2);
    AttendSpan(args, span, count, work);
    for (size_t i = 0; i < count; ++i) {
      work.queries[i].out[dim] = work.queries[i].max;
      work.queries[i].out[dim + 1] = work.queries[i].sum;
    }
  }
}

void MergeSpansOfLevel(const AttentionArgs& args, const float* partials) {
  const size_t dim = args.head_dim, seen = FirstKey(args.first, args.window);
  const size_t spans = SpansOf(args.first + 1) - FirstSpan(seen);
  for (size_t head = 0; head < args.group; ++head) {
    const float* partial = partials + head * (dim + 2);
    Query all{args.out + head * dim, seen, args.first + 1, partial[dim], partial[dim + 1]};
    ForVectors(
        dim, [&](size_t at, size_t n) { StoreCount(all.out + at, n, LoadCount(partial + at, n)); });
    for (size_t span = 1; span < spans; ++span) {
      partial += PartialFloats(args.group, dim);
      Merge(partial, partial[dim], partial[dim + 1], dim, all);
    }
    Normalise(dim, all);
  }
}

}  // namespace
}  // namespace tq::transformer
