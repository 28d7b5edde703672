#include "compress/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/file_io.h"
#include "compress/assign_rates.h"
#include "compress/job.h"
#include "compress/report_model.h"

namespace tq {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

// The windows that evaluation scores, as the stream of the reference takes them.
StatusOr<CalibrationTokens> ReadWindows(const CompareOptions& options, const Tokenizer& tokenizer) {
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.text, kMaxTextBytes));
  CalibrationTokens windows;
  windows.context = options.context;
  windows.ids = tokenizer.Encode(text);
  uint64_t count = windows.ids.size() / options.context;
  if (count < 2) {
    return InvalidArgument("text {}: {} tokens are fewer than two windows of {}",
                           options.text.string(), windows.ids.size(), options.context);
  }
  if (options.max_windows > 0) count = std::min(count, options.max_windows);
  windows.ids.resize(count * options.context);
  if (tokenizer.window_bos() >= 0) {
    for (uint64_t w = 0; w < count; ++w) windows.ids[w * options.context] = tokenizer.window_bos();
  }
  return windows;
}

// A size, a method and, for trellis, a way to choose rates.
struct Entry {
  std::string name;
  Method method = Method::kTrellis;
  SensitivityMeasure measure = SensitivityMeasure::kNone;
  std::optional<double> predicted_kl;
  const SensitivityTable* table = nullptr;
};

class CompareJob {
 public:
  CompareJob(const CompareOptions& options, Executor& executor, Progress& progress)
      : options_(options), progress_(progress), job_(options.quantize, executor, progress) {}

  StatusOr<CompareResult> Run();

 private:
  Status PlanAll();
  Status PlanScalarCodes(const QuantizeOptions& size);
  Status PlanRates(const QuantizeOptions& size);
  StatusOr<ReportModel> Measure(size_t i, StreamedReference& reference);
  StatusOr<uint64_t> DiskBytes() const;
  bool Has(Method method) const {
    return std::ranges::find(options_.methods, method) != options_.methods.end();
  }

  const CompareOptions& options_;
  Progress& progress_;
  CompressionJob job_;
  std::map<SensitivityMeasure, SensitivityTable> tables_;
  std::vector<Entry> entries_;
  std::vector<ModelPlan> plans_;  // of the entries
  std::vector<CompareResult::Impossible> impossible_;
};

Status CompareJob::PlanAll() {
  const bool trellis = Has(Method::kTrellis);
  const auto wanted = [&](SensitivityMeasure measure) {
    return trellis && std::ranges::find(options_.rates, measure) != options_.rates.end();
  };
  if (wanted(SensitivityMeasure::kKl)) {
    TQ_ASSIGN_OR_RETURN(SensitivityTable table, job_.Sensitivity(SensitivityMeasure::kKl));
    tables_.emplace(SensitivityMeasure::kHessian, table.ByHessians());
    tables_.emplace(SensitivityMeasure::kKl, std::move(table));
  } else if (wanted(SensitivityMeasure::kHessian)) {
    TQ_ASSIGN_OR_RETURN(SensitivityTable table, job_.Sensitivity(SensitivityMeasure::kHessian));
    tables_.emplace(SensitivityMeasure::kHessian, std::move(table));
  }
  for (const double bits : options_.bits) {
    for (const Method method : options_.methods) {
      QuantizeOptions size = options_.quantize;
      size.method = method;
      size.bits = bits;
      TQ_RETURN_IF_ERROR(IsScalar(method) ? PlanScalarCodes(size) : PlanRates(size));
    }
  }
  if (plans_.empty()) return InvalidArgument("{}", impossible_.front().reason);
  return OkStatus();
}

// A size that the method has not is told beside those that can be measured.
Status CompareJob::PlanScalarCodes(const QuantizeOptions& size) {
  std::string name = fmt::format("{} bits, {}", size.bits, NameOf(size.method));
  auto plan = PlanScalar(job_.outline(), size);
  const StatusCode code = plan.status().code();
  if (!IsWidth(size.method, size.bits) || code == StatusCode::kUnimplemented) {
    impossible_.push_back({std::move(name), plan.status().message()});
    return OkStatus();
  }
  if (!plan.ok()) return plan.status();
  plans_.push_back(*std::move(plan));
  entries_.push_back({std::move(name), size.method, SensitivityMeasure::kNone, {}, nullptr});
  return OkStatus();
}

Status CompareJob::PlanRates(const QuantizeOptions& size) {
  TQ_ASSIGN_OR_RETURN(const uint64_t budget, TargetBytes(job_.outline(), size));
  for (const SensitivityMeasure measure : options_.rates) {
    std::string name = fmt::format("{} bits, {}", size.bits, NameOf(measure));
    if (options_.methods.size() > 1) {
      name = fmt::format("{} bits, trellis, {}", size.bits, NameOf(measure));
    }
    Entry entry{std::move(name), Method::kTrellis, measure, {}, nullptr};
    if (measure == SensitivityMeasure::kNone) {
      const auto kl = tables_.find(SensitivityMeasure::kKl);
      if (kl == tables_.end()) {
        TQ_ASSIGN_OR_RETURN(plans_.emplace_back(), PlanUniform(job_.outline(), size));
      } else {
        const SensitivityTable& table = kl->second;
        TQ_ASSIGN_OR_RETURN(plans_.emplace_back(), PlanUniform(job_.outline(), size, table));
        entry.predicted_kl = table.TotalKl(PredictLoss(table, plans_.back().matrices));
      }
    } else {
      entry.table = &tables_.at(measure);
      TQ_ASSIGN_OR_RETURN(PredictedPlan allocated,
                          PlanAllocated(job_.outline(), size, *entry.table, budget));
      entry.predicted_kl = entry.table->TotalKl(allocated.loss);
      plans_.push_back(std::move(allocated.plan));
    }
    entries_.push_back(std::move(entry));
  }
  return OkStatus();
}

StatusOr<ReportModel> CompareJob::Measure(size_t i, StreamedReference& reference) {
  const ModelPlan& plan = plans_[i];
  const Entry& entry = entries_[i];
  QuantizeReport report;
  report.parameters = plan.parameters;
  report.bytes = plan.bytes;
  report.bits_per_weight = plan.bits_per_weight;
  TQ_ASSIGN_OR_RETURN(report.matrices, job_.Reports(plan));
  if (entry.table != nullptr) {
    report.measure = entry.table->measure;
    AddPredictions(*entry.table, plan, report.matrices);
  }
  report.decoder_bits_per_weight = DecoderBits(plan, report.matrices);
  for (const MatrixReport& m : report.matrices) report.seconds += m.seconds;
  report.parts = PartsOf(plan);
  TQ_ASSIGN_OR_RETURN(EvaluateResult measured, job_.Score(plan, reference));
  const std::string chosen_by(IsScalar(entry.method) ? NameOf(PlanKind::kScalar)
                                                     : NameOf(entry.measure));
  report.candidates.push_back(
      {chosen_by, plan.bytes, plan.bits_per_weight, entry.predicted_kl, measured, true});
  progress_.Line(fmt::format("{}: {:.4f} bits per weight, KL {:.5f} +- {:.5f}, perplexity {:.3f}",
                             entry.name, plan.bits_per_weight, measured.kl->mean,
                             measured.kl->stderr_, measured.perplexity));
  ReportModel model = MakeReportModel(entry.name, entry.method, report);
  if (!IsScalar(entry.method)) {  // a line each
    model.method = fmt::format("{}, {}", model.method, NameOf(entry.measure));
  }
  model.candidates = std::move(report.candidates);
  model.measured = std::move(measured);
  return model;
}

// The parts of all models, and the largest put together beside them. Finds what is wrong with the
// options before the long work.
StatusOr<uint64_t> CompareJob::DiskBytes() const {
  uint64_t needed = 0, largest = 0;
  for (const double bits : options_.bits) {
    for (const Method method : options_.methods) {
      QuantizeOptions size = options_.quantize;
      size.method = method;
      size.bits = bits;
      uint64_t bytes = 0;
      if (!IsScalar(method)) {
        TQ_ASSIGN_OR_RETURN(bytes, TargetBytes(job_.outline(), size));
        needed += options_.rates.size() * bytes;
      } else {
        TQ_RETURN_IF_ERROR(CheckScalarOptions(size));
        if (IsWidth(method, bits)) {
          TQ_ASSIGN_OR_RETURN(const ModelPlan plan, PlanScalar(job_.outline(), size));
          needed += bytes = plan.bytes;
        }
      }
      largest = std::max(largest, bytes);
    }
  }
  return needed + largest;
}

StatusOr<CompareResult> CompareJob::Run() {
  if (options_.bits.empty() || options_.methods.empty() || options_.rates.empty()) {
    return InvalidArgument("compare: no size, no method or no way to choose rates is given");
  }
  if (options_.context < 4 || options_.context > (1 << 20)) {
    return InvalidArgument("context {}: must be from 4 to 1048576", options_.context);
  }
  TQ_RETURN_IF_ERROR(job_.Open());
  if (options_.context > job_.source().config().max_position) {
    return InvalidArgument("context {}: the model has {} positions", options_.context,
                           job_.source().config().max_position);
  }
  TQ_ASSIGN_OR_RETURN(const uint64_t needed, DiskBytes());
  TQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromModel(options_.quantize.model));
  TQ_ASSIGN_OR_RETURN(CalibrationTokens windows, ReadWindows(options_, *tokenizer));
  const std::string details =
      fmt::format("on {} ({})", options_.text.string(),
                  HashBytes(windows.ids.data(), windows.ids.size() * sizeof(int32_t)).Hex());
  TQ_RETURN_IF_ERROR(job_.OpenWork(options_.work, "compare", details, needed));
  TQ_RETURN_IF_ERROR(PlanAll());
  TQ_RETURN_IF_ERROR(job_.MakeParts(plans_));
  CompareResult result;
  result.windows = windows.windows();
  TQ_ASSIGN_OR_RETURN(const auto reference, job_.Reference(std::move(windows)));
  for (size_t i = 0; i < plans_.size(); ++i) {
    TQ_ASSIGN_OR_RETURN(ReportModel model, Measure(i, *reference));
    result.models.push_back(std::move(model));
  }
  result.impossible = std::move(impossible_);
  result.parameters = job_.outline().parameters;
  result.original_bytes = job_.source().num_bytes();
  TQ_RETURN_IF_ERROR(job_.work().Remove());
  return result;
}

}  // namespace

StatusOr<CompareResult> Compare(const CompareOptions& options, Executor& executor,
                                Progress& progress) {
  return CompareJob(options, executor, progress).Run();
}

}  // namespace tq
