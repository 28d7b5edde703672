#include "evaluate/task_file.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/file_io.h"
#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

using nlohmann::json;

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(kTaskSpace) == std::string_view::npos;
}

// Lines of a text, without their ends ("\n" or "\r\n"), and how errors call them.
class Lines {
 public:
  Lines(std::string_view text, std::string_view file) : rest_(text), file_(file) {}

  bool AtEnd() const { return rest_.empty(); }
  uint64_t number() const { return number_; }  // of the last line, from 1
  std::string Where() const { return fmt::format("{}: line {}", file_, number_); }

  // The next line; not at the end.
  StatusOr<std::string_view> Next() {
    ++number_;
    const size_t end = rest_.find('\n');
    std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.size() > kMaxTaskLineBytes) {
      return ResourceExhausted("{}: {} bytes, the limit is {}", Where(), line.size(),
                               kMaxTaskLineBytes);
    }
    if (const size_t valid = Utf8ValidPrefix(line); valid < line.size()) {
      return InvalidArgument("{}: byte {} ({}) is no UTF-8", Where(), valid,
                             Quote(line.substr(valid, 1)));
    }
    return line;
  }

 private:
  std::string_view rest_, file_;
  uint64_t number_ = 0;
};

// The strings of a list of 2 to kMaxTaskChoices that are not blank.
StatusOr<std::vector<std::string>> ReadStrings(const JsonFields& fields, std::string_view key) {
  const std::string name = fields.Name(key);
  if (fields.Find(key) == nullptr) return InvalidArgument("{} is missing", name);
  TQ_ASSIGN_OR_RETURN(const json::array_t* list, JsonListOrEmpty(fields, key));
  if (list->size() < 2 || list->size() > kMaxTaskChoices) {
    return InvalidArgument("{} has {} entries, want 2 to {}", name, list->size(), kMaxTaskChoices);
  }
  std::vector<std::string> strings;
  for (const json& value : *list) {
    const std::string entry = fmt::format("{}[{}]", name, strings.size());
    if (!value.is_string()) {
      return InvalidArgument("{} is {}, want a string", entry, JsonTypeName(value));
    }
    strings.push_back(value.get<std::string>());
    if (IsBlank(strings.back())) return InvalidArgument("{} is blank", entry);
  }
  return strings;
}

// The number of the right one of `size`.
StatusOr<uint32_t> ReadGold(const JsonFields& fields, size_t size) {
  const std::string name = fields.Name("gold");
  const json* value = fields.Find("gold");
  if (value == nullptr) return InvalidArgument("{} is missing", name);
  if (value->is_number_unsigned() && value->get<uint64_t>() < size) {
    return static_cast<uint32_t>(value->get<uint64_t>());
  }
  return InvalidArgument("{} is {}, want a whole number of 0 to {}", name,
                         value->is_number() ? value->dump() : JsonTypeName(*value), size - 1);
}

StatusOr<TaskQuestion> ReadJsonQuestion(std::string_view line, const std::string& where) {
  TQ_ASSIGN_OR_RETURN(const json value, ParseJson(line, where));
  TQ_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(value, where + ": question"));
  TaskQuestion question;
  if (fields.Find("context_options") != nullptr) {
    TQ_RETURN_IF_ERROR(fields.RefuseOthers(
        {"context_options", "continuation", "gold", "id", "category", "source"}));
    TQ_ASSIGN_OR_RETURN(question.contexts, ReadStrings(fields, "context_options"));
    TQ_ASSIGN_OR_RETURN(std::string continuation, fields.String("continuation"));
    if (IsBlank(continuation)) return InvalidArgument("{} is blank", fields.Name("continuation"));
    question.choices.push_back(std::move(continuation));
  } else {
    TQ_RETURN_IF_ERROR(
        fields.RefuseOthers({"query", "choices", "gold", "id", "category", "source"}));
    TQ_ASSIGN_OR_RETURN(std::string query, fields.String("query"));
    question.contexts.push_back(std::move(query));
    TQ_ASSIGN_OR_RETURN(question.choices, ReadStrings(fields, "choices"));
  }
  TQ_ASSIGN_OR_RETURN(question.gold, ReadGold(fields, question.size()));
  return question;
}

// `context` is the line that was read last.
StatusOr<TaskQuestion> ReadHellaSwagQuestion(std::string_view context, Lines& lines) {
  constexpr uint64_t kEndings = 4;
  TaskQuestion question;
  question.contexts.emplace_back(context);
  for (uint64_t i = 0; i <= kEndings; ++i) {
    if (lines.AtEnd()) {
      return InvalidArgument("{}: the question ends here, with {} of {} lines", lines.Where(),
                             i + 1, kEndings + 2);
    }
    TQ_ASSIGN_OR_RETURN(const std::string_view line, lines.Next());
    if (i > 0) {
      if (IsBlank(line)) return InvalidArgument("{}: ending {} is blank", lines.Where(), i - 1);
      question.choices.emplace_back(line);
    } else if (line.size() == 1 && line[0] >= '0' && line[0] < static_cast<char>('0' + kEndings)) {
      question.gold = static_cast<uint32_t>(line[0] - '0');
    } else {
      return InvalidArgument("{}: number of the right ending: {}, want 0 to {}", lines.Where(),
                             Quote(line), kEndings - 1);
    }
  }
  return question;
}

// A context is encoded again with each of its choices.
Status CheckLength(const TaskQuestion& question) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < question.size(); ++i) {
    bytes += question.context(i).size() + question.choice(i).size();
  }
  if (bytes <= kMaxTaskQuestionBytes) return OkStatus();
  return ResourceExhausted(
      "a question of {} choices that are, with their contexts, {} bytes; "
      "the limit is {}",
      question.size(), bytes, kMaxTaskQuestionBytes);
}

}  // namespace

StatusOr<TaskFile> ParseTasks(std::string_view text, std::string_view name) {
  TaskFile tasks;
  tasks.name = name;
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const size_t first = text.find_first_not_of(kTaskSpace);
  const bool jsonl =
      name.ends_with(".jsonl") || (first != std::string_view::npos && text[first] == '{');
  for (Lines lines(text, name); !lines.AtEnd();) {
    TQ_ASSIGN_OR_RETURN(const std::string_view line, lines.Next());
    if (IsBlank(line)) continue;
    if (tasks.questions.size() == kMaxTaskQuestions) {
      return ResourceExhausted("{}: more than {} questions", lines.Where(), kMaxTaskQuestions);
    }
    const uint64_t number = lines.number();
    TQ_ASSIGN_OR_RETURN(TaskQuestion question, jsonl ? ReadJsonQuestion(line, lines.Where())
                                                     : ReadHellaSwagQuestion(line, lines));
    TQ_RETURN_IF_ERROR(CheckLength(question).WithContext(lines.Where()));
    question.line = number;
    tasks.questions.push_back(std::move(question));
  }
  if (tasks.questions.empty()) return InvalidArgument("{}: no questions", name);
  return tasks;
}

StatusOr<TaskFile> ReadTasks(const std::filesystem::path& path, uint64_t limit) {
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxTaskFileBytes));
  TQ_ASSIGN_OR_RETURN(TaskFile tasks, ParseTasks(text, path.string()));
  if (limit != 0 && limit < tasks.questions.size()) tasks.questions.resize(limit);
  return tasks;
}

}  // namespace tq
