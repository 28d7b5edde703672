// The true loss of candidates, on text held apart from calibration.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "compress/calibrate.h"
#include "compress/calibration_tokens.h"
#include "device/executor.h"
#include "evaluate/evaluate.h"

namespace tq {

// The original's output on a text, from one pass that holds half a layer in memory at a time: a
// model that only fits compressed has a reference too.
class StreamedReference final : public LogitReference {
 public:
  // Final states above `memory_limit` bytes are kept in `folder`. With a device (it must outlive
  // this) the original is multiplied there.
  static StatusOr<std::unique_ptr<StreamedReference>> Create(const ModelSource& source,
                                                             CalibrationTokens text,
                                                             uint64_t memory_limit,
                                                             const std::filesystem::path& folder,
                                                             Executor& executor, Progress& progress,
                                                             const DenseDevice* device = nullptr);

  const ModelConfig& config() const override { return source_->config(); }
  Status Begin(uint64_t index, std::span<const int32_t> window) override;
  Status Logits(uint64_t first, uint64_t count, float* out) override;

  // KL(original || model at `path`), perplexities and agreement. Only the second halves of the
  // windows are scored.
  StatusOr<EvaluateResult> Score(const std::filesystem::path& path, Progress& progress);

 private:
  StreamedReference(const ModelSource& source, CalibrationTokens text, CalibrationStream stream,
                    Executor& executor)
      : source_(&source),
        text_(std::move(text)),
        stream_(std::move(stream)),
        executor_(&executor) {}

  const ModelSource* source_;
  CalibrationTokens text_;
  CalibrationStream stream_;
  Executor* executor_;
  Tensor norm_;
  std::unique_ptr<LinearGroup> head_;
  uint64_t window_ = 0;
  std::vector<float> normed_;
};

}  // namespace tq
