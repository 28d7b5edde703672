// The parts of the report's page that concern one model. Each is well-formed markup that begins
// with its heading, or empty when the report has no figures for it.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <string_view>

#include "evaluate/report.h"

namespace tq {

// The range of `rate` over all matrices of all models, so that one colour means one rate on the
// whole page.
struct RateRange {
  double low = 0, high = 0;
};
RateRange RatesOf(const CompressionReport& report);

// `level`: of the heading, 2 or 3.
std::string NetworkSection(const ReportModel& model, const RateRange& range, int level);
std::string LossSection(const ReportModel& model, int level);
std::string FrontierSection(const ReportModel& model, int level);
std::string PartsSection(const ReportModel& model, int level);
std::string CandidatesSection(const ReportModel& model, int level);
std::string SamplesSection(const ReportModel& model, int level);
std::string MemorySection(const MemoryUse& memory, int level);

std::string Heading(int level, std::string_view text);

// What was measured of a model: on the report's text, or else of the candidate that was written.
struct Measured {
  EvaluateResult result;
  bool on_candidates_text = false;
};
std::optional<Measured> MeasuredOf(const ReportModel& model);

// "0.0812 ± 0.0013"; empty without a measurement.
std::string KlCell(const std::optional<EvaluateResult>& result);
std::string PerplexityCell(const std::optional<EvaluateResult>& result);
std::string AgreementCell(const std::optional<EvaluateResult>& result);

// Positive and finite figures are shown; whatever else is taken for one that is not there.
inline bool IsFigure(double value) { return std::isfinite(value) && value > 0; }

}  // namespace tq
