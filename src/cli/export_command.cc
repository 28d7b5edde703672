// tq export: a model as a file that other programs read.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

#include "base/memory_usage.h"
#include "checkpoint/gguf.h"
#include "cli/command.h"
#include "export/export.h"

namespace tq::cli {
namespace {

const std::map<std::string, GgufFileType>& FileTypes() {
  static const std::map<std::string, GgufFileType> types = {{"f32", GgufFileType::kF32},
                                                            {"f16", GgufFileType::kF16},
                                                            {"bf16", GgufFileType::kBF16},
                                                            {"q8_0", GgufFileType::kQ8_0},
                                                            {"q4_k", GgufFileType::kQ4_K}};
  return types;
}

const std::map<std::string, ExchangeFormat>& ExchangeFormats() {
  static const std::map<std::string, ExchangeFormat> formats = {
      {"gptq", ExchangeFormat::kGptqV1},
      {"gptq_v2", ExchangeFormat::kGptqV2},
      {"awq", ExchangeFormat::kAwq}};
  return formats;
}

std::string NameOf(GgufEncoding type) { return GgufTypeName(static_cast<uint32_t>(type)); }

// "rows do not fit the blocks of 15 of 20 tensors: Q5_0 in place of Q4_K for 14, ...".
std::string Describe(const ExportReport& report) {
  std::vector<std::string> parts;
  uint64_t tensors = 0;
  for (const TypeFallback& fallback : report.fallbacks) {
    tensors += fallback.tensors;
    parts.push_back(fmt::format("{} in place of {} for {}", NameOf(fallback.type),
                                NameOf(fallback.wanted), fallback.tensors));
  }
  return fmt::format("rows of {} of {} tensors do not fit the blocks: {}", tensors, report.tensors,
                     fmt::join(parts, ", "));
}

class ExportCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub = Register(app, "export", "Write a model as a file that other programs read",
                             "  tq export SmolLM2-135M SmolLM2-135M-Q4_K.gguf --type q4_k\n"
                             "  tq export SmolLM2-2bit SmolLM2-2bit.gguf --type f16\n"
                             "  tq export model.gguf model-hf --to hf\n"
                             "  tq export SmolLM2-gptq SmolLM2-GPTQ-Int4 --to hf --format gptq");
    AddModelArgument(*sub, options_.model);
    sub->add_option("OUT", options_.output, "GGUF file or, with --to hf, directory to make")
        ->required();
    sub->add_option("--to", to_, "gguf, or hf: a Hugging Face directory")
        ->check(CLI::IsMember({"gguf", "hf"}))
        ->capture_default_str();
    CLI::Option* type =
        sub->add_option("--type", type_,
                        "Of a GGUF file's matrices: f32, f16, bf16, q8_0, or q4_k (the head in "
                        "Q6_K); required for GGUF")
            ->check(CLI::IsMember(FileTypes()));
    CLI::Option* format =
        sub->add_option("--format", format_,
                        "Of a Hugging Face directory: bf16, or the codes of a model of gptq, awq "
                        "or rtn as GPTQModel (gptq, gptq_v2) or AutoAWQ (awq) store them")
            ->check(CLI::IsMember({"bf16", "gptq", "gptq_v2", "awq"}))
            ->capture_default_str();
    sub->add_option("--threads", threads_, "Threads (0: all processors this process may use)")
        ->check(CLI::Range(size_t{0}, ThreadPool::kMaxThreads))
        ->capture_default_str();
    sub->add_flag("--quiet", quiet_, "No progress");
    AddJsonOption(*sub, json_);
    sub->callback([this, type, format] {
      if (to_ == "gguf" && type->count() == 0) throw CLI::RequiredError("--type");
      if (to_ == "hf" && type->count() > 0) {
        throw CLI::ValidationError("--type", "only for GGUF files; --to hf has --format");
      }
      if (to_ == "gguf" && format->count() > 0) {
        throw CLI::ValidationError("--format", "only for --to hf; GGUF files have --type");
      }
    });
  }

  Status Run() override {
    TQ_RETURN_IF_ERROR(CheckOutputFiles({json_}));
    TQ_ASSIGN_OR_RETURN(auto pool, ThreadPool::Create(threads_));
    const std::unique_ptr<Progress> progress = MakeProgress(quiet_);
    const double start = NowSeconds();
    if (to_ == "gguf") options_.type = FileTypes().at(type_);
    if (format_ != "bf16") options_.format = ExchangeFormats().at(format_);
    TQ_ASSIGN_OR_RETURN(const ExportReport report,
                        to_ == "gguf" ? ExportGguf(options_, *pool, *progress)
                                      : ExportHuggingFace(options_, *pool, *progress));
    const double seconds = NowSeconds() - start;
    Show(report, seconds);
    return WriteJson(json_, ToJson(report, seconds));
  }

 private:
  static double BitsPerWeight(const ExportReport& report) {
    return 8.0 * static_cast<double>(report.bytes) / static_cast<double>(report.parameters);
  }

  void Show(const ExportReport& report, double seconds) const {
    std::FILE* out = HumanOutput(json_);
    for (const std::string& note : report.notes) fmt::print(out, "{}\n", note);
    if (!report.fallbacks.empty()) fmt::print(out, "{}\n", Describe(report));
    fmt::print(out, "{}: {} ({} bytes), {:.4f} bits per weight, {}, peak {}\n",
               options_.output.string(), FormatBytes(report.bytes), report.bytes,
               BitsPerWeight(report), FormatDuration(seconds), FormatBytes(PeakRssBytes()));
  }

  nlohmann::ordered_json ToJson(const ExportReport& report, double seconds) const {
    nlohmann::ordered_json object = {{"model", options_.model.string()},
                                     {"output", options_.output.string()},
                                     {"to", to_},
                                     {"type", to_ == "gguf" ? type_ : format_},
                                     {"parameters", report.parameters},
                                     {"file_bytes", report.bytes},
                                     {"bits_per_weight", BitsPerWeight(report)},
                                     {"tensors", report.tensors},
                                     {"fallbacks", nlohmann::ordered_json::array()},
                                     {"notes", report.notes},
                                     {"seconds", seconds},
                                     {"peak_rss_bytes", PeakRssBytes()}};
    for (const TypeFallback& fallback : report.fallbacks) {
      object["fallbacks"].push_back({{"type", NameOf(fallback.type)},
                                     {"instead_of", NameOf(fallback.wanted)},
                                     {"tensors", fallback.tensors}});
    }
    return object;
  }

  ExportOptions options_;
  std::string to_ = "gguf", type_, format_ = "bf16", json_;
  size_t threads_ = 0;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeExportCommand() { return std::make_unique<ExportCommand>(); }

}  // namespace tq::cli
