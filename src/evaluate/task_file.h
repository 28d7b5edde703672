// Files of multiple-choice questions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tq {

// What counts as white space in questions.
inline constexpr std::string_view kTaskSpace = " \t\n\r\f\v";

// One context with several choices of how it goes on, or several contexts with one continuation:
// either way size() pairs, of which one is right.
struct TaskQuestion {
  uint64_t line = 0;  // of the file, from 1, where it begins
  std::vector<std::string> contexts, choices;
  uint32_t gold = 0;  // the right pair

  size_t size() const { return std::max(contexts.size(), choices.size()); }
  const std::string& context(size_t i) const { return contexts[contexts.size() == 1 ? 0 : i]; }
  const std::string& choice(size_t i) const { return choices[choices.size() == 1 ? 0 : i]; }
};

struct TaskFile {
  std::string name;  // as errors and results call it
  std::vector<TaskQuestion> questions;
};

// The questions of a text in one of two formats; JSONL if `name` ends in ".jsonl" or the text
// begins with "{", and else the other:
//   JSONL: an object a line, {"query", "choices", "gold"} or, where contexts differ,
//   {"context_options", "continuation", "gold"}; "gold" counts from 0.
//   llama.cpp's HellaSwag: six lines a question: context, number of the right ending from 0, four
//   endings.
// Blank lines between questions are skipped. Errors name the line, the field, the value and the
// limit: bytes that are not UTF-8, other fields than these and "id", "category" and "source", no
// question at all, blank choices, a context that is blank in HellaSwag's format or where several
// are given (a "query" may be empty), and what is above these limits.
inline constexpr uint64_t kMaxTaskFileBytes = uint64_t{256} << 20;
inline constexpr uint64_t kMaxTaskLineBytes = uint64_t{1} << 20;
inline constexpr uint64_t kMaxTaskQuestions = 1'000'000;
inline constexpr uint64_t kMaxTaskChoices = 256;
inline constexpr uint64_t kMaxTaskQuestionBytes = uint64_t{16} << 20;  // of all pairs' texts
StatusOr<TaskFile> ParseTasks(std::string_view text, std::string_view name);

// The same of a file; the first `limit` of its questions (0: all), though all are checked.
StatusOr<TaskFile> ReadTasks(const std::filesystem::path& path, uint64_t limit = 0);

}  // namespace tq
