#include "generate/stop_tokens.h"

#include <string>

#include "base/file_io.h"
#include "checkpoint/json.h"
#include "tokenizer/json_fields.h"

namespace tq {
namespace {

constexpr std::string_view kFile = "generation_config.json";
constexpr uint64_t kMaxBytes = 1 << 20;

bool IsControl(const Tokenizer& tokenizer, int32_t id) {
  const auto hidden = tokenizer.Decode({&id, 1});
  const auto shown = tokenizer.Decode({&id, 1}, /*show_special=*/true);
  return hidden.ok() && shown.ok() && hidden->empty() && !shown->empty();
}

}  // namespace

StatusOr<std::vector<int32_t>> StopTokensOfModel(const std::filesystem::path& model,
                                                 size_t vocab_size) {
  std::vector<int32_t> tokens;
  std::error_code ignored;
  if (!std::filesystem::is_directory(model, ignored)) return tokens;
  const auto text = ReadFile(model / kFile, kMaxBytes);
  if (!text.ok() && text.status().code() == StatusCode::kNotFound) return tokens;
  if (!text.ok()) return text.status();
  TQ_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(*text, kFile));
  TQ_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(document, std::string(kFile)));
  const nlohmann::json* value = fields.Find("eos_token_id");
  if (value == nullptr) return tokens;
  const std::string name = fields.Name("eos_token_id");
  const auto add = [&](const nlohmann::json& id) -> Status {
    TQ_ASSIGN_OR_RETURN(const int32_t token, JsonTokenId(id, name));
    if (static_cast<size_t>(token) >= vocab_size) {
      return InvalidArgument("{} is {}: the vocabulary has {} tokens", name, token, vocab_size);
    }
    tokens.push_back(token);
    return OkStatus();
  };
  if (!value->is_array()) {
    TQ_RETURN_IF_ERROR(add(*value));
    return tokens;
  }
  for (const nlohmann::json& id : *value) TQ_RETURN_IF_ERROR(add(id));
  return tokens;
}

int32_t TurnEndOfTemplate(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                          ChatInputs inputs) {
  constexpr std::string_view kAnswer = "answer";
  inputs.messages = {{{"role", "user"}, {"content", "question"}},
                     {{"role", "assistant"}, {"content", kAnswer}}};
  inputs.add_generation_prompt = false;
  const auto text = chat_template.Render(inputs);
  if (!text.ok() || text->untrusted().empty()) return -1;
  const TextSpan last = text->untrusted().back();
  const std::string_view bytes = text->bytes();
  if (bytes.substr(last.begin, last.end - last.begin) != kAnswer) return -1;
  for (const int32_t id : tokenizer.Encode(bytes.substr(last.end), /*parse_special=*/true)) {
    if (IsControl(tokenizer, id)) return id;
  }
  return -1;
}

}  // namespace tq
