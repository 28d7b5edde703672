// How much the errors of each matrix cost: measured on the original model, before anything is
// quantised, and what rates are then allocated by.
//
// Two measures, both from one pass over the original that keeps numbers, not Hessians:
//   Hessian  Expected error of a matrix' output, tr(dW H dW^T) / tr(W H W^T), weighed with its
//            branch's, or its expert's, share of the residual stream. Needs one layer in memory at
//            a time. Good for comparing matrices; not in units of KL.
//   KL       Noise shaped like the rounding error (noise.h) replaces a group of the float model;
//            the KL divergence of its output is measured at two powers D of the noise and
//            KL = scale D^exponent fitted. Inside a group (q, k, v; gate, up) KL is split by the
//            Hessian measure; so it is between the experts of an MLP, which are changed together
//            and count by their shares of its output. Needs the whole model in memory as float32.
// A vocabulary's rows are measured in slices: byte-pair tokens come in the order of their merges,
// so the first rows are met far more often.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "compress/calibration_tokens.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/work_folder.h"
#include "device/executor.h"

namespace tq {

// Rows [row_begin, row_end) of a matrix: all of a decoder matrix, or a slice of a vocabulary.
struct SensitivityItem {
  std::string matrix;
  uint64_t row_begin = 0, row_end = 0;
  // KL = scale * D^exponent at relative squared error D of the code, in this item alone. By the
  // Hessian measure no KL: exponent 1.
  double scale = 0, exponent = 1;
  double hessian_error = 0;  // tr(dW H dW^T) / tr(W H W^T) for D = 1, to first order
  // The Hessian measure for D = 1, relative to those of other items; 0 for a vocabulary, whose
  // measure ByHessians() assumes.
  double hessian_loss = 0;

  double Loss(double error) const;
};

// Noise of power D in all matrices of the decoder at once.
struct JointLoss {
  double sum = 0;       // of the items' losses
  double together = 0;  // measured KL
};

struct SensitivityTable {
  SensitivityMeasure measure = SensitivityMeasure::kKl;
  Hash128 model;        // what was measured (ModelFingerprint)
  uint64_t tokens = 0;  // that KL was measured on
  std::vector<SensitivityItem> items;
  std::vector<JointLoss> joint;  // by rising D; empty for the Hessian measure

  // KL of a whole model whose items' losses add up to `sum`: losses are not quite additive, the
  // joint measurements say how they add. Nothing for the Hessian measure.
  std::optional<double> TotalKl(double sum) const;
  // The same model by the Hessian measure, which needs no other pass.
  SensitivityTable ByHessians() const;
  // What this table says by the measure that is asked for: KL only if KL was measured.
  std::optional<SensitivityTable> By(SensitivityMeasure asked) const;
  // Factors of the items' losses when rates are allocated.
  //
  // What an item's noise does alone, in an otherwise perfect model, is not quite what it does among
  // the noise of all others; the Hessian measure errs in other ways. Allocated by a geometric mean
  // of both, models were better than by either; the fewer bits per weight, the more noise there is,
  // and the more the Hessian measure should count (docs/allocation.md).
  std::vector<double> AllocationWeights(double bits) const;
};

// Tokens that KL is measured on, in windows of kProbeContext, of which the second half is scored.
inline constexpr uint64_t kProbeTokens = 1024, kProbeContext = 256;
// Tokens that the Hessians are summed over: they shape noise, no codes.
inline constexpr uint64_t kSensitivityTokens = 16384;
// Powers of noise that KL is measured at.
inline constexpr size_t kProbeLevels = 2;

// Of a model's weights and config: names what a table belongs to.
StatusOr<Hash128> ModelFingerprint(const ModelSource& source);

// The slices of a vocabulary of `rows` rows: row numbers 0 .. rows, rising.
std::vector<uint64_t> VocabularySlices(uint64_t rows);

// `text`: Hessians; `probe`: KL. Finished layers are kept in `work` and not probed again.
// kCancelled when asked to stop.
StatusOr<SensitivityTable> MeasureSensitivity(const ModelSource& source,
                                              const ModelOutline& outline,
                                              const QuantizeOptions& options,
                                              CalibrationTokens text, CalibrationTokens probe,
                                              const WorkFolder& work, Executor& executor,
                                              Progress& progress);

// As a JSON file. Reading checks every field; a table of another model (`model`), or one that
// lacks a matrix of `outline`, is an error.
Status WriteSensitivity(const std::filesystem::path& file, const SensitivityTable& table);
StatusOr<SensitivityTable> ReadSensitivity(const std::filesystem::path& file, const Hash128& model,
                                           const ModelOutline& outline);

}  // namespace tq
