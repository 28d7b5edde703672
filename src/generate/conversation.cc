#include "generate/conversation.h"

#include <algorithm>
#include <utility>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "generate/stop_text.h"
#include "generate/stop_tokens.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kPlainUser = "User:", kPlainAssistant = "Assistant:";

std::string TokenText(const Tokenizer& tokenizer, int32_t id) {
  if (id < 0) return {};
  auto text = tokenizer.Decode({&id, 1}, /*show_special=*/true);
  return text.ok() ? *std::move(text) : std::string();
}

}  // namespace

Conversation::Conversation(Session& session, const Tokenizer& tokenizer,
                           ConversationOptions options)
    : session_(session), tokenizer_(tokenizer), options_(std::move(options)) {
  SetSystem(std::exchange(options_.system, {}));
}

StatusOr<std::unique_ptr<Conversation>> Conversation::Create(Session& session,
                                                             const Tokenizer& tokenizer,
                                                             ConversationOptions options) {
  std::unique_ptr<Conversation> conversation(
      new Conversation(session, tokenizer, std::move(options)));
  std::vector<int32_t> stop_tokens = conversation->options_.stop_tokens;
  if (!conversation->options_.plain && !tokenizer.chat_template().empty()) {
    TQ_ASSIGN_OR_RETURN(conversation->template_, ChatTemplate::Parse(tokenizer.chat_template()));
    const int32_t turn_end =
        TurnEndOfTemplate(*conversation->template_, tokenizer, conversation->Inputs());
    if (turn_end >= 0) stop_tokens.push_back(turn_end);
  }
  session.SetStopTokens(std::move(stop_tokens));
  return conversation;
}

void Conversation::SetSystem(std::string_view text) { options_.system = ReplaceInvalidUtf8(text); }

ordered_json Conversation::MessagesFrom(size_t first) const {
  ordered_json messages = ordered_json::array();
  if (!options_.system.empty()) {
    messages.push_back({{"role", "system"}, {"content", options_.system}});
  }
  for (size_t i = first; i < messages_.size(); ++i) {
    messages.push_back({{"role", messages_[i].role}, {"content", messages_[i].content}});
  }
  return messages;
}

ChatInputs Conversation::Inputs() const {
  ChatInputs inputs;
  inputs.bos_token = TokenText(tokenizer_, tokenizer_.bos());
  inputs.eos_token = TokenText(tokenizer_, tokenizer_.eos());
  inputs.variables = options_.variables;
  inputs.now = options_.now;
  return inputs;
}

std::vector<int32_t> Conversation::EncodePlain(size_t first) const {
  MarkedText text;
  if (!options_.system.empty()) {
    text.Append(MarkedText::Untrusted(options_.system));
    text.Append("\n\n");
  }
  for (size_t i = first; i < messages_.size(); ++i) {
    const Message& message = messages_[i];
    text.Append(message.role == "user" ? kPlainUser : kPlainAssistant);
    text.Append(" ");
    text.Append(MarkedText::Untrusted(message.content));
    text.Append("\n");
  }
  text.Append(kPlainAssistant);
  std::vector<int32_t> ids = tokenizer_.Encode(text);
  if (tokenizer_.add_bos()) ids.insert(ids.begin(), tokenizer_.bos());
  return ids;
}

// Templates write BOS themselves where the model wants it.
StatusOr<std::vector<int32_t>> Conversation::Encode(size_t first) const {
  if (!template_) return EncodePlain(first);
  ChatInputs inputs = Inputs();
  inputs.messages = MessagesFrom(first);
  TQ_ASSIGN_OR_RETURN(const MarkedText text, template_->Render(inputs));
  return tokenizer_.Encode(text);
}

StatusOr<Conversation::Prompt> Conversation::MakePrompt() const {
  // An answer shall have the tokens that it may take, but no more than a quarter of the context is
  // kept free for it.
  const uint64_t capacity = session_.capacity();
  const uint64_t room = capacity - std::min(options_.max_tokens, capacity / 4);
  Prompt prompt;
  TQ_ASSIGN_OR_RETURN(prompt.ids, Encode(0));
  if (prompt.ids.size() <= room) return prompt;
  // The fewest turns to drop, by bisection: a user's message begins one.
  size_t too_few = 0, enough = (messages_.size() - 1) / 2;  // the last message always stays
  while (too_few + 1 < enough) {
    const size_t middle = (too_few + enough) / 2;
    TQ_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(2 * middle));
    (ids.size() <= room ? enough : too_few) = middle;
  }
  prompt.dropped = 2 * enough;
  TQ_ASSIGN_OR_RETURN(prompt.ids, Encode(prompt.dropped));
  if (prompt.ids.size() <= capacity) return prompt;
  return InvalidArgument("the message and what precedes it take {} tokens, the context has {}",
                         prompt.ids.size(), capacity);
}

StatusOr<size_t> Conversation::Run(std::span<const int32_t> ids) {
  if (ids.empty()) return InvalidArgument("the chat template writes nothing");
  const std::vector<int32_t>& history = session_.history();
  const auto differ = std::mismatch(ids.begin(), ids.end(), history.begin(), history.end());
  // At least one token must run, for the logits behind it.
  const auto common = std::min(static_cast<size_t>(differ.first - ids.begin()), ids.size() - 1);
  session_.Truncate(common);
  TQ_RETURN_IF_ERROR(session_.Prompt(ids.subspan(common)));
  return common;
}

StatusOr<StopReason> Conversation::Generate(
    const std::function<bool(std::string_view piece)>& on_text, std::string& answer) {
  const auto take = [&](std::string_view piece) {
    answer += piece;
    return piece.empty() || on_text(piece);
  };
  if (template_) return session_.Generate(options_.max_tokens, take);
  // A plain answer ends where the model would speak for the user.
  StopText stop(fmt::format("\n{}", kPlainUser));
  const auto take_trimmed = [&](std::string_view piece) {
    if (answer.empty()) piece.remove_prefix(std::min(piece.find_first_not_of(' '), piece.size()));
    return take(piece);
  };
  TQ_ASSIGN_OR_RETURN(StopReason reason,
                      session_.Generate(options_.max_tokens, [&](std::string_view piece) {
                        return take_trimmed(stop.Push(piece)) && !stop.found();
                      }));
  take_trimmed(stop.Flush());
  if (stop.found()) reason = StopReason::kEndOfGeneration;
  return reason;
}

StatusOr<Conversation::Answer> Conversation::Ask(
    std::string_view text, const std::function<bool(std::string_view piece)>& on_text) {
  messages_.push_back({"user", ReplaceInvalidUtf8(text)});
  Answer answer;
  std::string content;
  const Status status = [&]() -> Status {
    TQ_ASSIGN_OR_RETURN(const Prompt prompt, MakePrompt());
    TQ_ASSIGN_OR_RETURN(answer.reused_tokens, Run(prompt.ids));
    answer.prompt_tokens = prompt.ids.size();
    answer.dropped_messages = prompt.dropped;
    TQ_ASSIGN_OR_RETURN(answer.stop, Generate(on_text, content));
    return OkStatus();
  }();
  if (!status.ok()) {
    messages_.pop_back();
    return status;
  }
  messages_.erase(messages_.begin(),
                  messages_.begin() + static_cast<int64_t>(answer.dropped_messages));
  messages_.push_back({"assistant", std::move(content)});
  return answer;
}

std::string Conversation::ToJson() const {
  return ordered_json{{"messages", MessagesFrom(0)}}.dump(2) + "\n";
}

Status Conversation::Load(std::string_view json, std::string_view file) {
  TQ_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(json, file));
  TQ_ASSIGN_OR_RETURN(const JsonFields root, JsonFields::Of(document, std::string(file)));
  TQ_RETURN_IF_ERROR(root.RefuseOthers({"messages"}));
  TQ_ASSIGN_OR_RETURN(const auto* list, JsonListOrEmpty(root, "messages"));
  std::string system;
  std::vector<Message> messages;
  for (size_t i = 0; i < list->size(); ++i) {
    TQ_ASSIGN_OR_RETURN(const JsonFields fields,
                        JsonFields::Of((*list)[i], fmt::format("{}: messages[{}]", file, i)));
    TQ_RETURN_IF_ERROR(fields.RefuseOthers({"role", "content"}));
    Message message;
    TQ_ASSIGN_OR_RETURN(message.role, fields.String("role"));
    TQ_ASSIGN_OR_RETURN(message.content, fields.String("content"));
    if (i == 0 && message.role == "system") {
      system = std::move(message.content);
      continue;
    }
    const std::string_view want = messages.size() % 2 == 0 ? "user" : "assistant";
    if (message.role != want) {
      return InvalidArgument("{} is {}, want {}", fields.Name("role"), Quote(message.role), want);
    }
    messages.push_back(std::move(message));
  }
  if (messages.size() % 2 != 0) {
    return InvalidArgument("{}: the last message is not the assistant's", file);
  }
  options_.system = std::move(system);
  messages_ = std::move(messages);
  return OkStatus();
}

}  // namespace tq
