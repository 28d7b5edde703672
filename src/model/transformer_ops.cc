#include "model/transformer_ops.h"

#include <algorithm>
#include <cmath>

#include "tensor/dtype.h"

namespace tq {
namespace {

// Work handed to a thread at once; below this a hand-over costs more than it saves.
constexpr size_t kGrainValues = 16384;

size_t RowGrain(uint64_t row_size) {
  return std::max<size_t>(1, kGrainValues / std::max<uint64_t>(row_size, 1));
}

}  // namespace

void RmsNormRows(const float* x, const float* weight, uint64_t n, uint64_t size, float eps,
                 Executor& executor, float* y) {
  executor.ParallelFor(n, RowGrain(size), [&](size_t begin, size_t end, size_t) {
    for (size_t r = begin; r < end; ++r) {
      float sum = 0;
      for (uint64_t i = 0; i < size; ++i) sum += x[r * size + i] * x[r * size + i];
      const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(size) + eps);
      for (uint64_t i = 0; i < size; ++i) y[r * size + i] = x[r * size + i] * inverse * weight[i];
    }
  });
}

void SiluMultiply(float* gate, const float* up, uint64_t size, Executor& executor) {
  executor.ParallelFor(size, kGrainValues, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  });
}

void AddTo(float* x, const float* y, uint64_t size, Executor& executor) {
  executor.ParallelFor(size, kGrainValues, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) x[i] += y[i];
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

RopeTable::RopeTable(uint32_t head_dim, float theta) : half_(head_dim / 2) {
  for (uint64_t i = 0; i < half_; ++i) {
    frequencies_.push_back(
        std::pow(static_cast<double>(theta), -2.0 * static_cast<double>(i) / head_dim));
  }
}

void RopeTable::Prepare(uint64_t begin, uint64_t n) {
  if (begin == begin_ && n == n_) return;
  begin_ = begin;
  n_ = n;
  cosines_.resize(n * half_);
  sines_.resize(n * half_);
  for (uint64_t p = 0; p < n; ++p) {
    for (uint64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(begin + p) * frequencies_[i];
      cosines_[p * half_ + i] = static_cast<float>(std::cos(angle));
      sines_[p * half_ + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void ApplyRope(const RopeTable& table, float* x, uint64_t n, uint32_t heads, uint32_t head_dim,
               Executor& executor) {
  const uint64_t half = head_dim / 2, row = uint64_t{heads} * head_dim;
  executor.ParallelFor(n, RowGrain(row), [&](size_t begin, size_t end, size_t) {
    for (size_t p = begin; p < end; ++p) {
      const float* cosines = table.Cosines(p);
      const float* sines = table.Sines(p);
      for (uint32_t h = 0; h < heads; ++h) {
        float* a = x + p * row + uint64_t{h} * head_dim;
        float* b = a + half;
        for (uint64_t i = 0; i < half; ++i) {
          const float first = a[i], second = b[i];
          a[i] = first * cosines[i] - second * sines[i];
          b[i] = second * cosines[i] + first * sines[i];
        }
      }
    }
  });
}

void Attention(const AttentionArgs& args, Executor& executor) {
  const uint64_t d = args.head_dim;
  const uint64_t group = args.heads / args.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  executor.ParallelFor(args.n * args.heads, 1, [&](size_t begin, size_t end, size_t) {
    std::vector<float> scores(args.base + args.n);
    for (size_t item = begin; item < end; ++item) {
      const uint64_t p = item / args.heads, h = item % args.heads;
      const float* q = args.queries + item * d;
      const uint16_t* keys = args.keys + h / group * args.kv_stride;
      const uint16_t* values = args.values + h / group * args.kv_stride;
      const uint64_t count = args.base + p + 1;
      float largest = -INFINITY;
      for (uint64_t t = 0; t < count; ++t) {
        float dot = 0;
        for (uint64_t i = 0; i < d; ++i) dot += q[i] * HalfToFloat(keys[t * d + i]);
        scores[t] = dot * scale;
        largest = std::max(largest, scores[t]);
      }
      float sum = 0;
      for (uint64_t t = 0; t < count; ++t) sum += scores[t] = std::exp(scores[t] - largest);
      float* out = args.out + item * d;
      std::fill(out, out + d, 0.0f);
      for (uint64_t t = 0; t < count; ++t) {
        for (uint64_t i = 0; i < d; ++i) out[i] += scores[t] * HalfToFloat(values[t * d + i]);
      }
      for (uint64_t i = 0; i < d; ++i) out[i] /= sum;
    }
  });
}

void StoreHalf(const float* x, uint64_t n, uint32_t kv_heads, uint32_t head_dim, uint64_t base,
               uint64_t kv_stride, uint16_t* cache) {
  for (uint64_t p = 0; p < n; ++p) {
    for (uint32_t h = 0; h < kv_heads; ++h) {
      const float* from = x + (p * kv_heads + h) * head_dim;
      uint16_t* to = cache + h * kv_stride + (base + p) * head_dim;
      for (uint32_t i = 0; i < head_dim; ++i) to[i] = FloatToHalf(from[i]);
    }
  }
}

}  // namespace tq
