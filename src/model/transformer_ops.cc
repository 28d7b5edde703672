#include "model/transformer_ops.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/checked.h"
#include "kernels/transformer/attention.h"
#include "kernels/transformer/elementwise.h"
#include "model/kv_cache.h"

namespace tq {
namespace {

// Work handed to a thread at once; below this a hand-over costs more than it saves. What takes an
// exponential lasts four times as long per value as the others.
constexpr size_t kGrainValues = 16384, kGrainGate = 4096;
// The same for attention, in products of keys with queries and of weights with values:
// about 2 us of work.
constexpr size_t kGrainProducts = 65536;
// Queries of one KV head that one thread handles at once.
constexpr uint64_t kQueryBlock = 32;
static_assert(KvCache::kRounding % transformer::kKeysTogether == 0);

size_t RowGrain(uint64_t row_size) {
  return std::max<size_t>(1, kGrainValues / std::max<uint64_t>(row_size, 1));
}

}  // namespace

void RmsNormRows(const float* x, const float* weight, uint64_t n, uint64_t size, float eps,
                 Executor& executor, float* y) {
  executor.ParallelFor(n, RowGrain(size), [&](size_t begin, size_t end, size_t) {
    transformer::RmsNorm(x + begin * size, end - begin, size, weight, eps, y + begin * size);
  });
}

void GateMultiply(Activation activation, float* gate, const float* up, uint64_t size,
                  Executor& executor) {
  void (*multiply)(const float*, const float*, size_t, float*) = nullptr;
  switch (activation) {
    case Activation::kSilu:
      multiply = transformer::SiluMultiply;
      break;
    case Activation::kGeluTanh:
      multiply = transformer::GeluMultiply;
      break;
    case Activation::kRelu2:
      multiply = transformer::ReluSquaredMultiply;
      break;
  }
  executor.ParallelFor(size, kGrainGate, [&](size_t begin, size_t end, size_t) {
    multiply(gate + begin, up + begin, end - begin, gate + begin);
  });
}

void SoftCap(float* x, uint64_t size, float cap, Executor& executor) {
  executor.ParallelFor(size, kGrainGate, [&](size_t begin, size_t end, size_t) {
    transformer::SoftCap(x + begin, end - begin, cap);
  });
}

void AddTo(float* x, const float* y, uint64_t size, Executor& executor) {
  executor.ParallelFor(size, kGrainValues, [&](size_t begin, size_t end, size_t) {
    transformer::AddTo(x + begin, y + begin, end - begin);
  });
}

void AddToRows(float* x, const float* y, uint64_t n, uint64_t size, Executor& executor) {
  executor.ParallelFor(n, RowGrain(size), [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin; row < end; ++row) transformer::AddTo(x + row * size, y, size);
  });
}

uint64_t FirstNonFinite(const float* x, uint64_t size) {
  constexpr uint64_t kBlock = 4096;
  for (uint64_t at = 0; at < size; at += kBlock) {
    const uint64_t end = std::min(at + kBlock, size);
    // x * 0 is 0 for finite x and NaN otherwise; four sums so that the loop has no long chain.
    float sums[4] = {};
    uint64_t i = at;
    for (; i + 4 <= end; i += 4) {
      for (int j = 0; j < 4; ++j) sums[j] += x[i + j] * 0.0f;
    }
    for (; i < end; ++i) sums[0] += x[i] * 0.0f;
    if (sums[0] + sums[1] + sums[2] + sums[3] == 0) continue;
    for (i = at; i < end; ++i) {
      if (!std::isfinite(x[i])) return i;
    }
  }
  return size;
}

void RopeTable::Prepare(uint64_t begin, uint64_t n) {
  if (begin == begin_ && n == n_) return;
  begin_ = begin;
  n_ = n;
  cosines_.resize(n * half_);
  sines_.resize(n * half_);
  for (uint64_t p = 0; p < n; ++p) {
    transformer::RopeTable(begin + p, frequencies_.data(), half_, &cosines_[p * half_],
                           &sines_[p * half_]);
  }
}

void ApplyRope(const RopeTable& table, float* x, uint64_t n, uint32_t heads, uint32_t head_dim,
               Executor& executor) {
  const uint64_t row = uint64_t{heads} * head_dim;
  executor.ParallelFor(n, RowGrain(row), [&](size_t begin, size_t end, size_t) {
    for (size_t p = begin; p < end; ++p) {
      transformer::Rope(x + p * row, heads, head_dim, table.Cosines(p), table.Sines(p));
    }
  });
}

namespace {

// The queries of positions [query, query + n) whose heads share a KV head.
transformer::AttentionArgs PartOf(const AttentionArgs& args, uint64_t query, uint64_t n,
                                  uint64_t kv_head) {
  const uint64_t d = args.head_dim, row = args.heads * d, shared = args.heads / args.kv_heads;
  const uint64_t head = kv_head * shared;
  transformer::AttentionArgs part;
  part.n = n;
  part.group = shared;
  part.head_dim = d;
  part.first = args.base + query;
  part.window = args.window;
  part.scale = args.scale;
  part.softcap = args.softcap;
  part.q = args.queries + query * row + head * d;
  part.q_stride = row;
  part.keys = args.keys + kv_head * args.kv_stride;
  part.values = args.values + kv_head * args.kv_stride;
  part.out = args.out + query * row + head * d;
  part.out_stride = row;
  return part;
}

// One position: spans of keys of each KV head, whose query heads share them. Who finishes the last
// span of a head merges all of them.
void AttendInSpans(const AttentionArgs& args, Executor& executor, std::vector<float>& partials) {
  const uint64_t shared = args.heads / args.kv_heads;
  const uint64_t first = transformer::FirstSpan(transformer::FirstKey(args.base, args.window));
  const uint64_t spans = transformer::SpansOf(args.base + 1) - first;
  const uint64_t partial = transformer::PartialFloats(shared, args.head_dim);
  if (partials.size() < args.kv_heads * spans * partial) {
    // Once for all positions that the cache has room for.
    partials.reserve(
        AttentionScratchFloats(args.heads, args.head_dim, args.kv_stride / args.head_dim));
    partials.resize(args.kv_heads * spans * partial);
  }
  std::vector<std::atomic<uint64_t>> done(args.kv_heads);
  const uint64_t item_products = 2 * shared * transformer::kSpanKeys * args.head_dim;
  const size_t grain = std::max<size_t>(1, kGrainProducts / item_products);
  executor.ParallelFor(args.kv_heads * spans, grain, [&](size_t begin, size_t end, size_t) {
    for (size_t item = begin; item < end; ++item) {
      const uint64_t kv_head = item / spans, span = item % spans;
      const transformer::AttentionArgs part = PartOf(args, 0, 1, kv_head);
      transformer::AttentionSpan(part, first + span, partials.data() + item * partial);
      // Release this partial result, acquire the others.
      if (done[kv_head].fetch_add(1, std::memory_order_acq_rel) + 1 == spans) {
        transformer::MergeSpans(part, partials.data() + kv_head * spans * partial);
      }
    }
  });
}

}  // namespace

void Attention(const AttentionArgs& args, Executor& executor, std::vector<float>& partials) {
  if (args.n == 1 && executor.threads() > 1 && args.base + 1 > transformer::kSpanKeys) {
    return AttendInSpans(args, executor, partials);
  }
  // A query's result does not depend on its company, so the cut may follow the work.
  const uint64_t shared = args.heads / args.kv_heads;
  const uint64_t blocks = CeilDiv(args.n, kQueryBlock);
  const uint64_t item_products =
      2 * shared * std::min(args.n, kQueryBlock) * (args.base + args.n) * args.head_dim;
  const size_t grain = std::max<size_t>(1, kGrainProducts / item_products);
  executor.ParallelFor(args.kv_heads * blocks, grain, [&](size_t begin, size_t end, size_t) {
    for (size_t item = begin; item < end; ++item) {
      // Late queries see more keys: they go first, so that threads end together.
      const uint64_t query = (blocks - 1 - item / args.kv_heads) * kQueryBlock;
      transformer::Attention(
          PartOf(args, query, std::min(kQueryBlock, args.n - query), item % args.kv_heads));
    }
  });
}

uint64_t AttentionScratchFloats(uint32_t heads, uint32_t head_dim, uint64_t context) {
  return transformer::SpansOf(context) * transformer::PartialFloats(heads, head_dim);
}

void StoreKeys(const float* k, uint64_t n, uint32_t kv_heads, uint32_t head_dim, uint64_t base,
               uint64_t kv_stride, uint16_t* cache) {
  uint16_t halves[transformer::kMaxHeadDim];
  for (uint64_t p = 0; p < n; ++p) {
    for (uint32_t h = 0; h < kv_heads; ++h, k += head_dim) {
      transformer::FloatToHalf(k, head_dim, halves);
      uint16_t* head = cache + h * kv_stride + transformer::KeyIndex(base + p, 0, head_dim);
      for (uint32_t i = 0; i < head_dim; ++i) head[i * transformer::kKeysTogether] = halves[i];
    }
  }
}

void StoreValues(const float* v, uint64_t n, uint32_t kv_heads, uint32_t head_dim, uint64_t base,
                 uint64_t kv_stride, uint16_t* cache) {
  for (uint64_t p = 0; p < n; ++p) {
    for (uint32_t h = 0; h < kv_heads; ++h, v += head_dim) {
      transformer::FloatToHalf(v, head_dim, cache + h * kv_stride + (base + p) * head_dim);
    }
  }
}

}  // namespace tq
