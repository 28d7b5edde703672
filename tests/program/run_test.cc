// tq generate, chat and bench on a packed model.
#include <sys/stat.h>

#include "program/program.h"

namespace tq::testing {
namespace {

TEST_F(ProgramTest, GreedyTextIsTheSameForAnyNumberOfThreads) {
  TqJson(Quantize("out", "2", {"--uniform"}));
  const auto text = [&](const std::string& threads) {
    return TqJson({"generate", Path("out"), "-p", "the old house", "-n", "48", "--threads",
                   threads})["tokens"];
  };
  const nlohmann::json one = text("1");
  EXPECT_EQ(one, text("2"));
  EXPECT_EQ(one, text("3"));
}

TEST_F(ProgramTest, SamplingFollowsTheSeed) {
  const auto text = [&](const std::string& seed) {
    return TqJson({"generate", Path("hf"), "-p", "the", "-n", "32", "--temperature", "1.5",
                   "--seed", seed})["tokens"];
  };
  EXPECT_EQ(text("1"), text("1"));
  EXPECT_NE(text("1"), text("2"));
}

TEST_F(ProgramTest, PromptBeyondTheContextIsAnError) {
  ExpectFailure(Tq({"generate", Path("hf"), "-p", SampleText(4000), "--context", "32"}), {"32"});
  ExpectFailure(Tq({"generate", Path("hf"), "-p", ""}), {"empty"});
}

TEST_F(ProgramTest, ChatAnswersEveryLine) {
  ProcessOptions options;
  options.input = "Hello there\nAnd again\n\n";
  const ProcessResult result = Tq({"chat", Path("hf"), "-n", "8", "--seed", "3"}, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_GE(std::count(result.out.begin(), result.out.end(), '\n'), 2);
}

// The template of the model's directory, commands, and messages that are kept in a file.
TEST_F(ProgramTest, ChatAppliesTheTemplate) {
  WriteText(Path("hf/chat_template.jinja"),
            "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}"
            "{% endfor %}{{ bos_token }}assistant:");
  const auto chat = [&](const std::string& input) {
    ProcessOptions options;
    options.input = input;
    return Tq({"chat", Path("hf"), "-n", "8", "--system", "Be brief"}, options);
  };
  const std::string file = Path("saved.json");
  ProcessResult result = chat("Hello\n//slash\n/save " + file + "\n/quit\nnever said\n");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  auto saved = nlohmann::json::parse(ReadWhole(file))["messages"];
  ASSERT_EQ(saved.size(), 5u);
  EXPECT_EQ(saved[0]["content"], "Be brief");
  EXPECT_EQ(saved[1]["content"], "Hello");
  EXPECT_EQ(saved[3]["content"], "/slash");

  result = chat("/load " + file + "\nMore\n/system Be loud\n/save " + file + "\n");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  saved = nlohmann::json::parse(ReadWhole(file))["messages"];
  ASSERT_EQ(saved.size(), 7u);
  EXPECT_EQ(saved[0]["content"], "Be loud");
  EXPECT_NE(chat("/help\n").out.find("/reset"), std::string::npos);
  ExpectFailure(chat("/nothing\n"), {"unknown command '/nothing'"});
  ExpectFailure(chat("/load " + Path("absent.json") + "\n"), {"absent.json"});
  ExpectFailure(chat("/save\n"), {"want the name of a file"});
}

TEST_F(ProgramTest, ChatSaysWhatItCannotRun) {
  ProcessOptions options;
  options.input = "Hello\n";
  const ProcessResult plain = Tq({"chat", Path("hf"), "-n", "2"}, options);
  EXPECT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_NE(plain.err.find("no chat template"), std::string::npos) << plain.err;
  WriteText(Path("hf/chat_template.jinja"), "{{ messages }}\n{% include 'x' %}");
  ExpectFailure(Tq({"chat", Path("hf")}, options), {"chat template: line 2: the tag 'include'"});
  EXPECT_EQ(Tq({"chat", Path("hf"), "-n", "2", "--plain"}, options).exit_code, 0);
}

// Robustness case 15: pages of a mapped file that are gone raise this signal.
TEST_F(ProgramTest, LostPagesAreAnError) {
  ASSERT_EQ(mkfifo(Path("input").c_str(), 0600), 0);
  ProcessOptions options;
  options.signal = SIGBUS;
  options.signal_after_ms = 1500;
  // Opened for reading and writing the FIFO never ends: chat waits for its next line.
  const ProcessResult result = RunProcess({"/bin/sh", "-c", R"(exec "$0" chat "$1" --plain <>"$2")",
                                           TQ_PROGRAM, Path("hf"), Path("input")},
                                          options);
  ExpectFailure(result, {"cut off"});
}

TEST_F(ProgramTest, BenchReportsItsKeys) {
  const nlohmann::json object = TqJson({"bench", Path("hf"), "--prompt", "32,64", "--tokens", "8,4",
                                        "--repeat", "3", "--markdown", Path("speed.md")});
  for (const char* key :
       {"prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "bytes_per_token",
        "peak_rss_bytes", "threads", "plain_read_bytes_per_s"}) {
    ASSERT_TRUE(object.contains(key)) << key;
    EXPECT_GT(object[key].get<double>(), 0) << key;
  }
  EXPECT_EQ(object["device"], "cpu");
  EXPECT_TRUE(object.contains("isa"));
  // Each prompt, and after it each number of tokens.
  const std::vector<std::pair<int, int>> want = {{32, 32}, {32, 8}, {32, 4},
                                                 {64, 64}, {64, 8}, {64, 4}};
  ASSERT_EQ(object["measurements"].size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const nlohmann::json& row = object["measurements"][i];
    EXPECT_EQ(row["test"], i % 3 == 0 ? "prompt" : "decode");
    EXPECT_EQ(row["prompt_tokens"], want[i].first);
    EXPECT_EQ(row["tokens"], want[i].second);
    EXPECT_EQ(row["repetitions"], 3);
    EXPECT_LE(row["tokens_per_s_lowest"], row["tokens_per_s"]);
    EXPECT_LE(row["tokens_per_s"], row["tokens_per_s_highest"]);
    EXPECT_EQ(row.contains("weights_per_s"), i % 3 != 0);
  }
  EXPECT_EQ(object["decode_tokens_per_s"], object["measurements"][1]["tokens_per_s"]);
  const std::string table = ReadWhole(folder_ / "speed.md");
  EXPECT_NE(table.find("| decode 4 after 64 |"), std::string::npos) << table;
}

TEST_F(ProgramTest, TextWithTooFewWindowsIsAnError) {
  std::ofstream(folder_ / "short.txt") << "the old house";
  ExpectFailure(Tq({"eval", Path("hf"), "--text", Path("short.txt"), "--context", "64", "--quiet"}),
                {"window"});
}

}  // namespace
}  // namespace tq::testing
