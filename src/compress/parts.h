// The quantised matrices of a job, each kept as a finished part of its work folder.
//
// Hessians come from the original model, so a matrix's codes depend on the matrix and its rate
// alone: plans that agree on a matrix share its part, and a stopped job goes on where it was.
#pragma once

#include <compare>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "compress/calibration_tokens.h"
#include "compress/group.h"
#include "compress/methods/awq/layer_scales.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/work_folder.h"
#include "device/executor.h"

namespace tq {

class CalibrationStream;

class PartMaker {
 public:
  // All must outlive it.
  PartMaker(const ModelSource& source, const QuantizeOptions& options, const WorkFolder& work,
            Executor& executor, Progress& progress)
      : source_(source), options_(options), work_(work), executor_(executor), progress_(progress) {}

  // Finds what is missing for the plans, all of this model. True if anything is.
  StatusOr<bool> FindMissing(std::span<const ModelPlan> plans);
  // Makes what FindMissing found, in one pass over the original. `text`: for Hessians; empty:
  // without.
  Status MakeMissing(CalibrationTokens text);

  // How a finished matrix turned out.
  StatusOr<MatrixReport> Report(const PlannedMatrix& matrix) const;
  // Appends its tensors and those that the group shares (group.h).
  Status AppendTensors(const PlannedMatrix& matrix, std::vector<OutputTensor>& tensors) const;

 private:
  // What one GroupQuantizer can make: all codes of the trellis, or a width of scalar ones.
  struct Kind {
    Method method = Method::kTrellis;
    uint32_t bits = 0;  // scalar
    auto operator<=>(const Kind&) const = default;
  };
  static Kind KindOf(const PlannedMatrix& m) {
    return {m.method, IsScalar(m.method) ? m.layout.bits : 0};
  }
  // AWQ's scales of a layer.
  using ScalesByKind = std::map<Kind, LayerScales>;

  Status MakeLayer(uint32_t layer, CalibrationStream* stream);
  // A layer that AWQ scales as a whole, with all its Hessians at once.
  Status MakeScaledLayer(uint32_t layer, const std::set<Kind>& scaled, CalibrationStream& stream);
  StatusOr<ScalesByKind> SearchScales(uint32_t layer, const std::set<Kind>& kinds,
                                      const std::map<std::string, GroupInput>& inputs);
  // Names the experts of the last layer whose Hessians are more the pool's than their own.
  void WarnOfRareExperts(uint32_t layer, const CalibrationStream& stream) const;
  Status MakeGroup(const MatrixGroup& group, std::optional<Tensor> hessian,
                   const ScalesByKind& scales);
  Status Store(QuantizedMatrix matrix, const PlannedMatrix& planned);
  bool IsMissing(const MatrixGroup& group) const { return !MissingKinds(group).empty(); }
  std::set<Kind> MissingKinds(const MatrixGroup& group) const;
  // The group's matrices as a plan of this kind has them.
  std::vector<PlannedMatrix> PlannedAs(Kind kind, const MatrixGroup& group) const;

  const ModelSource& source_;
  const QuantizeOptions& options_;
  const WorkFolder& work_;
  Executor& executor_;
  Progress& progress_;
  std::vector<PlannedMatrix> matrices_;  // of the model; codes are of no account
  std::vector<MatrixGroup> groups_;
  // By matrix: what it becomes in the plans, and the codes still to be made of it.
  std::vector<std::vector<PlannedMatrix>> planned_, missing_;
  uint64_t weights_total_ = 0, weights_done_ = 0;
  size_t parts_total_ = 0, parts_done_ = 0;
};

}  // namespace tq
