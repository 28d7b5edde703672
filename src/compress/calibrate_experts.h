// The part of calibration that is an MLP of experts: tokens are routed once, then one expert after
// the other is loaded, runs on its tokens and is let go.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "codec/dense_device.h"
#include "compress/group_sums.h"
#include "compress/state_store.h"
#include "device/executor.h"
#include "model/layer_tensors.h"

namespace tq {

// Of the inputs of an expert's Hessians, besides those that are routed to it: so many, spread
// evenly over all inputs of the layer's MLP, the pool. With n rows of its own
//   H = (n H_own + n_pool H_pool) / (n + n_pool),
// which for an expert that was never reached is that of the pool.
inline constexpr uint64_t kPoolRows = 512;

// What calibration saw of an expert: the tokens that were routed to it, and the mean over all
// tokens of |weighted output|^2 / |residual stream after the MLP|^2.
struct ExpertUse {
  uint64_t rows = 0;
  double share = 0;
};

// The residual stream of windows of tokens, float [windows, context, hidden].
struct TokenStates {
  StateStore* store = nullptr;
  uint64_t windows = 0, context = 0;
};

class ExpertCalibration {
 public:
  // All must outlive it. A sum as large as the states is kept in memory up to `memory_limit` bytes,
  // above that in `folder`.
  ExpertCalibration(const ModelSource& source, uint32_t layer, TokenStates states,
                    uint64_t memory_limit, const std::filesystem::path& folder,
                    const DenseDevice* device, LayerWorkspace& workspace, Executor& executor)
      : source_(source),
        config_(source.config()),
        layer_(layer),
        states_(states),
        memory_limit_(memory_limit),
        folder_(folder),
        device_(device),
        workspace_(workspace),
        executor_(executor),
        routing_(source.config()),
        use_(config_.num_experts),
        squares_(config_.num_experts) {}

  // Runs the layer's MLP on the states, in place. `take` gets an expert's sums, of groups in
  // `wanted`, when its weights are gone.
  Status Run(const std::set<std::string>& wanted, const TakeSum& take);

  const std::vector<ExpertUse>& use() const { return use_; }
  // The mean over tokens of |output of the MLP|^2 / |residual stream after it|^2.
  double share() const { return share_; }

 private:
  // Chooses the experts of all tokens.
  Status Route();
  void GatherPool();
  Status RunExpert(uint32_t expert, const std::set<std::string>& wanted, const TakeSum& take);
  // The expert's outputs of its tokens go into the sum.
  Status RunOnTokens(uint32_t expert, const GatedMlp& mlp, const InputObserver& observer);
  Status AddOutputs();
  std::string GroupOf(const std::string& matrix) const;
  uint64_t WindowSize() const { return states_.context * config_.hidden_size; }
  uint64_t Tokens() const { return states_.windows * states_.context; }
  // Normed rows of some tokens, at most a chunk of the workspace; valid until the next call.
  float* NormedRows(std::span<const RoutedToken> tokens);
  Status WithPlace(Status status, uint64_t window) const;

  const ModelSource& source_;
  const ModelConfig& config_;
  uint32_t layer_;
  TokenStates states_;
  uint64_t memory_limit_;
  const std::filesystem::path& folder_;
  const DenseDevice* device_;
  LayerWorkspace& workspace_;
  Executor& executor_;
  MlpVectors vectors_;
  Routing routing_;
  StateStore outputs_;       // float [tokens, hidden]: sum over experts
  std::vector<float> pool_;  // [rows, hidden], normed
  std::vector<ExpertUse> use_;
  std::vector<std::vector<double>> squares_;  // |weighted output|^2 of each token that it sees
  double share_ = 0;
};

}  // namespace tq
