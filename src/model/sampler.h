// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "base/status.h"

namespace tq {

struct SamplerOptions {
  float temperature = 0;            // 0: greedy
  uint32_t top_k = 0;               // the k most probable tokens; 0: all
  float top_p = 1;                  // the fewest tokens with at least this probability together
  float min_p = 0;                  // tokens at least this many times as probable as the first
  float repetition_penalty = 1;     // divides positive, multiplies negative logits of recent tokens
  uint32_t repetition_window = 64;  // how many of the last tokens are recent
  uint64_t seed = 0;
};

// What a draw depends on beside the options and the logits.
struct SamplingStep {
  std::vector<int32_t> recent;  // what the repetition penalty is for, each once; none without it
  double uniform = 0;           // in [0, 1)
};

// Draws tokens. The n-th draw depends on the options, the logits, the history and n alone: a device
// that takes the steps itself (kernels/cuda/sampling.h) draws the same token, the portable level of
// instructions differs by rounding.
// Steps, in order: repetition penalty, temperature, top-k, top-p, min-p, draw. Greedy takes
// the lowest id of those with the largest logit.
class Sampler {
  struct Candidate {
    float logit;
    int32_t id;
  };

 public:
  // Of its buffers, per token of the vocabulary.
  static constexpr uint64_t kBytesPerToken =
      sizeof(Candidate) + 2 * sizeof(float) + sizeof(uint32_t);

  static StatusOr<Sampler> Create(const SamplerOptions& options);

  const SamplerOptions& options() const { return options_; }
  // Whether Sample takes the largest of the logits as they are.
  bool is_greedy() const { return options_.temperature == 0 && options_.repetition_penalty == 1; }

  // `history`: the tokens so far, prompt included, for the repetition penalty. Logits that
  // are not finite are an error.
  StatusOr<int32_t> Sample(std::span<const float> logits, std::span<const int32_t> history);

  // For those that draw elsewhere: what the next Sample would use, and that it has been used.
  SamplingStep NextStep(std::span<const int32_t> history) const;
  void FinishStep() {
    if (options_.temperature != 0) random_.NextUniform();
  }

 private:
  explicit Sampler(const SamplerOptions& options)
      : options_(options), random_(options.seed, "sampler") {}
  std::vector<int32_t> Recent(std::span<const int32_t> history) const;
  void Penalise(std::span<const int32_t> history);
  void TakeLargest(size_t count);
  void Weigh();
  void KeepTopP();
  int32_t Draw();

  SamplerOptions options_;
  Random random_;
  std::vector<float> logits_;          // [vocab]
  std::vector<Candidate> candidates_;  // in the order of ids
  std::vector<float> weights_;         // of candidates
  std::vector<uint32_t> order_;        // of candidates: a heap by weight
};

}  // namespace tq
