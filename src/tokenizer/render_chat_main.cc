// tq_render_chat JOBS OUT: renders chat templates. JOBS is a JSON list of {"template": ...,
// "inputs":
// {"messages": ..., "add_generation_prompt": ..., other variables}}, OUT becomes one of {"text":
// ...} or {"error": ...}. For benchmarks/oracles/chat_template_oracle.py, whose time and tokens it
// has; not installed.
#include <nlohmann/json.hpp>
#include <string>

#include "base/file_io.h"
#include "tokenizer/chat_inputs_for_test.h"
#include "tokenizer/chat_template.h"

namespace tq {
namespace {

using nlohmann::ordered_json;

ordered_json Render(const ordered_json& job) {
  const auto chat_template = ChatTemplate::Parse(job.at("template").get<std::string>());
  if (!chat_template.ok()) return {{"error", chat_template.status().message()}};
  const auto text = chat_template->Render(ChatInputsForTest(job.at("inputs"), false));
  if (!text.ok()) return {{"error", text.status().message()}};
  return {{"text", text->bytes()}};
}

Status Run(int argc, char** argv) {
  if (argc != 3) return InvalidArgument("usage: tq_render_chat JOBS OUT");
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(argv[1], uint64_t{1} << 32));
  ordered_json out = ordered_json::array();
  for (const ordered_json& job : ordered_json::parse(text)) out.push_back(Render(job));
  return WriteFileAtomically(argv[2], out.dump());
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  const tq::Status status = tq::Run(argc, argv);
  if (status.ok()) return 0;
  fmt::print(stderr, "tq_render_chat: {}\n", status.message());
  return 1;
}
