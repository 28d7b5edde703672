// tq generate, chat and bench on a packed model.
#include <sys/stat.h>

#include "checkpoint/packed_model.h"
#include "model/engine_memory.h"
#include "program/program.h"

namespace tq::testing {
namespace {

TEST_F(ProgramTest, GreedyTextIsTheSameForAnyNumberOfThreads) {
  TqJson(Quantize("out", "2"));
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

// Robustness case 15: pages of a mapped file that are gone raise this signal.
TEST_F(ProgramTest, LostPagesAreAnError) {
  ASSERT_EQ(mkfifo(Path("input").c_str(), 0600), 0);
  ProcessOptions options;
  options.signal = SIGBUS;
  options.signal_after_ms = 1500;
  // Opened for reading and writing the FIFO never ends: chat waits for its next line.
  const ProcessResult result = RunProcess(
      {"/bin/sh", "-c", R"(exec "$0" chat "$1" <>"$2")", TQ_PROGRAM, Path("hf"), Path("input")},
      options);
  ExpectFailure(result, {"cut off"});
}

TEST_F(ProgramTest, BenchReportsItsKeys) {
  const nlohmann::json object =
      TqJson({"bench", Path("hf"), "--prompt", "32", "--tokens", "8", "--repeat", "1"});
  for (const char* key :
       {"prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "bytes_per_token",
        "peak_rss_bytes", "threads", "plain_read_bytes_per_s"}) {
    ASSERT_TRUE(object.contains(key)) << key;
    EXPECT_GT(object[key].get<double>(), 0) << key;
  }
  EXPECT_EQ(object["device"], "cpu");
  EXPECT_TRUE(object.contains("isa"));
}

TEST_F(ProgramTest, TextWithTooFewWindowsIsAnError) {
  std::ofstream(folder_ / "short.txt") << "the old house";
  ExpectFailure(Tq({"eval", Path("hf"), "--text", Path("short.txt"), "--quiet"}), {"window"});
}

#if !defined(TQ_SANITIZED)  // sanitizers multiply memory
// Weights stay packed: memory is the file, the KV cache and a fixed allowance. The float
// weights of this model would take 104 MB.
TEST_F(ProgramTest, GenerationNeverUnpacksTheModel) {
  WriteHuggingFace(MakeTinyModel({.hidden = 768,
                                  .intermediate = 2048,
                                  .layers = 4,
                                  .heads = 12,
                                  .kv_heads = 6,
                                  .dtype = DType::kBF16}),
                   folder_ / "hf768");
  std::vector<std::string> arguments = Quantize("out", "2", {"--calibration-tokens", "1024"});
  arguments[1] = Path("hf768");
  const nlohmann::json made = TqJson(arguments);
  const uint64_t weights = made["file_bytes"];
  for (const std::string& prompt : {std::string("the old house"), SampleText(600)}) {
    const ProcessResult result = Tq({"generate", Path("out"), "-p", prompt, "-n", "16"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const uint64_t kv_cache = uint64_t{4} * 2 * 6 * 64 * 2 * 512;  // at most 512 positions
    EXPECT_LE(result.peak_rss_bytes, weights + kv_cache + (uint64_t{48} << 20));
  }
}

// What MemoryToRun foretells is enough for a prompt that fills the context, and not far off.
TEST_F(ProgramTest, GenerationTakesTheMemoryForetold) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  WriteHuggingFace(MakeTinyModel({.hidden = 256,
                                  .intermediate = 512,
                                  .layers = 3,
                                  .heads = 4,
                                  .kv_heads = 4,
                                  .max_position = 8192}),
                   folder_ / "hf256");
  std::vector<std::string> arguments = Quantize("out", "2", {"--calibration-tokens", "1024"});
  arguments[1] = Path("hf256");
  const uint64_t weights = TqJson(arguments)["file_bytes"];
  const auto model = PackedModel::Open(folder_ / "out");
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::vector<char> ours(64 * kMiB, 1);  // what we take is not what the program takes
  uint64_t measured[2] = {}, foretold[2] = {}, cache[2] = {};
  for (const int i : {0, 1}) {
    const nlohmann::json run = TqJson(
        {"generate", Path("out"), "-p", SampleText(i ? 8000 : 400), "-n", "8", "--threads", "2"});
    const auto memory = MemoryToRun((*model)->config(), run["prompt_tokens"].size() + 8, 2);
    ASSERT_TRUE(memory.ok()) << memory.status().message();
    measured[i] = run["peak_rss_bytes"];
    foretold[i] = weights + memory->total();
    cache[i] = memory->kv_cache;
    EXPECT_LE(measured[i], foretold[i]);
    EXPECT_GE(measured[i] + 8 * kMiB, foretold[i]);
  }
  EXPECT_GT(cache[1] - cache[0], 16 * kMiB);
  // The cache is what grows; at its end it is full but for the last tokens.
  EXPECT_LE(measured[1] - measured[0], foretold[1] - foretold[0]);
  EXPECT_GE(measured[1] - measured[0], (cache[1] - cache[0]) / 10 * 9);
}
#endif

}  // namespace
}  // namespace tq::testing
