// tq quantize: compress a model.
#include <fmt/format.h>

#include <optional>

#include "cli/command.h"
#include "compress/quantize.h"

namespace tq::cli {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class QuantizeCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub =
        Register(app, "quantize", "Compress a model",
                 "  tq quantize SmolLM2-135M -o SmolLM2-2bit --bits 2\n"
                 "  tq quantize model.gguf -o out --bits 1.5 --calibration text.txt\n"
                 "  tq quantize model -o out --bits 2 --override 'down_proj=2.5'\n"
                 "  tq quantize model -o baseline --method rtn --bits 3\n"
                 "A run that was stopped resumes when the same command is given again.");
    AddModelArgument(*sub, options_.model);
    sub->add_option("-o,--output", options_.output, "Directory to make")->required();
    sub->add_option("--bits", options_.bits,
                    "trellis: bits per weight of the whole file; rtn: width of the code")
        ->required()
        ->check(CLI::Range(0.1, 16.0));
    sub->add_option("--method", method_, "trellis, or rtn (round to nearest, groups of 32)")
        ->check(CLI::IsMember({"trellis", "rtn"}))
        ->capture_default_str();
    sub->add_option("--override", overrides_,
                    "REGEX=BITS: matrices whose names match get codes of BITS (0.5 to 8); the "
                    "others make up for it. May be given several times")
        ->allow_extra_args(false);
    sub->add_option("--calibration", options_.calibration,
                    "A text file, or self: text sampled from the model")
        ->capture_default_str();
    sub->add_option("--calibration-tokens", options_.calibration_tokens, "Tokens to calibrate with")
        ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 32))
        ->capture_default_str();
    sub->add_option("--calibration-memory", calibration_mib_,
                    "MiB of activations kept in memory; more go to the work folder")
        ->capture_default_str();
    sub->add_flag("--uniform", uniform_, "One rate for all matrices of the decoder");
    sub->add_option("--sensitivity", sensitivity_,
                    "What rates are chosen by: kl (noise in the float model) or hessian (less "
                    "memory)")
        ->check(CLI::IsMember({"kl", "hessian"}))
        ->excludes("--uniform")
        ->capture_default_str();
    sub->add_option("--sensitivity-file", options_.sensitivity_file,
                    "Keep what was measured here, and use it when it is there")
        ->excludes("--uniform");
    sub->add_flag("!--no-verify", options_.verify,
                  "Write the allocated rates without comparing them with uniform ones")
        ->excludes("--uniform");
    sub->add_option("--min-bits", options_.min_bits, "Codes of no fewer bits per weight");
    sub->add_option("--max-bits", options_.max_bits, "Codes of no more bits per weight");
    sub->add_option("--seed", options_.seed, "Seed of all random choices")->capture_default_str();
    sub->add_flag("--fast", options_.fast,
                  "Search 12-bit states: ten times faster, a little worse");
    sub->add_flag("--fresh", options_.fresh, "Start over instead of resuming");
    sub->add_flag("--dry-run", dry_run_, "Show the rates and the size, and do nothing");
    sub->add_flag("--quiet", quiet_, "No progress");
    sub->add_option("--ablate", ablations_,
                    "For research: leave a part out (rotation, hessian, hessian-scales, or v1: one "
                    "value per step at 2 bits)")
        ->check(CLI::IsMember({"rotation", "hessian", "hessian-scales", "v1"}));
    sub->add_option("--threads", threads_, "Threads (0: all processors this process may use)")
        ->capture_default_str();
    AddJsonOption(*sub, json_);
  }

  Status Run() override {
    options_.method = method_ == "rtn" ? Method::kRtn : Method::kTrellis;
    options_.calibration_memory = calibration_mib_ * kMiB;
    options_.sensitivity =
        sensitivity_ == "hessian" ? SensitivityMeasure::kHessian : SensitivityMeasure::kKl;
    if (uniform_ || options_.method == Method::kRtn) {
      options_.sensitivity = SensitivityMeasure::kNone;
    }
    for (const std::string& text : overrides_) {
      TQ_ASSIGN_OR_RETURN(RateOverride parsed, ParseRateOverride(text));
      options_.overrides.push_back(std::move(parsed));
    }
    for (const std::string& part : ablations_) {
      if (part == "rotation") options_.no_rotation = true;
      if (part == "hessian") options_.no_hessian = true;
      if (part == "hessian-scales") options_.hessian_without_scales = true;
      if (part == "v1") options_.v1 = true;
    }
    if (dry_run_) return ShowPlan();
    TQ_ASSIGN_OR_RETURN(auto pool, ThreadPool::Create(threads_));
    const std::unique_ptr<Progress> progress = MakeProgress(quiet_);
    TQ_ASSIGN_OR_RETURN(const QuantizeReport report, Quantize(options_, *pool, *progress));
    fmt::print(HumanOutput(json_),
               "{}: {} ({} bytes), {:.4f} bits per weight, decoder {:.4f} bits, {}, peak {}\n",
               options_.output.string(), FormatBytes(report.bytes), report.bytes,
               report.bits_per_weight, report.decoder_bits_per_weight,
               FormatDuration(report.seconds), FormatBytes(report.peak_rss_bytes));
    return WriteJson(json_, ReportToJson(report));
  }

 private:
  Status ShowPlan() const {
    TQ_ASSIGN_OR_RETURN(const QuantizePlan plan, PlanQuantize(options_));
    fmt::print(HumanOutput(json_),
               "{}: {} ({} bytes), {:.4f} bits per weight; codes of {:.4f} bits in the decoder, "
               "{:.4f} in embedding and head\n",
               options_.output.string(), FormatBytes(plan.bytes), plan.bytes, plan.bits_per_weight,
               plan.decoder_rate, plan.embedding_rate);
    return WriteJson(json_, {{"model", options_.model.string()},
                             {"output", options_.output.string()},
                             {"method", method_},
                             {"bits", options_.bits},
                             {"file_bytes", plan.bytes},
                             {"bits_per_weight", plan.bits_per_weight},
                             {"decoder_rate", plan.decoder_rate},
                             {"embedding_rate", plan.embedding_rate}});
  }

  nlohmann::ordered_json ReportToJson(const QuantizeReport& report) const {
    nlohmann::ordered_json object = {{"model", options_.model.string()},
                                     {"output", options_.output.string()},
                                     {"method", method_},
                                     {"bits", options_.bits},
                                     {"calibration", options_.calibration},
                                     {"seed", options_.seed},
                                     {"parameters", report.parameters},
                                     {"file_bytes", report.bytes},
                                     {"bits_per_weight", report.bits_per_weight},
                                     {"decoder_bits_per_weight", report.decoder_bits_per_weight},
                                     {"seconds", report.seconds},
                                     {"peak_rss_bytes", report.peak_rss_bytes},
                                     {"matrices", nlohmann::ordered_json::array()}};
    for (const MatrixReport& matrix : report.matrices) {
      object["matrices"].push_back({{"name", matrix.name},
                                    {"shape", {matrix.rows, matrix.cols}},
                                    {"bytes", matrix.bytes},
                                    {"bits", matrix.bits},
                                    {"relative_error", matrix.relative_error},
                                    {"hessian_error", matrix.hessian_error},
                                    {"seconds", matrix.seconds}});
    }
    return object;
  }

  QuantizeOptions options_;
  std::string method_ = "trellis", sensitivity_ = "kl", json_;
  std::vector<std::string> ablations_, overrides_;
  uint64_t calibration_mib_ = 4096;
  size_t threads_ = 0;
  bool dry_run_ = false, quiet_ = false, uniform_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeQuantizeCommand() { return std::make_unique<QuantizeCommand>(); }

}  // namespace tq::cli
