// tq generate: continue a prompt.
#include <fmt/format.h>

#include <algorithm>

#include "base/memory_usage.h"
#include "cli/command.h"
#include "cli/sampling_options.h"

namespace tq::cli {
namespace {

class GenerateCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    CLI::App* sub = Register(app, "generate", "Continue a prompt",
                             "  tq generate SmolLM2-2bit -p \"Once upon a time\" -n 64\n"
                             "  tq generate model.gguf -p \"Dear\" --temperature 0.8 --seed 7");
    AddModelArgument(*sub, model_);
    sub->add_option("-p,--prompt", prompt_, "Text to continue")->required();
    sub->add_option("-n,--tokens", tokens_, "At most this many tokens")->capture_default_str();
    sub->add_flag("--stats", stats_, "Show tokens per second on standard error");
    AddSamplingOptions(*sub, options_);
    compute_.AddTo(*sub);
    AddJsonOption(*sub, json_);
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(auto pool, compute_.MakePool());
    TQ_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(model_));
    const std::vector<int32_t> ids = tokenizer->EncodePrompt(prompt_);
    if (ids.empty()) return InvalidArgument("--prompt: the text is empty");
    // Room for what was asked, so that memory follows the work, not the model's maximum.
    const bool fits_work = options_.context == 0;
    if (fits_work) options_.context = ids.size() + std::min<uint64_t>(tokens_, UINT32_MAX);
    TQ_ASSIGN_OR_RETURN(auto model, compute_.LoadModel(model_, options_.context));
    if (fits_work) {
      options_.context = std::min<uint64_t>(options_.context, model->config().max_position);
    }
    const ForwardContext context{pool.get(), compute_.path()};
    TQ_ASSIGN_OR_RETURN(auto session, Session::Create(*model, *tokenizer, context, options_));
    TQ_RETURN_IF_ERROR(session->Prompt(ids));

    // With JSON on standard output the text goes to standard error.
    std::FILE* out = HumanOutput(json_);
    std::string text;
    TQ_ASSIGN_OR_RETURN(const StopReason reason,
                        session->Generate(tokens_, [&](std::string_view piece) {
                          text += piece;
                          std::fwrite(piece.data(), 1, piece.size(), out);
                          std::fflush(out);
                          return true;
                        }));
    fmt::print(out, "\n");
    const SessionStats& stats = session->stats();
    if (stats_) ShowStats(stats);
    const std::vector<int32_t> generated(session->history().begin() + ids.size(),
                                         session->history().end());
    return WriteJson(json_, {{"model", model_.string()},
                             {"prompt", prompt_},
                             {"text", text},
                             {"prompt_tokens", ids},
                             {"tokens", generated},
                             {"stop", StopName(reason)},
                             {"prompt_seconds", stats.prompt_seconds},
                             {"generate_seconds", stats.generate_seconds},
                             {"peak_rss_bytes", PeakRssBytes()}});
  }

 private:
  static const char* StopName(StopReason reason) {
    switch (reason) {
      case StopReason::kEndOfGeneration:
        return "end";
      case StopReason::kMaxTokens:
        return "tokens";
      case StopReason::kContextFull:
        return "context";
      case StopReason::kCancelled:
        return "cancelled";
      case StopReason::kNone:
        return "none";
    }
    return "none";
  }

  static void ShowStats(const SessionStats& stats) {
    fmt::print(stderr,
               "prompt {} tokens, {:.1f} tokens/s; text {} tokens, {:.1f} tokens/s; peak {}\n",
               stats.prompt_tokens, static_cast<double>(stats.prompt_tokens) / stats.prompt_seconds,
               stats.generated_tokens,
               static_cast<double>(stats.generated_tokens) / stats.generate_seconds,
               FormatBytes(PeakRssBytes()));
  }

  std::filesystem::path model_;
  std::string prompt_, json_;
  uint64_t tokens_ = 64;
  SessionOptions options_;
  ComputeOptions compute_;
  bool stats_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeGenerateCommand() { return std::make_unique<GenerateCommand>(); }

}  // namespace tq::cli
