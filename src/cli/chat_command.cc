// tq chat: a conversation in plain turns ("User: ...", "Assistant: ...").
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>

#include "base/cancel.h"
#include "cli/command.h"
#include "cli/sampling_options.h"
#include "cli/stop_text.h"

namespace tq::cli {
namespace {

constexpr std::string_view kUser = "User:", kAssistant = "Assistant:";

class ChatCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    options_.sampler.temperature = 0.7f;
    options_.sampler.top_p = 0.95f;
    CLI::App* sub = Register(app, "chat", "Talk with a model",
                             "  tq chat SmolLM2-2bit\n"
                             "An empty line or the end of the input ends the conversation.");
    AddModelArgument(*sub, model_);
    sub->add_option("-n,--tokens", tokens_, "At most this many tokens an answer")
        ->capture_default_str();
    AddSamplingOptions(*sub, options_);
    compute_.AddTo(*sub);
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(auto pool, compute_.MakePool());
    TQ_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(model_));
    TQ_ASSIGN_OR_RETURN(auto model, compute_.LoadModel(model_, options_.context));
    const ForwardContext context{pool.get(), compute_.path()};
    TQ_ASSIGN_OR_RETURN(auto session, Session::Create(*model, *tokenizer, context, options_));

    const bool terminal = isatty(STDIN_FILENO) != 0;
    bool first = true;
    std::string line;
    while (!CancelRequested()) {
      if (terminal) fmt::print("> ");
      std::fflush(stdout);
      if (!std::getline(std::cin, line) || line.empty()) break;
      const std::string turn =
          fmt::format("{}{} {}\n{}", first ? "" : "\n", kUser, line, kAssistant);
      const std::vector<int32_t> ids =
          first ? tokenizer->EncodePrompt(turn) : tokenizer->Encode(turn);
      first = false;
      TQ_RETURN_IF_ERROR(session->Prompt(ids));
      TQ_ASSIGN_OR_RETURN(const StopReason reason, Answer(*session));
      if (reason == StopReason::kContextFull) {
        fmt::print("(the context of {} tokens is full)\n", session->capacity());
        break;
      }
    }
    return OkStatus();
  }

 private:
  // Writes one answer; it ends where the model would speak for the user.
  StatusOr<StopReason> Answer(Session& session) {
    StopText stop(fmt::format("\n{}", kUser));
    bool started = false;
    const auto show = [&started](std::string_view text) {
      if (!started) text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
      started = started || !text.empty();
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
    TQ_ASSIGN_OR_RETURN(const StopReason reason,
                        session.Generate(tokens_, [&](std::string_view piece) {
                          show(stop.Push(piece));
                          return !stop.found();
                        }));
    show(stop.Flush());
    fmt::print("\n");
    return reason;
  }

  std::filesystem::path model_;
  uint64_t tokens_ = 256;
  SessionOptions options_;
  ComputeOptions compute_;
};

}  // namespace

std::unique_ptr<Command> MakeChatCommand() { return std::make_unique<ChatCommand>(); }

}  // namespace tq::cli
