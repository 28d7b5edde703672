#include "tokenizer/chat_template.h"

#include <algorithm>
#include <utility>

#include "checkpoint/quote.h"
#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/parser.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kWhere = "chat template";

bool IsPlainWord(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

// A message with its role trusted if it is a plain word.
StatusOr<jinja::Value> MessageValue(const ordered_json& message, jinja::Budget& budget) {
  TQ_ASSIGN_OR_RETURN(jinja::Value value, jinja::FromJson(message, budget));
  const jinja::Value* role = value.dict()->Find("role");
  if (role == nullptr || role->text() == nullptr || !IsPlainWord(role->text()->bytes())) {
    return value;
  }
  auto entries = value.dict()->entries();
  for (auto& [key, item] : entries) {
    if (key.bytes() == "role") item = jinja::Value::Text(role->text()->bytes());
  }
  return jinja::MakeDict(std::move(entries));
}

StatusOr<jinja::Value> MessagesValue(const ordered_json& messages, jinja::Budget& budget) {
  if (!messages.is_array()) {
    return InvalidArgument("messages is {}, want a list", messages.type_name());
  }
  std::vector<jinja::Value> values;
  values.reserve(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) {
      return InvalidArgument("messages[{}] is {}, want an object", i, messages[i].type_name());
    }
    auto value = MessageValue(messages[i], budget);
    if (!value.ok()) return value.status().WithContext(fmt::format("messages[{}]", i));
    values.push_back(*std::move(value));
  }
  return jinja::MakeList(std::move(values));
}

StatusOr<jinja::Variables> MakeVariables(const ChatInputs& inputs, jinja::Budget& budget) {
  jinja::Variables variables;
  variables["tools"] = jinja::Value(jinja::None{});
  variables["documents"] = jinja::Value(jinja::None{});
  if (!inputs.variables.is_object()) {
    return InvalidArgument("variables is {}, want an object", inputs.variables.type_name());
  }
  for (const auto& [name, json] : inputs.variables.items()) {
    auto value = jinja::FromJson(json, budget);
    if (!value.ok()) return value.status().WithContext(Quote(name));
    variables[name] = *std::move(value);
  }
  TQ_ASSIGN_OR_RETURN(variables["messages"], MessagesValue(inputs.messages, budget));
  variables["add_generation_prompt"] = jinja::Value(inputs.add_generation_prompt);
  if (!inputs.bos_token.empty()) variables["bos_token"] = jinja::Value::Text(inputs.bos_token);
  if (!inputs.eos_token.empty()) variables["eos_token"] = jinja::Value::Text(inputs.eos_token);
  return variables;
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  if (source.size() > kMaxBytes) {
    return InvalidArgument("{}: {} bytes, the limit is {}", kWhere, source.size(), kMaxBytes);
  }
  if (Utf8ValidPrefix(source) != source.size()) return InvalidArgument("{}: not UTF-8", kWhere);
  auto body = jinja::ParseTemplate(source);
  if (!body.ok()) return body.status().WithContext(kWhere);
  auto impl = std::make_unique<Impl>();
  impl->body = *std::move(body);
  return ChatTemplate(std::move(impl));
}

StatusOr<MarkedText> ChatTemplate::Render(const ChatInputs& inputs) const {
  jinja::Runtime runtime{jinja::Budget(inputs.limits), inputs.now};
  auto variables = MakeVariables(inputs, runtime.budget);
  if (!variables.ok()) return variables.status().WithContext(kWhere);
  auto text = jinja::Evaluate(impl_->body, *variables, runtime);
  if (!text.ok()) return text.status().WithContext(kWhere);
  return text;
}

}  // namespace tq
