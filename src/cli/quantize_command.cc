// tq quantize: compress a model.
#include <fmt/format.h>
#include <malloc.h>

#include <optional>
#include <utility>

#include "cli/command.h"
#include "cli/quantize_flags.h"
#include "cli/report_command.h"
#include "compress/quantize.h"
#include "compress/report_model.h"

namespace tq::cli {
namespace {

// Blocks from 128 KiB on go back to the system when they are freed. glibc would raise that to the
// largest block freed (mallopt(3)), and a heap in pieces does not shrink: a model of 32 layers took
// 52 MB, not less than 39. Prompts would be slower that way, so it is for this command alone.
void ReturnLargeBlocks() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
#endif
}

std::string Describe(const MemoryUse& use) {
  return fmt::format(
      "memory {} of {}: weights {}, KV cache of {} positions {}, activations {}, "
      "program, tokenizer and reserve {}",
      FormatBytes(use.weights + use.kv_cache + use.activations + use.reserve),
      FormatBytes(use.budget), FormatBytes(use.weights), use.context, FormatBytes(use.kv_cache),
      FormatBytes(use.activations), FormatBytes(use.reserve));
}

class QuantizeCommand final : public Command {
 public:
  explicit QuantizeCommand(std::vector<std::string> words) : words_(std::move(words)) {}

  void AddTo(CLI::App& app) override {
    CLI::App* sub = Register(
        app, "quantize", "Compress a model",
        "  tq quantize SmolLM2-135M -o SmolLM2-2bit --bits 2 --report report.html\n"
        "  tq quantize model.gguf -o out --memory 16GiB --context 8192\n"
        "  tq quantize model -o out --memory 16GiB --dry-run\n"
        "  tq quantize model -o out --bits 2 --override 'down_proj=2.5'\n"
        "  tq quantize model -o model-gptq --method gptq --bits 4 --group-size 128\n"
        "  tq quantize model -o model-awq --method awq --bits 3 --calibration text.txt\n"
        "  tq quantize model -o baseline --method rtn --bits 4 --group-size row --symmetric\n"
        "  tq quantize model -o model-ternary --method ternary --group-size 64\n"
        "A run that was stopped resumes when the same command is given again.");
    flags_.AddTo(*sub);
    sub->add_option("-o,--output", output_, "Directory to make")->required();
    CLI::Option* bits =
        sub->add_option("--bits", bits_,
                        "trellis: bits per weight of the whole file; rtn, gptq, awq: width of the "
                        "decoder's code, 2 to 8; ternary: 1.6, which need not be said")
            ->check(CLI::Range(0.1, 16.0));
    CLI::Option* memory =
        sub->add_option("--memory", memory_,
                        "The best model that runs in this memory (16GiB, 96MiB), KV cache included")
            ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
            ->excludes(bits);
    sub->add_option("--context", context_, "Positions of the KV cache that --memory counts")
        ->check(CLI::Range(1, 1 << 30))
        ->needs(memory)
        ->capture_default_str();
    sub->add_option("--reserve", reserve_, "Memory that --memory leaves to others")
        ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
        ->needs(memory);
    sub->add_option("--run-threads", run_threads_, "Threads that will run the model of --memory")
        ->check(CLI::Range(1, 1024))
        ->needs(memory)
        ->capture_default_str();
    sub->add_option("--method", method_,
                    "trellis, or for comparison rtn (round to nearest), gptq, awq or ternary")
        ->check(CLI::IsMember(MethodNames()))
        ->capture_default_str();
    CLI::Option* uniform =
        sub->add_flag("--uniform", uniform_, "One rate for all matrices of the decoder");
    sub->add_option("--sensitivity", sensitivity_,
                    "What rates are chosen by: kl (noise in the float model) or hessian (less "
                    "memory)")
        ->check(CLI::IsMember({"kl", "hessian"}))
        ->excludes(uniform)
        ->capture_default_str();
    sub->add_flag("--no-verify", no_verify_,
                  "Write the allocated rates without comparing them with uniform ones")
        ->excludes(uniform);
    sub->add_flag("--dry-run", dry_run_, "Show what would be made, and do nothing");
    sub->add_option(
           "--report", reports_,
           "Write a report of what was done and lost: FILE.html, or FILE.json; may be given "
           "twice")
        ->allow_extra_args(false);
    sub->add_flag("--quiet", quiet_, "No progress");
    AddJsonOption(*sub, json_);
    sub->callback([this, sub, bits, memory] {
      const Method method = MethodNamed(method_);
      CheckFlagsOfMethods(*sub, {&method, 1});
      if (memory->count() > 0 && memory_ == 0) {
        throw CLI::ValidationError("--memory", "must be above 0");
      }
      if (method == Method::kTernary && bits->count() == 0) {
        bits_ = kTernaryRate;
      } else if (bits->count() + memory->count() == 0) {
        throw CLI::RequiredError("--bits or --memory");
      }
    });
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(options_, flags_.Options());
    TQ_RETURN_IF_ERROR(CheckOutputFiles(reports_));
    TQ_RETURN_IF_ERROR(CheckOutputFiles({json_, options_.sensitivity_file}));
    options_.output = output_;
    options_.bits = bits_;
    options_.memory_bytes = memory_;
    options_.context = context_;
    options_.reserve_bytes = reserve_;
    options_.run_threads = run_threads_;
    options_.verify = !no_verify_;
    options_.method = MethodNamed(method_);
    options_.sensitivity =
        sensitivity_ == "hessian" ? SensitivityMeasure::kHessian : SensitivityMeasure::kKl;
    if (uniform_ || options_.no_hessian || IsScalar(options_.method)) {
      options_.sensitivity = SensitivityMeasure::kNone;
    }
    TQ_ASSIGN_OR_RETURN(auto pool, ThreadPool::Create(flags_.threads()));
    if (dry_run_) return ShowPreview(*pool);
    ReturnLargeBlocks();
    const std::unique_ptr<Progress> progress = MakeProgress(quiet_);
    TQ_ASSIGN_OR_RETURN(const QuantizeReport report, Quantize(options_, *pool, *progress));
    Show(report);
    TQ_RETURN_IF_ERROR(WriteReportFiles(report, *pool));
    return WriteJson(json_, ToJson(report));
  }

 private:
  void Show(const QuantizeReport& report) const {
    std::FILE* out = HumanOutput(json_);
    fmt::print(out, "{}: {} ({} bytes), {:.4f} bits per weight, decoder {:.4f} bits, {}, peak {}\n",
               options_.output.string(), FormatBytes(report.bytes), report.bytes,
               report.bits_per_weight, report.decoder_bits_per_weight,
               FormatDuration(report.seconds), FormatBytes(report.peak_rss_bytes));
    if (report.memory) fmt::print(out, "{}\n", Describe(*report.memory));
    for (const ReportCandidate& c : report.candidates) {
      if (!c.measured) continue;
      fmt::print(out, "{}: KL {:.5f} +- {:.5f}{}{}\n", c.name, c.measured->kl->mean,
                 c.measured->kl->stderr_,
                 c.predicted_kl ? fmt::format(", predicted {:.5f}", *c.predicted_kl) : "",
                 c.chosen ? " (written)" : "");
    }
  }

  Status ShowPreview(Executor& executor) const {
    TQ_ASSIGN_OR_RETURN(const QuantizePreview p, PreviewQuantize(options_, executor));
    std::FILE* out = HumanOutput(json_);
    fmt::print(out,
               "{}: {} ({} bytes), {:.4f} bits per weight; codes of {:.4f} bits in the decoder, "
               "{:.4f} in embedding and head ({})\n",
               options_.output.string(), FormatBytes(p.bytes), p.bytes, p.bits_per_weight,
               p.decoder_rate, p.embedding_rate, p.rates);
    if (p.memory) fmt::print(out, "{}\n", Describe(*p.memory));
    if (p.predicted_kl) {
      fmt::print(out, "predicted KL divergence {:.4f}\n", *p.predicted_kl);
    } else if (!IsScalar(options_.method)) {
      fmt::print(out,
                 "predicted KL divergence: unknown before sensitivities are measured "
                 "(--sensitivity-file)\n");
    }
    fmt::print(out, "to make it: about {}, {} of memory, {} of disk\n", FormatDuration(p.seconds),
               FormatBytes(p.peak_bytes), FormatBytes(p.disk_bytes));
    nlohmann::ordered_json object = {{"model", options_.model.string()},
                                     {"output", options_.output.string()},
                                     {"method", method_},
                                     {"rates", p.rates},
                                     {"parameters", p.parameters},
                                     {"file_bytes", p.bytes},
                                     {"budget_bytes", p.budget_bytes},
                                     {"bits_per_weight", p.bits_per_weight},
                                     {"decoder_rate", p.decoder_rate},
                                     {"embedding_rate", p.embedding_rate},
                                     {"seconds", p.seconds},
                                     {"peak_bytes", p.peak_bytes},
                                     {"disk_bytes", p.disk_bytes}};
    object["predicted_kl"] = p.predicted_kl ? nlohmann::ordered_json(*p.predicted_kl) : nullptr;
    if (p.memory) object["memory"] = MemoryToJson(*p.memory);
    return WriteJson(json_, object);
  }

  Status WriteReportFiles(const QuantizeReport& report, Executor& executor) const {
    if (reports_.empty()) return OkStatus();
    CompressionReport page;
    page.title = fmt::format("{} at {:.2f} bits per weight", options_.model.filename().string(),
                             report.bits_per_weight);
    page.model = options_.model.string();
    page.command = CommandLine(words_);
    page.version = VersionLine();
    page.parameters = report.parameters;
    {
      TQ_ASSIGN_OR_RETURN(const auto source, ModelSource::Open(options_.model));
      page.original_bytes = source->num_bytes();
    }
    page.text = options_.calibration == "self"
                    ? "text sampled from the model, held apart from calibration"
                    : fmt::format("{}, held apart from calibration", options_.calibration);
    page.memory = report.memory;
    ReportModel model =
        MakeReportModel(options_.output.filename().string(), options_.method, report);
    TQ_ASSIGN_OR_RETURN(model.samples, WriteSamples(options_.model, options_.output, executor));
    page.models.push_back(std::move(model));
    return WriteReports(reports_, page);
  }

  nlohmann::ordered_json ToJson(const QuantizeReport& report) const {
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
                                     {"sensitivity_seconds", report.sensitivity_seconds},
                                     {"peak_rss_bytes", report.peak_rss_bytes},
                                     {"candidates", nlohmann::ordered_json::array()},
                                     {"matrices", nlohmann::ordered_json::array()}};
    if (memory_ > 0) object.erase("bits");
    if (report.memory) object["memory"] = MemoryToJson(*report.memory);
    for (const ReportCandidate& c : report.candidates) {
      nlohmann::ordered_json entry = {{"name", c.name},
                                      {"file_bytes", c.bytes},
                                      {"bits_per_weight", c.bits_per_weight},
                                      {"written", c.chosen}};
      if (c.predicted_kl) entry["predicted_kl"] = *c.predicted_kl;
      if (c.measured) {
        entry["kl_mean"] = c.measured->kl->mean;
        entry["kl_stderr"] = c.measured->kl->stderr_;
        entry["perplexity"] = c.measured->perplexity;
      }
      object["candidates"].push_back(std::move(entry));
    }
    for (const MatrixReport& matrix : report.matrices) {
      object["matrices"].push_back({{"name", matrix.name},
                                    {"shape", {matrix.rows, matrix.cols}},
                                    {"bytes", matrix.bytes},
                                    {"bits", matrix.bits},
                                    {"rate", matrix.rate},
                                    {"relative_error", matrix.relative_error},
                                    {"hessian_error", matrix.hessian_error},
                                    {"predicted_loss", matrix.predicted_loss},
                                    {"seconds", matrix.seconds}});
    }
    return object;
  }

  std::vector<std::string> words_;
  QuantizeFlags flags_;
  QuantizeOptions options_;
  std::filesystem::path output_;
  std::vector<std::filesystem::path> reports_;
  std::string method_ = "trellis", sensitivity_ = "kl", json_;
  double bits_ = 0;
  uint64_t memory_ = 0, context_ = 4096, reserve_ = 0;
  size_t run_threads_ = 4;
  bool dry_run_ = false, quiet_ = false, uniform_ = false, no_verify_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeQuantizeCommand(std::vector<std::string> words) {
  return std::make_unique<QuantizeCommand>(std::move(words));
}

}  // namespace tq::cli
