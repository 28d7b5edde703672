// From sensitivities and a budget to the codes of every matrix.
#pragma once

#include <vector>

#include "base/status.h"
#include "compress/plan.h"
#include "compress/sensitivity.h"

namespace tq {

// A plan and the loss that the table predicts for it.
struct PredictedPlan {
  ModelPlan plan;
  double loss = 0;  // sum of the items' losses
};

// The plan of least predicted loss in at most `budget` bytes. Errors as of Allocate.
StatusOr<PredictedPlan> PlanAllocated(const ModelOutline& outline, const QuantizeOptions& options,
                                      const SensitivityTable& table, uint64_t budget);

// The sum of the losses that the table predicts for any plan of the same model, and of one of
// its matrices.
double PredictLoss(const SensitivityTable& table, const ModelPlan& plan);
double PredictLoss(const SensitivityTable& table, const PlannedMatrix& matrix);

}  // namespace tq
