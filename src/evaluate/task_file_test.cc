#include "evaluate/task_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "../../tests/support/temp_folder.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

using ::testing::ElementsAre;
using testing::Fails;

constexpr char kHellaSwag[] =
    "A man is on a roof. he\n3\nsings.\nfalls up.\nis holding a cube.\npulls up roofing.\n"
    "A lady bends down. she\n0\nlifts a weight.\nflies.\nends.\nis a barbell.\n";
constexpr char kJsonl[] =
    R"({"query": "Water is", "choices": ["wet", "d\u00e9j\u00e0 vu"], "gold": 0})"
    "\n"
    R"({"context_options": ["So Ann", "So Bea", "So Cy"], "continuation": "won.", "gold": 2,)"
    R"( "id": 7, "category": "names", "source": null})"
    "\n";

TEST(TaskFile, ReadsHellaSwagsText) {
  const auto tasks = ParseTasks(kHellaSwag, "tasks.txt");
  ASSERT_TRUE(tasks.ok()) << tasks.status().message();
  EXPECT_EQ(tasks->name, "tasks.txt");
  ASSERT_EQ(tasks->questions.size(), 2u);
  const TaskQuestion& first = tasks->questions[0];
  EXPECT_EQ(first.line, 1u);
  EXPECT_EQ(first.gold, 3u);
  EXPECT_THAT(first.contexts, ElementsAre("A man is on a roof. he"));
  EXPECT_THAT(first.choices,
              ElementsAre("sings.", "falls up.", "is holding a cube.", "pulls up roofing."));
  EXPECT_EQ(first.size(), 4u);
  EXPECT_EQ(first.context(2), first.contexts[0]);
  EXPECT_EQ(tasks->questions[1].line, 7u);
  EXPECT_EQ(tasks->questions[1].gold, 0u);
}

TEST(TaskFile, ReadsBothKindsOfJsonLines) {
  const auto tasks = ParseTasks(kJsonl, "tasks");
  ASSERT_TRUE(tasks.ok()) << tasks.status().message();
  ASSERT_EQ(tasks->questions.size(), 2u);
  EXPECT_THAT(tasks->questions[0].contexts, ElementsAre("Water is"));
  EXPECT_THAT(tasks->questions[0].choices, ElementsAre("wet", "d\u00e9j\u00e0 vu"));
  const TaskQuestion& second = tasks->questions[1];
  EXPECT_EQ(second.line, 2u);
  EXPECT_EQ(second.size(), 3u);
  EXPECT_EQ(second.gold, 2u);
  EXPECT_EQ(second.context(1), "So Bea");
  EXPECT_EQ(second.choice(1), "won.");
  // A question may have no context.
  EXPECT_TRUE(ParseTasks(R"({"query": "", "choices": ["a", "b"], "gold": 1})", "tasks").ok());
}

// The same questions behind a mark of byte order, with other ends of lines and blank lines.
TEST(TaskFile, EndsOfLinesDoNotMatter) {
  for (const std::string& text : {std::string(kHellaSwag), std::string(kJsonl)}) {
    std::string other = "\xEF\xBB\xBF";
    for (const char c : text) {
      if (c == '\n') other += '\r';
      other += c;
    }
    const auto plain = ParseTasks(text, "t"), marked = ParseTasks(other + "\r\n \n", "t");
    ASSERT_TRUE(marked.ok()) << marked.status().message();
    ASSERT_EQ(marked->questions.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(marked->questions[i].contexts, plain->questions[i].contexts);
      EXPECT_EQ(marked->questions[i].choices, plain->questions[i].choices);
      EXPECT_EQ(marked->questions[i].line, plain->questions[i].line);
    }
    // Without an end of the last line.
    EXPECT_EQ(ParseTasks(text.substr(0, text.size() - 1), "t")->questions.size(), 2u);
  }
}

// Robustness case 74.
TEST(TaskFile, RefusesHellaSwagsTextByLine) {
  const auto parse = [](const std::string& text) { return ParseTasks(text, "tasks.txt"); };
  const auto bad = StatusCode::kInvalidArgument;
  EXPECT_THAT(parse(""), Fails(bad, "tasks.txt", "no questions"));
  EXPECT_THAT(parse("\n \n"), Fails(bad, "tasks.txt", "no questions"));
  EXPECT_THAT(parse("context\n4\na\nb\nc\nd\n"), Fails(bad, "line 2", "'4'", "0 to 3"));
  EXPECT_THAT(parse("context\n-1\na\nb\nc\nd\n"), Fails(bad, "line 2", "'-1'", "0 to 3"));
  EXPECT_THAT(parse("context\n\na\nb\nc\nd\n"), Fails(bad, "line 2", "''"));
  EXPECT_THAT(parse("context\n0x1\na\nb\nc\nd\n"), Fails(bad, "line 2", "'0x1'"));
  EXPECT_THAT(parse("context\n1\na\n\t\nc\nd\n"), Fails(bad, "line 4", "ending 1 is blank"));
  EXPECT_THAT(parse("context\n1\na\nb\nc\n"), Fails(bad, "line 5", "5 of 6 lines"));
  EXPECT_THAT(parse(std::string(kHellaSwag) + "more"), Fails(bad, "line 13", "1 of 6 lines"));
  EXPECT_THAT(parse("context\n1\na\nb \xFF\nc\nd\n"), Fails(bad, "line 4", "byte 2", "UTF-8"));
  EXPECT_THAT(parse(std::string("\x93NUMPY\0\1", 8)), Fails(bad, "line 1", "UTF-8"));
}

// Robustness case 74.
TEST(TaskFile, RefusesJsonLinesByField) {
  const auto parse = [](const std::string& line) {
    return ParseTasks(std::string(kJsonl) + line + "\n", "tasks.jsonl");
  };
  const auto bad = StatusCode::kInvalidArgument;
  EXPECT_THAT(parse("{"), Fails(bad, "tasks.jsonl: line 3", "not JSON"));
  EXPECT_THAT(parse("A man is on a roof"), Fails(bad, "line 3", "not JSON"));
  EXPECT_THAT(parse("[1]"), Fails(bad, "line 3", "want an object"));
  EXPECT_THAT(parse("{}"), Fails(bad, "line 3", "query is missing"));
  EXPECT_THAT(parse(R"({"query": 1, "choices": ["a", "b"], "gold": 0})"), Fails(bad, "query"));
  EXPECT_THAT(parse(R"({"query": "q", "gold": 0})"), Fails(bad, "choices is missing"));
  EXPECT_THAT(parse(R"({"query": "q", "choices": "ab", "gold": 0})"), Fails(bad, "choices is"));
  EXPECT_THAT(parse(R"({"query": "q", "choices": [], "gold": 0})"), Fails(bad, "0 entries"));
  EXPECT_THAT(parse(R"({"query": "q", "choices": ["a"], "gold": 0})"),
              Fails(bad, "line 3", "choices has 1 entries", "2 to 256"));
  EXPECT_THAT(parse(R"({"query": "q", "choices": ["a", ""], "gold": 0})"),
              Fails(bad, "choices[1] is blank"));
  EXPECT_THAT(parse(R"({"query": "q", "choices": ["a", null], "gold": 0})"),
              Fails(bad, "choices[1] is null", "string"));
  EXPECT_THAT(parse(R"({"query": "q", "choices": ["a", "b"]})"), Fails(bad, "gold is missing"));
  for (const std::string gold :
       {"-1", "2", "1.0", "1e400", "18446744073709551616", "\"0\"", "[]"}) {
    EXPECT_THAT(parse(R"({"query": "q", "choices": ["a", "b"], "gold": )" + gold + "}"),
                Fails(bad, "line 3"))
        << gold;
  }
  EXPECT_THAT(parse(R"({"query": "q", "choices": ["a", "b"], "gold": 2})"),
              Fails(bad, "gold is 2", "0 to 1"));
  EXPECT_THAT(parse(R"({"context_options": ["a", "b"], "gold": 1})"),
              Fails(bad, "continuation is missing"));
  EXPECT_THAT(parse(R"({"context_options": ["a", "b"], "continuation": " ", "gold": 1})"),
              Fails(bad, "continuation is blank"));
  EXPECT_THAT(parse(R"({"context_options": ["a"], "continuation": "c", "gold": 0})"),
              Fails(bad, "context_options has 1"));
  EXPECT_THAT(parse("{\"query\": \"\xC3\x28\", \"choices\": [\"a\", \"b\"], \"gold\": 0}"),
              Fails(bad, "line 3", "UTF-8"));
  const auto unknown = StatusCode::kUnimplemented;
  EXPECT_THAT(parse(R"({"query": "q", "choices": ["a", "b"], "gold": 0, "shots": 5})"),
              Fails(unknown, "line 3", "shots"));
  EXPECT_THAT(parse(R"({"context_options": ["a", "b"], "continuation": "c", "gold": 0,)"
                    R"( "query": "q"})"),
              Fails(unknown, "query"));
}

// Robustness case 74.
TEST(TaskFile, LimitsAreNamed) {
  std::string many = R"({"query": "q", "gold": 0, "choices": ["a")";
  for (int i = 0; i < 200'000; ++i) many += R"(,"a")";
  EXPECT_THAT(ParseTasks(many + "]}", "t"),
              Fails(StatusCode::kInvalidArgument, "line 1", "200001 entries", "2 to 256"));
  for (int i = 200'000; i < 1'000'000; ++i) many += R"(,"a")";
  EXPECT_THAT(ParseTasks(many + "]}", "t"),
              Fails(StatusCode::kResourceExhausted, "line 1", "4000043 bytes", "1048576"));
  const std::string context(500'000, 'a');
  std::string question = R"({"query": ")" + context + R"(", "gold": 0, "choices": ["a")";
  for (int i = 1; i < 40; ++i) question += R"(,"a")";
  EXPECT_THAT(ParseTasks(question + "]}", "t"), Fails(StatusCode::kResourceExhausted, "line 1",
                                                      "40 choices", "20000040", "16777216"));
  std::string questions;
  for (uint64_t i = 0; i <= kMaxTaskQuestions; ++i) questions += "a\n0\na\na\na\na\n";
  EXPECT_THAT(ParseTasks(questions, "t"),
              Fails(StatusCode::kResourceExhausted, "line 6000001", "1000000 questions"));
  EXPECT_THAT(ParseTasks(std::string(500'000, '['), "t.jsonl"),
              Fails(StatusCode::kInvalidArgument, "line 1", "levels"));
}

TEST(TaskFile, ReadsTheFirstOfAFile) {
  const testing::TempFolder folder;
  testing::WriteText(folder / "t.txt", kHellaSwag);
  EXPECT_EQ(ReadTasks(folder / "t.txt")->questions.size(), 2u);
  EXPECT_EQ(ReadTasks(folder / "t.txt", 1)->questions.size(), 1u);
  EXPECT_EQ(ReadTasks(folder / "t.txt", 3)->questions.size(), 2u);
  EXPECT_THAT(ReadTasks(folder / "absent"), Fails(StatusCode::kNotFound, "absent"));
  // What is not used is checked too.
  testing::WriteText(folder / "t.txt", std::string(kHellaSwag) + "more");
  EXPECT_THAT(ReadTasks(folder / "t.txt", 1), Fails(StatusCode::kInvalidArgument, "line 13"));
}

TEST(TaskFile, ReadsRealSets) {
  const char* data = std::getenv("TQ_DATA_DIR");
  if (data == nullptr) GTEST_SKIP() << "TQ_DATA_DIR is not set: no questions";
  const std::filesystem::path folder = std::filesystem::path(data) / "tasks";
  const std::pair<const char*, size_t> sets[] = {{"copa.jsonl", 100},
                                                 {"hellaswag_val_first4000.txt", 4000},
                                                 {"openbook_qa.jsonl", 500},
                                                 {"piqa.jsonl", 1838},
                                                 {"winogrande.jsonl", 1267}};
  for (const auto& [name, questions] : sets) {
    const auto tasks = ReadTasks(folder / name);
    ASSERT_TRUE(tasks.ok()) << tasks.status().message();
    EXPECT_EQ(tasks->questions.size(), questions) << name;
  }
}

}  // namespace
}  // namespace tq
