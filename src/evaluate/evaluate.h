// Perplexity, and KL divergence against a reference model, over windows of a text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "model/transformer.h"

namespace tq {

struct EvaluateOptions {
  uint64_t context = 512;
  uint64_t max_windows = 0;    // 0: all
  int32_t bos = -1;            // replaces token 0 of every window; -1: kept
  bool single_tokens = false;  // the model runs token by token, as it does when it writes
};

struct EvaluateResult {
  uint64_t tokens = 0;  // scored
  uint64_t windows = 0;
  double perplexity = 0, perplexity_stderr = 0;
  struct Kl {
    double mean = 0, stderr_ = 0, p99 = 0;
    double top1_agreement = 0;  // share of positions where both put the same token first
    double reference_perplexity = 0, reference_perplexity_stderr = 0;
  };
  std::optional<Kl> kl;
};

// The logits of the model that another is compared with, window by window.
class LogitReference {
 public:
  virtual ~LogitReference() = default;
  virtual const ModelConfig& config() const = 0;
  // Window `index`, of these tokens, comes next.
  virtual Status Begin(uint64_t index, std::span<const int32_t> window) = 0;
  // Logits behind positions [first, first + count) of the window, float [count, vocab]. Positions
  // come in order, from the middle of the window on.
  virtual Status Logits(uint64_t first, uint64_t count, float* out) = 0;
};

// As llama.cpp's perplexity tool: `tokens` (the whole text) is cut into windows of
// `context`, the tail dropped; predictions of tokens context/2 + 1 .. context - 1 are
// scored. Fewer than two windows is an error. With `reference`, KL(reference || model)
// over the same positions. Log-softmax and sums in double, in an order that depends on
// nothing but the windows. The reference computes on the reference path: a packed model
// against itself shows what the fast path's integer activations cost. Stops with kCancelled between
// windows.
StatusOr<EvaluateResult> Evaluate(Transformer& model, Transformer* reference,
                                  std::span<const int32_t> tokens, const EvaluateOptions& options,
                                  const ForwardContext& context, Progress& progress);
StatusOr<EvaluateResult> Evaluate(Transformer& model, LogitReference& reference,
                                  std::span<const int32_t> tokens, const EvaluateOptions& options,
                                  const ForwardContext& context, Progress& progress);

}  // namespace tq
