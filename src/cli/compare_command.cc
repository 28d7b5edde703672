// tq compare: one model at several sizes, in one table and one report.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cli/command.h"
#include "cli/quantize_flags.h"
#include "cli/report_command.h"
#include "compress/compare.h"

namespace tq::cli {
namespace {

constexpr SensitivityMeasure kRates[] = {SensitivityMeasure::kNone, SensitivityMeasure::kHessian,
                                         SensitivityMeasure::kKl};

class CompareCommand final : public Command {
 public:
  explicit CompareCommand(std::vector<std::string> words) : words_(std::move(words)) {}

  void AddTo(CLI::App& app) override {
    CLI::App* sub = Register(
        app, "compare", "Measure what a model loses at several sizes and by several methods",
        "  tq compare SmolLM2-135M --bits 4,3,2 --text wiki.test.txt --report compare.html\n"
        "  tq compare model --bits 4,3,1.6 --methods trellis,gptq,awq,rtn,ternary --text text.txt\n"
        "  tq compare model --bits 2 --rates uniform,hessian,kl --text text.txt --json -\n"
        "Everything is quantised in one pass over the original; no model is kept.");
    flags_.AddTo(*sub);
    sub->add_option(
           "--bits", options_.bits,
           "trellis: sizes in bits per weight of the whole file, 4,3,2; rtn, gptq, awq: widths "
           "of the decoder's code; ternary: 1.6")
        ->delimiter(',')
        ->check(CLI::Range(0.1, 16.0))
        ->required();
    sub->add_option("--methods", methods_, "Methods: trellis, rtn, gptq, awq, ternary")
        ->delimiter(',')
        ->check(CLI::IsMember(MethodNames()))
        ->capture_default_str();
    sub->add_option("--rates", rates_, "trellis: how rates are chosen: uniform, hessian, kl")
        ->delimiter(',')
        ->check(CLI::IsMember({"uniform", "hessian", "kl"}))
        ->capture_default_str();
    sub->add_option("--text", options_.text, "Text to measure on; do not calibrate with it")
        ->required();
    sub->add_option("--context", options_.context, "Tokens per window")
        ->check(CLI::Range(4, 1 << 20))
        ->capture_default_str();
    sub->add_option("--windows", options_.max_windows, "At most this many windows (0: all)")
        ->capture_default_str();
    sub->add_option("--report", reports_,
                    "Write a report: FILE.html, or FILE.json; may be given twice")
        ->allow_extra_args(false);
    sub->add_option("--work", options_.work, "Folder for unfinished work")->capture_default_str();
    sub->add_flag("--quiet", quiet_, "No progress");
    AddJsonOption(*sub, json_);
    sub->callback([this, sub] {
      options_.methods.clear();
      for (const std::string& name : methods_) options_.methods.push_back(MethodNamed(name));
      CheckFlagsOfMethods(*sub, options_.methods);
    });
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(options_.quantize, flags_.Options());
    TQ_RETURN_IF_ERROR(CheckOutputFiles(reports_));
    TQ_RETURN_IF_ERROR(CheckOutputFiles({json_, options_.quantize.sensitivity_file}));
    options_.rates.clear();
    for (const std::string& name : rates_) {
      for (const SensitivityMeasure measure : kRates) {
        if (name == NameOf(measure)) options_.rates.push_back(measure);
      }
    }
    // Uniform rates alone take no windows held apart, and calibrate as tq quantize --uniform does.
    const bool trellis =
        std::ranges::find(options_.methods, Method::kTrellis) != options_.methods.end();
    if (!trellis || std::ranges::all_of(options_.rates, [](SensitivityMeasure measure) {
          return measure == SensitivityMeasure::kNone;
        })) {
      options_.quantize.sensitivity = SensitivityMeasure::kNone;
    }
    TQ_ASSIGN_OR_RETURN(auto pool, ThreadPool::Create(flags_.threads()));
    const std::unique_ptr<Progress> progress = MakeProgress(quiet_);
    TQ_ASSIGN_OR_RETURN(const CompareResult result, Compare(options_, *pool, *progress));
    Show(result);
    const CompressionReport page = MakePage(result);
    TQ_RETURN_IF_ERROR(WriteReports(reports_, page));
    return WriteJson(json_, ReportToJson(page));
  }

 private:
  void Show(const CompareResult& result) const {
    std::FILE* out = HumanOutput(json_);
    fmt::print(out, "{:>25} {:>12} {:>8} {:>20} {:>8} {:>18} {:>10}\n", "", "bytes", "bits/w",
               "KL divergence", "top-1", "perplexity", "predicted");
    for (const ReportModel& m : result.models) {
      const EvaluateResult& r = *m.measured;
      const auto& predicted = m.candidates.front().predicted_kl;
      fmt::print(out, "{:>25} {:>12} {:>8.4f} {:>10.5f} +- {:.5f} {:>6.2f} % {:>18} {:>10}\n",
                 m.name, m.bytes, m.bits_per_weight, r.kl->mean, r.kl->stderr_,
                 100 * r.kl->top1_agreement,
                 fmt::format("{:.3f} +- {:.3f}", r.perplexity, r.perplexity_stderr),
                 predicted ? fmt::format("{:.4f}", *predicted) : "-");
    }
    for (const auto& [name, reason] : result.impossible) {
      fmt::print(out, "{:>25} not possible: {}\n", name, reason);
    }
  }

  CompressionReport MakePage(const CompareResult& result) const {
    CompressionReport page;
    page.title = fmt::format("{} at {} sizes", options_.quantize.model.filename().string(),
                             options_.bits.size());
    page.model = options_.quantize.model.string();
    page.command = CommandLine(words_);
    page.version = VersionLine();
    page.parameters = result.parameters;
    page.original_bytes = result.original_bytes;
    page.text = fmt::format("{}, {} windows of {} tokens", options_.text.string(), result.windows,
                            options_.context);
    const EvaluateResult& first = *result.models.front().measured;
    page.original = EvaluateResult{first.tokens,
                                   first.windows,
                                   first.kl->reference_perplexity,
                                   first.kl->reference_perplexity_stderr,
                                   {}};
    page.models = result.models;
    return page;
  }

  std::vector<std::string> words_;
  QuantizeFlags flags_;
  CompareOptions options_;
  std::vector<std::string> methods_ = {"trellis"}, rates_ = {"kl"};
  std::vector<std::filesystem::path> reports_;
  std::string json_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeCompareCommand(std::vector<std::string> words) {
  return std::make_unique<CompareCommand>(std::move(words));
}

}  // namespace tq::cli
