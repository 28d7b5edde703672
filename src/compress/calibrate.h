// Streams the calibration tokens through the original model, one layer at a time, and
// collects the Hessians E[x x^T] of the inputs of its matrices.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "codec/dense_device.h"
#include "compress/calibrate_experts.h"
#include "compress/calibration_tokens.h"
#include "compress/group_sums.h"
#include "compress/hessian.h"
#include "compress/state_store.h"
#include "device/executor.h"
#include "model/layer_tensors.h"

namespace tq {

// In memory at a time: the residual stream of all tokens, or of a window if it is spilled, half a
// layer (attention or MLP) in float32 and the Hessians asked for. Of an MLP of experts it is one
// expert and its Hessians, and a sum of what experts say, which is as large as the residual stream.
// With a device weights and Hessians are in its memory; norms, attention and SiLU stay on the
// processor.
class CalibrationStream {
 public:
  // `source` and `device` must outlive the stream. States above `memory_limit` bytes are kept in
  // `folder`.
  static StatusOr<CalibrationStream> Create(const ModelSource& source, CalibrationTokens tokens,
                                            uint64_t memory_limit,
                                            const std::filesystem::path& folder,
                                            const DenseDevice* device = nullptr);
  // Memory of a device that calibrating takes, at most: the Hessians of a layer, or of attention
  // and an expert, beside half of its weights, or an expert's, or a factor; or the head.
  static uint64_t DeviceBytes(const ModelConfig& config);

  // The layer that the next RunLayer will run.
  uint32_t next_layer() const { return next_layer_; }
  // Runs the next layer and sums up the inputs of those of its groups whose full names
  // ("model.layers.3.mlp.gate_up") are in `wanted`. `take` gets the sums in the order of GroupsOf,
  // with no weights of the layer in memory beside them: after the whole layer, or, where it has
  // experts, after attention and after each of them. An error from `take` is returned.
  Status RunLayer(const std::set<std::string>& wanted, const TakeSum& take, Executor& executor);
  // The same for callers that keep all sums.
  StatusOr<std::vector<HessianSum>> RunLayer(const std::set<std::string>& wanted,
                                             Executor& executor);
  // Of the half of the last layer that was run: the mean over tokens of |output|^2 / |sum|^2,
  // where sum is the residual stream with the half's output added.
  double branch_share(LayerPart half) const { return shares_[half == LayerPart::kMlp]; }
  // The same of the weighted output of one of its experts; at least kLeastShare of the mean of all,
  // since other texts may reach an expert that this one does not.
  double expert_share(uint32_t expert) const;
  static constexpr double kLeastShare = 0.1;
  // Tokens that an expert of the last layer saw.
  uint64_t expert_rows(uint32_t expert) const { return experts_[expert].rows; }
  // The residual stream of a window before the next layer, float [context, hidden].
  const float* States(uint64_t window) { return WindowStates(window); }
  // After the last layer: the input of the head.
  StatusOr<HessianSum> HeadInput(Executor& executor);

 private:
  Status RunHalf(LayerPart part, const InputObserver& observer, Executor& executor);
  CalibrationStream(const ModelSource& source, CalibrationTokens tokens, StateStore states,
                    KvCache cache, uint64_t memory_limit, std::filesystem::path folder,
                    const DenseDevice* device)
      : source_(&source),
        tokens_(std::move(tokens)),
        states_(std::move(states)),
        memory_limit_(memory_limit),
        folder_(std::move(folder)),
        cache_(std::move(cache)),
        device_(device),
        workspace_(MakeFloatWorkspace(source.config(), device)) {}
  // Floats of a window's states.
  uint64_t WindowSize() const { return tokens_.context * source_->config().hidden_size; }
  float* WindowStates(uint64_t window) { return states_.data() + window * WindowSize(); }
  void ReleaseWindow(uint64_t window) { states_.Release(window * WindowSize(), WindowSize()); }

  const ModelSource* source_;
  CalibrationTokens tokens_;
  StateStore states_;
  uint64_t memory_limit_;  // of each store of states
  std::filesystem::path folder_;
  KvCache cache_;  // of one layer and one window
  const DenseDevice* device_;
  std::shared_ptr<LayerWorkspace> workspace_;
  uint32_t next_layer_ = 0;
  double shares_[2] = {0, 0};
  std::vector<ExpertUse> experts_;  // of the last layer
};

}  // namespace tq
