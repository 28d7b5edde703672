// attention.h in terms of simd::Vec. A file of one level defines, in tq::transformer,
// kRowsAtOnce (keys whose dot products run side by side; divides 16), kValueRows and
// kValueVecs (accumulators of the product with the values) and includes this after
// elementwise-inl.h.
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

// One query and its state.
struct Query {
  float* out;      // unnormalised sum of values until the end
  size_t length;   // keys it sees
  float max, sum;  // over the keys so far
};

struct Workspace {
  alignas(64) float block[kKeyBlock * kMaxHeadDim];  // keys, then values: [key][padded dim]
  alignas(64) float q[kQueryBlock * kMaxHeadDim];    // scaled and padded with 0
  alignas(64) float weights[kQueryBlock][kKeyBlock];
  Query queries[kQueryBlock];
};

// Rows of halves to floats; rows and columns of padding are 0.
inline void ConvertBlock(const uint16_t* rows, size_t count, size_t dim, size_t padded,
                         float* block) {
  for (size_t row = 0; row < count; ++row, rows += dim, block += padded) {
    ForVectors(dim, [&](size_t i, size_t n) {
      simd::Store(block + i,
                  n == kLanes ? simd::LoadHalf(rows + i) : simd::LoadHalfFirst(rows + i, n));
    });
  }
  for (size_t i = 0; i < (RoundUpToLanes(count) - count) * padded; i += kLanes) {
    simd::Store(block + i, simd::Zero());
  }
}

// Scores of 16 keys.
inline Vec Scores(const float* q, const float* keys, size_t padded) {
  Vec sums[kLanes];
  for (size_t first = 0; first < kLanes; first += kRowsAtOnce) {
    Vec acc[kRowsAtOnce];
    for (Vec& sum : acc) sum = simd::Zero();
    const float* row = keys + first * padded;
    for (size_t i = 0; i < padded; i += kLanes) {
      const Vec part = simd::Load(q + i);
      for (size_t r = 0; r < kRowsAtOnce; ++r) {
        acc[r] = simd::Fma(part, simd::Load(row + r * padded + i), acc[r]);
      }
    }
    for (size_t r = 0; r < kRowsAtOnce; ++r) sums[first + r] = acc[r];
  }
  return simd::SumRows(sums);
}

// Scores of the block's first `count` keys, turned into weights exp(score - max) of a new
// running maximum; what was summed before is scaled to it.
inline void UpdateQuery(const float* q, const float* keys, size_t padded, size_t count, size_t dim,
                        float* weights, Query& query) {
  const Vec lowest = simd::Set1(-__builtin_inff());
  Vec scores[kKeyVecs];
  Vec max = lowest;
  for (size_t v = 0; v < kKeyVecs; ++v) {
    scores[v] = lowest;
    if (v * kLanes >= count) continue;
    scores[v] = simd::SelectFirst(MinOf(kLanes, count - v * kLanes),
                                  Scores(q, keys + v * kLanes * padded, padded), lowest);
    max = simd::Max(scores[v], max);
  }
  const float top = simd::MaxLane(max);
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
template <int kRows, int kVecs>
inline void AddValues(const Query* queries, const float (*weights)[kKeyBlock], size_t begin,
                      size_t end, const float* values, size_t padded, size_t column, size_t last) {
  Vec acc[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = LoadCount(queries[r].out + column + v * kLanes, v + 1 < kVecs ? kLanes : last);
    }
  }
  for (size_t key = begin; key < end; ++key) {
    Vec value[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      value[v] = simd::Load(values + key * padded + column + v * kLanes);
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
template <int kRows>
inline void AddValuesOfRows(const Query* queries, const float (*weights)[kKeyBlock], size_t begin,
                            size_t end, const float* values, size_t dim, size_t padded) {
  size_t column = 0;
  for (; column + kValueVecs * kLanes <= dim; column += kValueVecs * kLanes) {
    AddValues<kRows, kValueVecs>(queries, weights, begin, end, values, padded, column, kLanes);
  }
  for (; column < dim; column += kLanes) {
    AddValues<kRows, 1>(queries, weights, begin, end, values, padded, column,
                        MinOf(kLanes, dim - column));
  }
}

// The values of one block for all queries [0, count) that see any of it.
inline void AddBlockValues(Workspace& work, size_t count, size_t base, size_t dim, size_t padded) {
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
      AddValuesOfRows<kValueRows>(queries, work.weights + i, 0, shared, work.block, dim, padded);
      for (size_t r = 1; r < kValueRows; ++r) {
        if (seen(r) > shared) {
          AddValuesOfRows<1>(queries + r, work.weights + i + r, shared, seen(r), work.block, dim,
                             padded);
        }
      }
      i += kValueRows;
    } else {
      AddValuesOfRows<1>(queries, work.weights + i, 0, shared, work.block, dim, padded);
      ++i;
    }
  }
}

// Queries [begin, begin + count), numbered position by position.
inline void AttendQueries(const AttentionArgs& args, size_t begin, size_t count, Workspace& work) {
  const size_t dim = args.head_dim, padded = RoundUpToLanes(dim);
  const Vec scale = simd::Set1(args.scale);
  for (size_t i = 0; i < count; ++i) {
    const size_t t = (begin + i) / args.group, head = (begin + i) % args.group;
    work.queries[i] = {args.out + t * args.out_stride + head * dim, args.first + t + 1,
                       -__builtin_inff(), 0.0f};
    const float* q = args.q + t * args.q_stride + head * dim;
    ForVectors(dim, [&](size_t at, size_t n) {
      simd::Store(work.q + i * padded + at, simd::Mul(LoadCount(q + at, n), scale));
      StoreCount(work.queries[i].out + at, n, simd::Zero());
    });
  }
  const size_t longest = work.queries[count - 1].length;
  for (size_t base = 0; base < longest; base += kKeyBlock) {
    const size_t keys = MinOf(kKeyBlock, longest - base);
    ConvertBlock(args.keys + base * dim, keys, dim, padded, work.block);
    for (size_t i = 0; i < count; ++i) {
      Query& query = work.queries[i];
      if (query.length <= base) continue;
      UpdateQuery(work.q + i * padded, work.block, padded, MinOf(kKeyBlock, query.length - base),
                  dim, work.weights[i], query);
    }
    ConvertBlock(args.values + base * dim, keys, dim, padded, work.block);
    AddBlockValues(work, count, base, dim, padded);
  }
  for (size_t i = 0; i < count; ++i) {
    const Vec inverse = simd::Set1(1.0f / work.queries[i].sum);
    float* out = work.queries[i].out;
    ForVectors(dim, [&](size_t at, size_t n) {
      StoreCount(out + at, n, simd::Mul(LoadCount(out + at, n), inverse));
    });
  }
}

void AttentionOfLevel(const AttentionArgs& args) {
  Workspace work;
  const size_t total = args.n * args.group;
  for (size_t begin = 0; begin < total; begin += kQueryBlock) {
    AttendQueries(args, begin, MinOf(kQueryBlock, total - begin), work);
  }
}

}  // namespace
}  // namespace tq::transformer
