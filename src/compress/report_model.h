// What was quantised, as a report shows it.
#pragma once

#include <string>
#include <vector>

#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/sensitivity.h"
#include "evaluate/report.h"

namespace tq {

// Which bytes of the file are codes, scales, norms and header.
std::vector<BytePart> PartsOf(const ModelPlan& plan);

// Bits per weight of the decoder's matrices, everything counted. `reports` are of the plan's
// matrices.
double DecoderBits(const ModelPlan& plan, const std::vector<MatrixReport>& reports);

// Adds the table's sensitivities and predictions.
void AddPredictions(const SensitivityTable& table, const ModelPlan& plan,
                    std::vector<MatrixReport>& reports);

// The report of one quantised model; `name` is that of its directory.
ReportModel MakeReportModel(std::string name, Method method, const QuantizeReport& report);

}  // namespace tq
