// What quantising and comparing share: a model, its texts, its sensitivities, and parts that
// become models.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "compress/calibration_tokens.h"
#include "compress/parts.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/sensitivity.h"
#include "compress/verify.h"
#include "compress/work_folder.h"
#include "device/executor.h"
#include "tokenizer/tokenizer.h"

namespace tq {

class CompressionJob {
 public:
  // All must outlive it.
  CompressionJob(const QuantizeOptions& options, Executor& executor, Progress& progress)
      : options_(options), executor_(executor), progress_(progress) {}

  // Opens the model and checks what can be checked before long work.
  Status Open();
  // Opens the work folder. `kind` and `details` tell jobs apart that share a folder: they are part
  // of its fingerprint. `needed`: bytes that will be written to its file system.
  Status OpenWork(const std::filesystem::path& path, std::string_view kind,
                  std::string_view details, uint64_t needed);

  const ModelSource& source() const { return *source_; }
  const ModelOutline& outline() const { return outline_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  WorkFolder& work() { return *work_; }

  // From the sensitivity file, or measured (and written there). By Hessians where KL is asked for
  // and its memory is not available.
  StatusOr<SensitivityTable> Sensitivity(SensitivityMeasure measure);
  // What the sensitivity file says by a measure; nothing without one.
  StatusOr<std::optional<SensitivityTable>> KnownSensitivity(SensitivityMeasure measure);
  // Makes the matrices of the plans.
  Status MakeParts(std::span<const ModelPlan> plans);
  // Writes a model whose parts are made.
  Status WriteModel(const ModelPlan& plan, const std::filesystem::path& output);
  // The true loss of a plan whose parts are made, on the text of `reference`; kept in the work
  // folder for plans of the same codes.
  StatusOr<EvaluateResult> Score(const ModelPlan& plan, StreamedReference& reference);
  StatusOr<std::unique_ptr<StreamedReference>> HeldApartReference();
  StatusOr<std::unique_ptr<StreamedReference>> Reference(CalibrationTokens text);
  StatusOr<std::vector<MatrixReport>> Reports(const ModelPlan& plan) const;

 private:
  bool NeedsCalibration() const;
  bool MeasuresSensitivity() const;
  // Of the device that calibrates, if there is one.
  Status CheckDeviceMemory() const;
  Status ReadCalibrationText();
  // KL, unless the float model does not fit into memory: then Hessians, with a notice. A resumed
  // job keeps to what it began with.
  StatusOr<SensitivityMeasure> MeasureThatFits(const CalibrationTokens& probe);
  // Sampling from the model waits until somebody needs the tokens.
  Status SampleTokensIfNeeded();
  StatusOr<Hash128> Fingerprint(std::string_view kind, std::string_view details);
  StatusOr<Hash128> Model();  // ModelFingerprint, once

  const QuantizeOptions& options_;
  Executor& executor_;
  Progress& progress_;
  std::unique_ptr<ModelSource> source_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelOutline outline_;
  CalibrationSet texts_;
  std::optional<Hash128> model_;
  std::optional<WorkFolder> work_;
  std::optional<PartMaker> parts_;
};

}  // namespace tq
