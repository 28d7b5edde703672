// tq chat: a conversation, line by line.
#include <fmt/format.h>
#include <unistd.h>

#include <ctime>
#include <iostream>

#include "base/cancel.h"
#include "base/file_io.h"
#include "checkpoint/quote.h"
#include "cli/command.h"
#include "cli/sampling_options.h"
#include "generate/conversation.h"
#include "generate/stop_tokens.h"

namespace tq::cli {
namespace {

constexpr uint64_t kMaxLoadBytes = uint64_t{64} << 20;

constexpr std::string_view kHelp =
    "/reset        forget the messages\n"
    "/system TEXT  tell the model TEXT first, from the next answer on; nothing without TEXT\n"
    "/save FILE    write the messages as JSON\n"
    "/load FILE    go on with the messages that /save wrote\n"
    "/quit         end (as does an empty line)\n"
    "//...         say what begins with a slash\n";

std::tm LocalTime() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

class ChatCommand final : public Command {
 public:
  void AddTo(CLI::App& app) override {
    options_.sampler.temperature = 0.7f;
    options_.sampler.top_p = 0.95f;
    CLI::App* sub = Register(app, "chat", "Talk with a model",
                             "  tq chat SmolLM2-2bit --system \"Answer in one sentence.\"\n"
                             "An empty line or the end of the input ends the conversation; /help "
                             "lists commands.");
    AddModelArgument(*sub, model_);
    sub->add_option("-n,--tokens", conversation_.max_tokens, "At most this many tokens an answer")
        ->capture_default_str();
    sub->add_option("--system", conversation_.system, "What the model is told first");
    sub->add_flag("--plain", conversation_.plain,
                  "Turns of \"User:\" and \"Assistant:\" instead of the model's chat template");
    AddSamplingOptions(*sub, options_);
    compute_.AddTo(*sub);
  }

  Status Run() override {
    TQ_ASSIGN_OR_RETURN(auto pool, compute_.MakePool());
    TQ_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(model_));
    TQ_ASSIGN_OR_RETURN(conversation_.stop_tokens,
                        StopTokensOfModel(model_, tokenizer->vocab_size()));
    TQ_ASSIGN_OR_RETURN(auto model, compute_.LoadModel(model_, options_.context));
    const ForwardContext context{pool.get(), compute_.path()};
    TQ_ASSIGN_OR_RETURN(auto session, Session::Create(*model, *tokenizer, context, options_));
    conversation_.now = LocalTime();
    TQ_ASSIGN_OR_RETURN(auto conversation,
                        Conversation::Create(*session, *tokenizer, conversation_));
    if (!conversation->has_template() && !conversation_.plain) {
      fmt::print(stderr, "(the model has no chat template: plain turns)\n");
    }

    const bool terminal = isatty(STDIN_FILENO) != 0;
    std::string line;
    while (!quit_ && !CancelRequested()) {
      if (terminal) fmt::print("> ");
      std::fflush(stdout);
      if (!std::getline(std::cin, line) || line.empty()) break;
      const Status status = Take(*conversation, line);
      // Someone at a terminal can mend what was wrong; a script cannot.
      if (!status.ok() && (!terminal || status.code() == StatusCode::kCancelled)) return status;
      if (!status.ok()) fmt::print(stderr, "({})\n", status.message());
    }
    return OkStatus();
  }

 private:
  Status Take(Conversation& conversation, std::string_view line) {
    if (line.starts_with("//")) return Say(conversation, line.substr(1));
    if (line.starts_with('/')) return Control(conversation, line);
    return Say(conversation, line);
  }

  Status Say(Conversation& conversation, std::string_view text) {
    TQ_ASSIGN_OR_RETURN(const Conversation::Answer answer,
                        conversation.Ask(text, [](std::string_view piece) {
                          std::fwrite(piece.data(), 1, piece.size(), stdout);
                          std::fflush(stdout);
                          return true;
                        }));
    fmt::print("\n");
    std::fflush(stdout);
    if (answer.dropped_messages > 0) {
      fmt::print(stderr, "(dropped the oldest {} messages: the context is full)\n",
                 answer.dropped_messages);
    }
    if (answer.stop == StopReason::kContextFull) {
      fmt::print(stderr, "(the answer was cut: the context is full)\n");
    }
    return OkStatus();
  }

  // A line that begins with a slash.
  Status Control(Conversation& conversation, std::string_view line) {
    const size_t space = line.find(' ');
    const std::string_view name = line.substr(0, space);
    std::string_view rest = space == std::string_view::npos ? "" : line.substr(space + 1);
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    if (name == "/system") {
      conversation.SetSystem(rest);
      return OkStatus();
    }
    if (name == "/save" || name == "/load") {
      if (rest.empty()) return InvalidArgument("{}: want the name of a file", name);
      const std::filesystem::path file(rest);
      if (name == "/save") return WriteFileAtomically(file, conversation.ToJson());
      TQ_ASSIGN_OR_RETURN(const std::string json, ReadFile(file, kMaxLoadBytes));
      return conversation.Load(json, file.string());
    }
    if (!rest.empty()) return InvalidArgument("{} takes nothing behind it", name);
    if (name == "/reset") {
      conversation.Reset();
    } else if (name == "/quit") {
      quit_ = true;
    } else if (name == "/help") {
      fmt::print("{}", kHelp);
    } else {
      return InvalidArgument("unknown command {}; /help lists them", Quote(name));
    }
    return OkStatus();
  }

  std::filesystem::path model_;
  SessionOptions options_;
  ConversationOptions conversation_;
  ComputeOptions compute_;
  bool quit_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeChatCommand() { return std::make_unique<ChatCommand>(); }

}  // namespace tq::cli
