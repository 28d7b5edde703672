// The quantised matrices of a job, each kept as a finished part of its work folder.
//
// Hessians come from the original model, so a matrix's codes depend on the matrix and its rate
// alone: plans that agree on a matrix share its part, and a stopped job goes on where it was.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "compress/calibration_tokens.h"
#include "compress/group.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/work_folder.h"
#include "device/executor.h"

namespace tq {

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
  // Appends its tensors, the group's in_scale included.
  Status AppendTensors(const PlannedMatrix& matrix, std::vector<OutputTensor>& tensors) const;

 private:
  Status MakeLayer(uint32_t layer, class CalibrationStream* stream);
  Status MakeGroup(const MatrixGroup& group, std::optional<Tensor> hessian);
  Status Store(QuantizedMatrix matrix, const PlannedMatrix& planned);
  bool IsMissing(const MatrixGroup& group) const;

  const ModelSource& source_;
  const QuantizeOptions& options_;
  const WorkFolder& work_;
  Executor& executor_;
  Progress& progress_;
  std::vector<PlannedMatrix> matrices_;  // of the model; codes are of no account
  std::vector<MatrixGroup> groups_;
  std::vector<std::vector<PlannedMatrix>> missing_;  // by matrix: codes still to be made of it
  uint64_t weights_total_ = 0, weights_done_ = 0;
  size_t parts_total_ = 0, parts_done_ = 0;
};

}  // namespace tq
