// What a change of some weights does to a model's output: KL(original || changed) on a few
// windows of text, with the whole original in memory as float32. With a device products run there:
// as many layers as fit stay in its memory, the others are copied whenever they run, which changes
// no bit.
//
// Layers are visited in order. The residual stream before the current layer is kept, so a change
// in layer l costs a forward pass from layer l on.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "compress/calibration_tokens.h"
#include "device/executor.h"
#include "model/embedding.h"
#include "model/layer_tensors.h"

namespace tq {

class KlProbe {
 public:
  // Loads the model and runs the original. The second half of each window is scored, as
  // evaluation does. `source` and `device` must outlive the probe.
  static StatusOr<KlProbe> Create(const ModelSource& source, CalibrationTokens windows,
                                  Executor& executor, const DenseDevice* device = nullptr);
  // Memory that measuring takes with `tokens` tokens: the weights in float32, logits of the
  // original, states, and the weights that are changed (sensitivity.cc).
  static uint64_t MemoryNeeded(const ModelSource& source, uint64_t tokens);
  // Whether that is available now, as far as the system says.
  static bool Fits(const ModelSource& source, uint64_t tokens);

  // A residual stream of all windows, float [windows * context, hidden].
  using States = std::vector<float>;

  const LayerTensors& tensors(uint32_t layer) const { return tensors_[layer]; }
  const States& states() const { return states_; }
  // The input of layer 0 under another embedding.
  States Embed(const EmbeddingTable& embedding) const;
  // A layer and a head where the original's are.
  StatusOr<std::unique_ptr<DecoderLayer>> MakeLayer(LayerTensors tensors) const {
    return MakeFloatLayer(source_->config(), std::move(tensors), workspace_, device_);
  }
  StatusOr<std::unique_ptr<LinearGroup>> MakeHead(Tensor weights) const {
    return MakeDenseGroup("the head", {std::move(weights)}, device_);
  }
  // Runs a layer on states.
  Status RunLayer(DecoderLayer& layer, States& states);
  // The current layer is run as it is and the next becomes current.
  Status Advance();
  // Mean KL when `states` enter layer `first` of the original, and `head` (null: the original's)
  // ends it.
  StatusOr<double> KlFrom(uint32_t first, States states, LinearGroup* head = nullptr);
  // Mean KL when the current layer is replaced.
  StatusOr<double> KlWithLayer(DecoderLayer& changed);

  uint32_t current() const { return current_; }

 private:
  KlProbe(const ModelSource& source, CalibrationTokens windows, KvCache cache, Executor& executor,
          const DenseDevice* device)
      : source_(&source),
        windows_(std::move(windows)),
        executor_(&executor),
        device_(device),
        cache_(std::move(cache)),
        workspace_(MakeFloatWorkspace(source.config(), device)) {}
  Status LoadLayers();
  // Runs layer `index` of the original.
  Status RunOriginal(uint32_t index, States& states);
  // Logits behind scored position i of a window's states, for all positions in blocks.
  using LogitBlock = std::function<void(uint64_t first, uint64_t count, const float* logits)>;
  Status ForEachLogitBlock(const States& states, LinearGroup& head, const LogitBlock& consume);

  uint64_t ScoredPerWindow() const { return windows_.context - 1 - windows_.context / 2; }

  const ModelSource* source_;
  CalibrationTokens windows_;
  Executor* executor_;
  const DenseDevice* device_;
  KvCache cache_;  // of one layer and one window
  std::shared_ptr<LayerWorkspace> workspace_;
  std::vector<LayerTensors> tensors_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;  // null: does not fit on the device
  std::unique_ptr<LinearGroup> head_;
  Tensor norm_;
  States states_;
  uint32_t current_ = 0;
  std::vector<float> reference_;  // logits, [windows * scored, vocab]
};

}  // namespace tq
