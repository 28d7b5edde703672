// Files of multiple-choice questions from arbitrary bytes, which end in one of two formats by their
// first byte; what is accepted keeps the reader's promises.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "evaluate/task_file.h"
#include "memory_file.h"
#include "tokenizer/utf8.h"

namespace {

void CheckText(std::string_view text, bool may_be_blank) {
  if (tq::Utf8ValidPrefix(text) != text.size()) abort();
  if (!may_be_blank && text.find_first_not_of(tq::kTaskSpace) == text.npos) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  const auto tasks = tq::ParseTasks(text, "fuzz");
  if (!tasks.ok()) {
    tq::fuzz::RequireOneLine(tasks.status().message());
    return 0;
  }
  if (tasks->questions.empty()) abort();
  for (const tq::TaskQuestion& question : tasks->questions) {
    const size_t choices = question.size();
    if (choices < 2 || choices > tq::kMaxTaskChoices || question.gold >= choices) abort();
    for (size_t i = 0; i < choices; ++i) {
      CheckText(question.context(i), question.contexts.size() == 1);
      CheckText(question.choice(i), false);
    }
  }
  return 0;
}
