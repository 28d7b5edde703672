// tq eval --tasks.
#include "program/program.h"

namespace tq::testing {
namespace {

// Questions of two choices each, as JSON lines; of every fourth the contexts differ.
std::string JsonQuestions(int count, int gold) {
  const std::string text = SampleText(40 * static_cast<size_t>(count) + 200);
  std::string lines;
  for (int i = 0; i < count; ++i) {
    const auto part = [&](size_t at, size_t size) {
      std::string words = text.substr(40 * static_cast<size_t>(i) + at, size);
      std::replace(words.begin(), words.end(), '\n', ' ');
      return "x" + words + "x";
    };
    nlohmann::ordered_json question;
    if (i % 4 == 3) {
      question["context_options"] = {part(0, 30), part(7, 25)};
      question["continuation"] = part(60, 12);
    } else {
      question["query"] = part(0, 30);
      question["choices"] = {part(60, 6), part(90, 17)};
    }
    question["gold"] = gold;
    lines += question.dump() + "\n";
  }
  return lines;
}

std::string HellaSwagQuestions(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i) {
    lines += "the old house number " + std::to_string(i) + " is\n" + std::to_string(i % 4) +
             "\nfound near a river.\nquiet.\nof stone and by the field.\nthe.\n";
  }
  return lines;
}

TEST_F(ProgramTest, AnswersQuestions) {
  WriteText(Path("zero.jsonl"), JsonQuestions(40, 0));
  WriteText(Path("one.jsonl"), JsonQuestions(40, 1));
  WriteText(Path("swag.txt"), HellaSwagQuestions(8));
  const auto eval = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"eval", Path("hf")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return TqJson(arguments);
  };
  const nlohmann::json result = eval({"--tasks", Path("zero.jsonl"), "--tasks", Path("one.jsonl"),
                                      "--tasks", Path("swag.txt"), "--reference", Path("hf")});
  ASSERT_EQ(result["tasks"].size(), 3u);
  EXPECT_EQ(result["questions"], 88);
  EXPECT_EQ(result["model"], Path("hf"));
  EXPECT_EQ(result["reference"], Path("hf"));
  EXPECT_FALSE(result.contains("perplexity"));
  const nlohmann::json &zero = result["tasks"][0], &one = result["tasks"][1],
                       &swag = result["tasks"][2];
  EXPECT_EQ(zero["file"], Path("zero.jsonl"));
  EXPECT_EQ(swag["questions"], 8);
  for (const char* key : {"accuracy", "accuracy_norm"}) {
    // The questions are the same; what was right in one is wrong in the other.
    const double a = zero[key], b = one[key], c = swag[key];
    EXPECT_NEAR(a + b, 1, 1e-12) << key;
    EXPECT_GT(a, 0) << key;
    EXPECT_LT(a, 1) << key;
    EXPECT_NEAR(result[key], (40 * a + 40 * b + 8 * c) / 88, 1e-12) << key;
    EXPECT_NEAR(zero[std::string(key) + "_stderr"], std::sqrt(a * b / 40), 1e-12) << key;
    EXPECT_EQ(zero[std::string("reference_") + key], zero[key]);
  }
  EXPECT_EQ(swag["choice_agreement"], 1);

  // The first questions of each file.
  const nlohmann::json some = eval({"--tasks", Path("zero.jsonl"), "--tasks-limit", "10"});
  EXPECT_EQ(some["questions"], 10);
  // A text as well.
  const nlohmann::json both = eval({"--tasks", Path("zero.jsonl"), "--text", Path("text.txt"),
                                    "--context", "64", "--windows", "2", "--threads", "2"});
  EXPECT_EQ(both["accuracy"], zero["accuracy"]);
  EXPECT_EQ(both["windows"], 2);
  EXPECT_GT(both["perplexity"], 0);
}

TEST_F(ProgramTest, EveryKindOfModelAnswersQuestions) {
  WriteText(Path("t.jsonl"), JsonQuestions(30, 0));
  const auto accuracy = [&](const std::string& model) {
    return TqJson({"eval", model, "--tasks", Path("t.jsonl")})["tasks"][0];
  };
  WriteGguf(MakeTinyModel({.max_position = 256}), folder_ / "tiny.gguf", kPackF32);
  nlohmann::json hf = accuracy(Path("hf")), gguf = accuracy(Path("tiny.gguf"));
  EXPECT_EQ(hf["accuracy"], gguf["accuracy"]);
  TqJson(Quantize("out", "4", {"--uniform"}));
  const nlohmann::json packed = TqJson(
      {"eval", Path("out"), "--tasks", Path("t.jsonl"), "--reference", Path("hf")})["tasks"][0];
  EXPECT_EQ(packed["reference_accuracy"], hf["accuracy"]);
  EXPECT_GT(packed["choice_agreement"], 0.7);
  const ProcessResult shown = Tq({"eval", Path("out"), "--tasks", Path("t.jsonl")});
  EXPECT_NE(shown.out.find("t.jsonl: accuracy "), std::string::npos) << shown.out;
  EXPECT_NE(shown.out.find("(30 questions)"), std::string::npos) << shown.out;
}

// Robustness case 74.
TEST_F(ProgramTest, BadQuestionsAreNamed) {
  const auto eval = [&](const std::string& contents) {
    WriteText(Path("t.jsonl"), contents);
    return Tq({"eval", Path("hf"), "--tasks", Path("t.jsonl")});
  };
  ExpectFailure(eval(JsonQuestions(2, 2)), {"t.jsonl: line 1", "gold is 2", "0 to 1"});
  ExpectFailure(eval(""), {"t.jsonl", "no questions"});
  ExpectFailure(eval(JsonQuestions(2, 0) + R"({"query": "q", "gold": 0})"),
                {"t.jsonl: line 3", "choices is missing"});
  std::string words;
  for (int i = 0; i < 400; ++i) words += "word ";
  ExpectFailure(eval(JsonQuestions(2, 0) + R"({"query": ")" + words +
                     R"(", "choices": ["a", "b"], "gold": 0})"),
                {"t.jsonl: line 3", "positions", "256"});
  ExpectFailure(Tq({"eval", Path("hf"), "--tasks", Path("absent.txt")}), {"absent.txt"});
  ExpectFailure(Tq({"eval", Path("hf"), "--tasks", Path("hf")}), {"hf", "regular file"});
  WriteText(Path("t.jsonl"), JsonQuestions(2, 0));
  // Before the work.
  ExpectFailure(
      Tq({"eval", Path("hf"), "--tasks", Path("t.jsonl"), "--json", Path("absent/out.json")}),
      {"absent"});
}

TEST_F(ProgramTest, WhatIsMeasuredMustBeSaid) {
  WriteText(Path("t.jsonl"), JsonQuestions(2, 0));
  const std::vector<std::string> tasks = {"eval", Path("hf"), "--tasks", Path("t.jsonl")};
  EXPECT_EQ(Tq({"eval", Path("hf")}).exit_code, 2);
  for (const std::vector<std::string>& more : std::vector<std::vector<std::string>>{
           {"--windows", "2"}, {"--context", "64"}, {"--single-tokens"}, {"--tasks-limit", "-1"}}) {
    std::vector<std::string> arguments = tasks;
    arguments.insert(arguments.end(), more.begin(), more.end());
    EXPECT_EQ(Tq(arguments).exit_code, 2) << more[0];
  }
  EXPECT_EQ(Tq({"eval", Path("hf"), "--text", Path("text.txt"), "--tasks-limit", "2"}).exit_code,
            2);
}

TEST_F(ProgramTest, InterruptedQuestionsLeaveNoResult) {
  WriteText(Path("t.jsonl"), JsonQuestions(50'000, 0));
  ProcessOptions options;
  options.signal = SIGINT;
  options.signal_after_ms = 2000;
  const ProcessResult result =
      Tq({"eval", Path("hf"), "--tasks", Path("t.jsonl"), "--json", Path("out.json")}, options);
  ExpectFailure(result, {});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out.json"));
}

}  // namespace
}  // namespace tq::testing
