// The MLP of a layer between its norms: one for all tokens, or a few experts for each.
//
// Gated (Shazeer, "GLU Variants Improve Transformer", 2020):   E(x) = down(act(gate(x)) * up(x))
// Sparse (Jiang et al., "Mixtral of Experts", 2024, section 2.1; Yang et al., "Qwen3 Technical
// Report", 2025, section 2), with a router R [experts, hidden]:
//   p = softmax(R x);  S: the experts_per_token largest p, of equal ones those of lower number
//   y = sum of g_e E_e(x) over e in S, rising;  g_e = p_e, divided by their sum over S where
//   renormalise_experts says so
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "device/executor.h"
#include "model/input_observer.h"
#include "model/layer_vectors.h"
#include "model/linear.h"
#include "tensor/tensor.h"

namespace tq {

struct GatedMlp {
  std::unique_ptr<LinearGroup> gate_up, down;

  uint64_t weight_bytes() const { return gate_up->weight_bytes() + down->weight_bytes(); }
  // y = E(x), both float [n, hidden]; they may be the same. `inner`: float [n, 2 * mlp_size], which
  // is overwritten. sub_norm: [mlp_size], of architectures that norm what goes into down.
  Status Run(const ForwardContext& context, const ModelConfig& config, const Tensor& sub_norm,
             const float* x, uint64_t n, float* inner, float* y,
             const InputObserver& observer = nullptr) const;
};

struct MlpWeights {
  MlpVectors vectors;
  GatedMlp dense;                 // empty in a sparse MLP
  std::vector<GatedMlp> experts;  // empty in others

  // Bytes that a token reads: of experts, which may differ in size, the mean of those it sees.
  uint64_t weight_bytes(const ModelConfig& config) const;
};

// A token that an expert sees, and the weight of what the expert says of it.
struct RoutedToken {
  uint32_t token = 0;
  float weight = 0;
};

// Which tokens each expert sees.
class Routing {
 public:
  Routing() = default;
  explicit Routing(const ModelConfig& config)
      : used_(config.experts_per_token),
        renormalise_(config.renormalise_experts),
        by_expert_(config.num_experts) {}
  // Bytes for n tokens, however they are spread over the experts.
  static uint64_t NumBytes(const ModelConfig& config, uint64_t n);

  void Clear();
  // Chooses the experts of n more tokens. x: float [n, hidden], the MLP's input; router: float
  // [experts, hidden]. Whatever is not finite in x ends up in a weight that is not.
  void Add(const Tensor& router, const float* x, uint64_t n, Executor& executor);
  // Tokens since Clear, and those of them that an expert sees, by rising number.
  uint64_t tokens() const { return tokens_; }
  std::span<const RoutedToken> Of(uint32_t expert) const { return by_expert_[expert]; }

 private:
  uint32_t used_ = 0;
  bool renormalise_ = false;
  uint64_t tokens_ = 0;
  std::vector<std::vector<RoutedToken>> by_expert_;
  std::vector<float> logits_;   // [n, experts], then probabilities; of Add
  std::vector<uint32_t> best_;  // [n, used], of Add
};

// Row i of out [tokens, size] is that of the i-th token in x.
void GatherRows(const float* x, uint64_t size, std::span<const RoutedToken> tokens,
                Executor& executor, float* out);
// The rows of those tokens in sum += their weights * the rows of y [tokens, size].
void AddWeightedRows(const float* y, uint64_t size, std::span<const RoutedToken> tokens,
                     Executor& executor, float* sum);

// Buffers of a sparse MLP, for as many positions as there were at once.
struct SparseBuffers {
  std::vector<float> rows, sum;  // [n, hidden]
  Routing routing;
};
// buffers.sum [n, hidden] = y of x [n, hidden], which have the same bits whatever n > 1 is, or, of
// float weights, whatever n is. `inner` as of GatedMlp::Run.
Status RunExperts(const ForwardContext& context, const ModelConfig& config,
                  const MlpWeights& weights, const float* x, uint64_t n, float* inner,
                  SparseBuffers& buffers);

}  // namespace tq
