// From sensitivities and a budget to the codes of every matrix.
#pragma once

#include <span>
#include <string_view>
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

// The uniform plan whose embedding and head have the rate of least predicted loss.
StatusOr<ModelPlan> PlanUniform(const ModelOutline& outline, const QuantizeOptions& options,
                                const SensitivityTable& table);

// How the rates of a plan are chosen.
enum class PlanKind { kScalar, kUniform, kAllocated, kByHessians };
std::string_view NameOf(PlanKind kind);  // "one width", "uniform", "allocated", "by-hessians"

// The plans of `budget` bytes that are quantised, the preferred one first; of several, the true
// loss decides. `measure` is that of the table which rates are allocated by.
std::vector<PlanKind> PlansToCompare(const ModelOutline& outline, const QuantizeOptions& options,
                                     SensitivityMeasure measure, uint64_t budget);

// The largest size on disk while `plans` plans of `bytes` bytes are quantised and one is written:
// the parts of all and the output; to be compared, a plan is put together beside its parts.
constexpr uint64_t WorkBytes(size_t plans, uint64_t bytes) {
  return (plans + (plans > 1 ? 2 : 1)) * bytes;
}

// The loss that the table predicts for one matrix of any plan of the same model, and the sum over
// several.
double PredictLoss(const SensitivityTable& table, const PlannedMatrix& matrix);
double PredictLoss(const SensitivityTable& table, std::span<const PlannedMatrix> matrices);

}  // namespace tq
