// Chat templates and messages from arbitrary bytes: a template, NUL, and the contents of messages
// that take turns, with NUL between them. Each template runs with small limits, so that inputs are
// judged by what they do and not by how long.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "tokenizer/chat_template.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

void Check(bool holds) {
  if (!holds) __builtin_trap();
}

// Parts of a result that its spans allow: ascending, inside, not touching.
void CheckSpans(const MarkedText& text) {
  size_t end = 0;
  for (const TextSpan& span : text.untrusted()) {
    Check(span.begin < span.end && span.end <= text.size() && (end == 0 || span.begin > end));
    end = span.end;
  }
}

void Exercise(std::string_view source, std::string_view contents) {
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return;
  ChatInputs inputs;
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  inputs.now = std::tm{};
  inputs.variables["tools"] = {{"name", "f"}, {"parameters", {1, 2.5, nullptr, true}}};
  inputs.limits.work = 1 << 20;
  inputs.limits.text_bytes = 1 << 16;
  for (bool user = true; !contents.empty(); user = !user) {
    const std::string_view content = contents.substr(0, contents.find('\0'));
    contents.remove_prefix(std::min(contents.size(), content.size() + 1));
    nlohmann::ordered_json message;
    message["role"] = user ? "user" : "assistant";
    message["content"] = std::string(content);
    inputs.messages.push_back(std::move(message));
  }
  const auto text = chat_template->Render(inputs);
  if (!text.ok()) {
    Check(!text.status().message().empty());
    return;
  }
  Check(text->size() <= inputs.limits.text_bytes);
  Check(Utf8ValidPrefix(text->bytes()) == text->size());
  CheckSpans(*text);
}

}  // namespace
}  // namespace tq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(bytes), size);
  const std::string_view source = input.substr(0, input.find('\0'));
  std::string_view contents = input.substr(source.size());
  if (!contents.empty()) contents.remove_prefix(1);
  tq::Exercise(source, contents);
  return 0;
}
