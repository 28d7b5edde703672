// Chat templates: programs in the language Jinja that come with a model and write a conversation in
// the form that the model was trained with.
//
// We run the part of Jinja that such templates use, with Hugging Face's settings (docs/cli.md lists
// it); the rest is refused by name and line. Templates and messages are untrusted: there is nothing
// to reach but the values given, work and memory are bounded (jinja/budget.h), and what messages
// say stays text even when it looks like a control token (marked_text.h).
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tokenizer/jinja/budget.h"
#include "tokenizer/marked_text.h"

namespace tq {

struct ChatInputs {
  // A list of objects as OpenAI's API has them: "role", "content", "tool_calls", ...; keys in the
  // order that templates print them in.
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  bool add_generation_prompt = true;  // the answer's beginning at the end
  // The texts of the model's tokens; undefined for the template when empty.
  std::string bos_token, eos_token;
  // Other variables of the template by name: "tools", "documents", "enable_thinking", ... Without
  // them "tools" and "documents" are none, as in Hugging Face's library.
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  std::optional<std::tm> now;  // local time for strftime_now, which is an error without
  jinja::Limits limits;
};

class ChatTemplate {
 public:
  static constexpr size_t kMaxBytes = size_t{1} << 20;

  // Errors: not UTF-8, too long, not Jinja, or of Jinja what we lack.
  static StatusOr<ChatTemplate> Parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // Texts of messages and variables are untrusted in the result, but for roles made of letters,
  // digits, "_" and "-" alone: some templates spell tokens with them ("<|user|>"). Errors: the
  // template refuses the messages, computes what cannot be, or exceeds the limits.
  StatusOr<MarkedText> Render(const ChatInputs& inputs) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace tq
