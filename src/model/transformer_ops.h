// The steps of a decoder layer between its matrix products, spread over threads. Every
// item (a row, or a query head of one position) is computed whole by one thread.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "checkpoint/model_config.h"
#include "device/executor.h"

namespace tq {

// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight for n rows of `size` values.
void RmsNormRows(const float* x, const float* weight, uint64_t n, uint64_t size, float eps,
                 Executor& executor, float* y);

// gate = activation(gate) * up; `size` values.
void GateMultiply(Activation activation, float* gate, const float* up, uint64_t size,
                  Executor& executor);
// x = cap * tanh(x / cap); `size` values.
void SoftCap(float* x, uint64_t size, float cap, Executor& executor);

// x += y; `size` values.
void AddTo(float* x, const float* y, uint64_t size, Executor& executor);
// x[r] += y for n rows of `size` values.
void AddToRows(float* x, const float* y, uint64_t n, uint64_t size, Executor& executor);

// Index of the first value that is not finite, or `size`.
uint64_t FirstNonFinite(const float* x, uint64_t size);

// Rotary position embedding in Hugging Face's order: value i of a head pairs with value
// i + head_dim / 2 and turns by position * frequencies[i].
class RopeTable {
 public:
  // Of RopeFrequencies.
  explicit RopeTable(std::vector<double> frequencies)
      : half_(frequencies.size()), frequencies_(std::move(frequencies)) {}
  // Cosines and sines of positions [begin, begin + n); kept until others are asked for.
  void Prepare(uint64_t begin, uint64_t n);
  // float [head_dim / 2] of the i-th prepared position.
  const float* Cosines(uint64_t i) const { return cosines_.data() + i * half_; }
  const float* Sines(uint64_t i) const { return sines_.data() + i * half_; }

 private:
  uint64_t half_;
  std::vector<double> frequencies_;
  uint64_t begin_ = 0, n_ = 0;
  std::vector<float> cosines_, sines_;
};

// In place on `heads` heads of n positions, x: float [n, heads, head_dim].
void ApplyRope(const RopeTable& table, float* x, uint64_t n, uint32_t heads, uint32_t head_dim,
               Executor& executor);

// Causal attention of n queries at positions base .. base + n - 1 over the cached keys and
// values of positions 0 .. base + n - 1; window, scale and softcap as transformer::AttentionArgs
// has them.
struct AttentionArgs {
  const float* queries = nullptr;  // [n, heads, head_dim]
  float* out = nullptr;            // [n, heads, head_dim]
  uint64_t n = 0, base = 0;
  uint32_t heads = 0, kv_heads = 0, head_dim = 0;
  uint64_t window = 0;
  float scale = 1, softcap = 0;
  // fp16 [kv_heads][kv_stride], each head as transformer::AttentionArgs has them.
  const uint16_t* keys = nullptr;
  const uint16_t* values = nullptr;
  uint64_t kv_stride = 0;  // values from one KV head to the next
};
// `partials` is scratch memory that grows to AttentionScratchFloats.
void Attention(const AttentionArgs& args, Executor& executor, std::vector<float>& partials);
uint64_t AttentionScratchFloats(uint32_t heads, uint32_t head_dim, uint64_t context);

// Write n new positions of one layer, from `base` on, into the cache. k, v: float
// [n, kv_heads, head_dim]; cache: fp16, KV heads kv_stride values apart, laid out as
// transformer::AttentionArgs wants it.
void StoreKeys(const float* k, uint64_t n, uint32_t kv_heads, uint32_t head_dim, uint64_t base,
               uint64_t kv_stride, uint16_t* cache);
void StoreValues(const float* v, uint64_t n, uint32_t kv_heads, uint32_t head_dim, uint64_t base,
                 uint64_t kv_stride, uint16_t* cache);

}  // namespace tq
