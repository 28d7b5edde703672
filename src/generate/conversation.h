// A conversation with a model: messages go in and answers come out, in the form that the model's
// chat template gives them.
//
// For every answer the template is applied to all messages anew, because it may write earlier ones
// otherwise than before (some drop what the model thought). Of the resulting tokens only those
// behind the longest prefix that the session has already are run through the model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "generate/session.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace tq {

struct ConversationOptions {
  std::string system;         // what the model is told first; empty: nothing
  uint64_t max_tokens = 256;  // of an answer
  bool plain = false;         // "User: ..." and "Assistant: ..." instead of the model's template
  // Variables of the template by name, e.g. "enable_thinking", and the time (chat_template.h).
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  std::optional<std::tm> now;
  std::vector<int32_t> stop_tokens;  // beside the tokenizer's and the template's
};

class Conversation {
 public:
  // `session` and `tokenizer` must outlive it; nobody else may use the session. A model without a
  // chat template talks in plain turns. Errors: a template that we cannot run.
  static StatusOr<std::unique_ptr<Conversation>> Create(Session& session,
                                                        const Tokenizer& tokenizer,
                                                        ConversationOptions options);

  bool has_template() const { return template_.has_value(); }

  struct Answer {
    StopReason stop = StopReason::kNone;
    // Messages at the start of the conversation that were forgotten, because the context has no
    // room for them and an answer.
    size_t dropped_messages = 0;
    size_t reused_tokens = 0;  // of the prompt, that the session had already
    size_t prompt_tokens = 0;  // all of the prompt
  };
  // Says `text` to the model; pieces of its answer go to `on_text`, which returns false to stop.
  // Bytes that are not UTF-8 become U+FFFD. An error (the template refuses the messages, this one
  // alone exceeds the context) leaves the messages as they were.
  StatusOr<Answer> Ask(std::string_view text,
                       const std::function<bool(std::string_view piece)>& on_text);

  // Forgets all messages but the system's.
  void Reset() { messages_.clear(); }
  void SetSystem(std::string_view text);

  // {"messages": [{"role": ..., "content": ...}, ...]}, the system's first if there is one.
  std::string ToJson() const;
  // Replaces messages and system by those of ToJson's text. An error, which changes nothing, names
  // what is no such text; `file` is named in it.
  Status Load(std::string_view json, std::string_view file);
  size_t num_messages() const { return messages_.size(); }

 private:
  struct Message {
    std::string role, content;
  };
  struct Prompt {
    std::vector<int32_t> ids;
    size_t dropped = 0;  // messages
  };
  Conversation(Session& session, const Tokenizer& tokenizer, ConversationOptions options);

  // The system's message and those from `first` on.
  nlohmann::ordered_json MessagesFrom(size_t first) const;
  ChatInputs Inputs() const;
  StatusOr<std::vector<int32_t>> Encode(size_t first) const;
  std::vector<int32_t> EncodePlain(size_t first) const;
  // The tokens of all messages, or of as many of the last turns as leave room for an answer.
  StatusOr<Prompt> MakePrompt() const;
  // Runs the tokens that the session does not have yet; returns how many it had.
  StatusOr<size_t> Run(std::span<const int32_t> ids);
  StatusOr<StopReason> Generate(const std::function<bool(std::string_view piece)>& on_text,
                                std::string& answer);

  Session& session_;
  const Tokenizer& tokenizer_;
  ConversationOptions options_;
  std::optional<ChatTemplate> template_;
  std::vector<Message> messages_;  // user and assistant in turn, without the system's
};

}  // namespace tq
