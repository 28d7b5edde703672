#include "compress/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "base/memory_usage.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/packed_model.h"
#include "compress/assign_rates.h"
#include "compress/job.h"
#include "compress/memory_budget.h"
#include "compress/report_model.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

// Sizes of the frontier that a report shows, in bits per weight.
constexpr double kFrontierBits[] = {0.6, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25,
                                    2.5, 2.75, 3, 3.25, 3.5, 4,    5, 6};
// Nearer to the chosen size than this a point would show nothing new.
constexpr double kFrontierGap = 0.05;

// A plan that may be written.
struct Candidate {
  std::string name;  // of the PlanKind
  ModelPlan plan;
  std::optional<double> predicted_kl;
  std::optional<EvaluateResult> measured;
};

std::string DescribeRates(const QuantizeOptions& options) {
  std::string text(NameOf(options.method));
  text += options.budget_bytes > 0 ? fmt::format(", {} bytes", options.budget_bytes)
                                   : fmt::format(", {} bits", options.bits);
  const bool scalar = IsScalar(options.method);
  if (scalar) {
    text +=
        options.group_size > 0 ? fmt::format(", groups of {}", options.group_size) : ", whole rows";
    if (options.symmetric) text += ", symmetric";
    if (options.method == Method::kGptq && options.act_order) text += ", by activation";
  } else if (options.min_bits > LowestRate() || options.max_bits < HighestRate()) {
    text += fmt::format(", codes of {} to {} bits", options.min_bits, options.max_bits);
  }
  for (const RateOverride& o : options.overrides) {
    text += fmt::format(", {} at {} bits", o.pattern, o.bits);
  }
  if (!scalar && !options.verify) text += ", unverified";
  if (options.fast) text += ", fast";
  for (const auto& [on, name] :
       {std::pair{!scalar && options.sensitivity == SensitivityMeasure::kNone, "uniform"},
        {!scalar && options.sensitivity == SensitivityMeasure::kHessian, "by Hessians"},
        {options.no_rotation, "no rotation"},
        {options.no_hessian, "no Hessian"},
        {options.hessian_without_scales, "Hessian without scales"},
        {options.v1, "v1"}}) {
    if (on) text += fmt::format(", {}", name);
  }
  return text;
}

class QuantizeJob {
 public:
  QuantizeJob(const QuantizeOptions& options, Executor& executor, Progress& progress)
      : options_(options), progress_(progress), job_(options_, executor, progress) {}

  StatusOr<QuantizeReport> Run();

 private:
  StatusOr<ModelPlan> MakePlan(PlanKind kind) const;
  Status MakeCandidates();
  Status Verify();
  StatusOr<QuantizeReport> Finish(const Candidate& chosen);
  std::vector<FrontierPoint> Frontier(const Candidate& chosen) const;

  QuantizeOptions options_;  // budget_bytes follows from memory_bytes
  uint64_t bytes_ = 0;       // that the file may have
  Progress& progress_;
  CompressionJob job_;
  std::optional<MemoryUse> memory_;
  std::vector<Candidate> candidates_;  // the preferred one first
  std::optional<SensitivityTable> table_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double sensitivity_seconds_ = 0;
};

StatusOr<ModelPlan> QuantizeJob::MakePlan(PlanKind kind) const {
  const ModelOutline& outline = job_.outline();
  if (kind == PlanKind::kScalar) return PlanScalar(outline, options_);
  if (kind == PlanKind::kUniform) {
    const bool measured = table_ && table_->measure == SensitivityMeasure::kKl;
    return measured ? PlanUniform(outline, options_, *table_) : PlanUniform(outline, options_);
  }
  const auto allocate = [&](const SensitivityTable& table) {
    return PlanAllocated(outline, options_, table, bytes_);
  };
  TQ_ASSIGN_OR_RETURN(PredictedPlan allocated, kind == PlanKind::kByHessians
                                                   ? allocate(table_->ByHessians())
                                                   : allocate(*table_));
  return std::move(allocated.plan);
}

Status QuantizeJob::MakeCandidates() {
  SensitivityMeasure measure = SensitivityMeasure::kNone;
  if (!IsScalar(options_.method) && options_.sensitivity != SensitivityMeasure::kNone) {
    const auto start = std::chrono::steady_clock::now();
    TQ_ASSIGN_OR_RETURN(table_, job_.Sensitivity(options_.sensitivity));
    sensitivity_seconds_ =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    measure = table_->measure;
  }
  for (const PlanKind kind : PlansToCompare(job_.outline(), options_, measure, bytes_)) {
    TQ_ASSIGN_OR_RETURN(ModelPlan plan, MakePlan(kind));
    const Hash128 codes = HashOfCodes(plan.matrices);
    const auto same = [&](const Candidate& c) { return HashOfCodes(c.plan.matrices) == codes; };
    if (std::any_of(candidates_.begin(), candidates_.end(), same)) continue;
    std::optional<double> predicted;
    if (table_) predicted = table_->TotalKl(PredictLoss(*table_, plan.matrices));
    candidates_.push_back({std::string(NameOf(kind)), std::move(plan), predicted, {}});
  }
  return OkStatus();
}

// Measures the candidates; the best comes first.
Status QuantizeJob::Verify() {
  if (!table_ || !options_.verify) return OkStatus();
  TQ_ASSIGN_OR_RETURN(const auto reference, job_.HeldApartReference());
  for (Candidate& c : candidates_) {
    TQ_ASSIGN_OR_RETURN(c.measured, job_.Score(c.plan, *reference));
    progress_.Line(
        fmt::format("{}: {:.4f} bits per weight, KL {:.5f} +- {:.5f}{}", c.name,
                    c.plan.bits_per_weight, c.measured->kl->mean, c.measured->kl->stderr_,
                    c.predicted_kl ? fmt::format(" (predicted {:.5f})", *c.predicted_kl) : ""));
  }
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return a.measured->kl->mean < b.measured->kl->mean;
                   });
  return OkStatus();
}

// The chosen plan, and what the table predicts of other sizes.
std::vector<FrontierPoint> QuantizeJob::Frontier(const Candidate& chosen) const {
  if (!table_ || table_->measure != SensitivityMeasure::kKl) return {};
  const ModelPlan& plan = chosen.plan;
  std::vector<FrontierPoint> frontier{
      {plan.bits_per_weight, plan.bytes, *chosen.predicted_kl, true}};
  for (const double bits : kFrontierBits) {
    if (std::abs(bits - plan.bits_per_weight) < kFrontierGap) continue;
    const auto budget =
        static_cast<uint64_t>(bits * static_cast<double>(job_.outline().parameters) / 8);
    const auto planned = PlanAllocated(job_.outline(), options_, *table_, budget);
    if (!planned.ok()) continue;  // smaller than the smallest
    frontier.push_back({planned->plan.bits_per_weight, planned->plan.bytes,
                        *table_->TotalKl(planned->loss), false});
  }
  std::ranges::stable_sort(frontier, {}, &FrontierPoint::bytes);
  // Sizes above the largest rates give the same plan.
  const auto again = std::unique(
      frontier.begin(), frontier.end(),
      [](const FrontierPoint& a, const FrontierPoint& b) { return a.bytes == b.bytes; });
  frontier.erase(again, frontier.end());
  return frontier;
}

StatusOr<QuantizeReport> QuantizeJob::Finish(const Candidate& chosen) {
  TQ_RETURN_IF_ERROR(job_.WriteModel(chosen.plan, options_.output));
  QuantizeReport report;
  report.parameters = chosen.plan.parameters;
  TQ_ASSIGN_OR_RETURN(report.matrices, job_.Reports(chosen.plan));
  if (table_) AddPredictions(*table_, chosen.plan, report.matrices);
  report.decoder_bits_per_weight = DecoderBits(chosen.plan, report.matrices);
  {
    TQ_ASSIGN_OR_RETURN(const auto written, PackedModel::Open(options_.output));
    report.bytes = written->num_bytes();
  }
  report.bits_per_weight =
      8.0 * static_cast<double>(report.bytes) / static_cast<double>(report.parameters);
  for (const Candidate& c : candidates_) {
    report.candidates.push_back({c.name, c.plan.bytes, c.plan.bits_per_weight, c.predicted_kl,
                                 c.measured, c.name == chosen.name});
  }
  report.frontier = Frontier(chosen);
  report.parts = PartsOf(chosen.plan);
  if (memory_) {
    memory_->weights = report.bytes;
    report.memory = memory_;
  }
  if (table_) report.measure = table_->measure;
  report.sensitivity_seconds = sensitivity_seconds_;
  return report;
}

StatusOr<QuantizeReport> QuantizeJob::Run() {
  if (options_.output.empty()) return InvalidArgument("output: no path given");
  TQ_RETURN_IF_ERROR(CheckOutputDirectory(options_.output, options_.model));
  TQ_RETURN_IF_ERROR(job_.Open());
  if (options_.memory_bytes > 0) {
    TQ_ASSIGN_OR_RETURN(memory_, BudgetMemory(job_.source().config(), job_.outline(), options_));
    options_.budget_bytes = memory_->weights;
  }
  // Whatever is wrong with the budget is found before the long work.
  if (IsScalar(options_.method)) {
    TQ_ASSIGN_OR_RETURN(const ModelPlan plan, PlanScalar(job_.outline(), options_));
    bytes_ = plan.bytes;
  } else {
    TQ_ASSIGN_OR_RETURN(bytes_, TargetBytes(job_.outline(), options_));
  }
  fs::path work_path = options_.output;
  if (work_path.filename().empty()) work_path = work_path.parent_path();  // "out/"
  work_path += ".work";
  const size_t plans =
      PlansToCompare(job_.outline(), options_, options_.sensitivity, bytes_).size();
  TQ_RETURN_IF_ERROR(
      job_.OpenWork(work_path, "quantize", DescribeRates(options_), WorkBytes(plans, bytes_)));
  TQ_RETURN_IF_ERROR(MakeCandidates());
  std::vector<ModelPlan> chosen;
  for (const Candidate& c : candidates_) chosen.push_back(c.plan);
  TQ_RETURN_IF_ERROR(job_.MakeParts(chosen));
  TQ_RETURN_IF_ERROR(Verify());
  TQ_ASSIGN_OR_RETURN(QuantizeReport report, Finish(candidates_.front()));
  TQ_RETURN_IF_ERROR(job_.work().Remove());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  report.peak_rss_bytes = PeakRssBytes();
  return report;
}

}  // namespace

std::string_view NameOf(Method method) {
  switch (method) {
    case Method::kTrellis:
      return "trellis";
    case Method::kRtn:
      return "rtn";
    case Method::kGptq:
      return "gptq";
    case Method::kAwq:
      return "awq";
    case Method::kTernary:
      return "ternary";
  }
  return "";
}

std::string_view NameOf(SensitivityMeasure measure) {
  switch (measure) {
    case SensitivityMeasure::kNone:
      return "uniform";
    case SensitivityMeasure::kHessian:
      return "hessian";
    case SensitivityMeasure::kKl:
      return "kl";
  }
  return "";
}

StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options, Executor& executor,
                                  Progress& progress) {
  return QuantizeJob(options, executor, progress).Run();
}

}  // namespace tq
