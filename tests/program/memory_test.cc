// What the program takes of memory while it compresses and runs models.
#if !defined(TQ_SANITIZED)  // sanitizers multiply memory
#include "base/file_io.h"
#include "checkpoint/model_config.h"
#include "checkpoint/packed_model.h"
#include "model/engine_memory.h"
#include "program/program.h"

namespace tq::testing {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

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
  std::vector<std::string> arguments = Quantize("out", "2", {"--uniform"});
  arguments[1] = Path("hf768");
  const nlohmann::json made = TqJson(arguments);
  const uint64_t weights = made["file_bytes"];
  for (const std::string& prompt : {std::string("the old house"), SampleText(600)}) {
    const nlohmann::json run =
        TqJson({"generate", Path("out"), "-p", prompt, "-n", "16", "--threads", "2"});
    const uint64_t kv_cache = uint64_t{4} * 2 * 6 * 64 * 2 * 512;  // at most 512 positions
    EXPECT_LE(run["peak_rss_bytes"], weights + kv_cache + 24 * kMiB);
  }
}

// What MemoryToRun foretells is enough for a prompt that fills the context, and not far off.
TEST_F(ProgramTest, GenerationTakesTheMemoryForetold) {
  WriteHuggingFace(MakeTinyModel({.hidden = 256,
                                  .intermediate = 512,
                                  .layers = 3,
                                  .heads = 4,
                                  .kv_heads = 4,
                                  .max_position = 8192}),
                   folder_ / "hf256");
  std::vector<std::string> arguments = Quantize("out", "2", {"--uniform"});
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
  // Up to some pages of code, which a run may touch or not.
  EXPECT_LE(measured[1] - measured[0], foretold[1] - foretold[0] + kMiB / 8);
  EXPECT_GE(measured[1] - measured[0], (cache[1] - cache[0]) / 10 * 9);
}

// A model of one of the shapes of Llama, most of it zeros.
ModelConfig MakeSynthetic(const std::string& shape, const std::string& folder,
                          std::vector<std::string> more) {
  more.insert(more.begin(), {TQ_SYNTHETIC_MODEL, shape, folder});
  const ProcessResult made = RunProcess(more);
  EXPECT_EQ(made.exit_code, 0) << made.err;
  const auto text = ReadFile(folder + "/config.json", kMiB);
  EXPECT_TRUE(text.ok());
  const auto config = ModelConfigFromJson(*text);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return *config;
}

// The bound that docs/scaling.md states, with what the program takes of its own at this size.
uint64_t QuantizeBound(const ModelConfig& c, uint64_t calibration_memory) {
  const uint64_t hidden = c.hidden_size, wide = c.intermediate_size, q = c.q_size();
  // [weights of a group, its inputs]
  const std::pair<uint64_t, uint64_t> groups[] = {{(q + 2 * c.kv_size()) * hidden, hidden},
                                                  {hidden * q, q},
                                                  {2 * wide * hidden, hidden},
                                                  {hidden * wide, wide},
                                                  {c.vocab_size * hidden, hidden}};
  uint64_t largest = 0;
  for (const auto& [weights, inputs] : groups) {
    largest = std::max(largest, 4 * (weights + 2 * inputs * inputs));
  }
  return largest + calibration_memory + 28 * kMiB;
}

// All 32 layers of Llama 3 8B at a sixteenth of its width. The float model, and the states of
// all tokens and the output, whose pages are mapped from files, do not fit into the bound. (KL
// sensitivities need the float model, and comparing candidates the packed one and its logits:
// without these options there is no such bound.)
TEST_F(ProgramTest, QuantizingKeepsItsBoundWhateverTheModel) {
  const ModelConfig config = MakeSynthetic("8b", Path("8b"), {"--width-divisor", "16"});
  std::ofstream(folder_ / "bytes.txt") << SampleText(9000);
  const nlohmann::json made = TqJson({"quantize",
                                      Path("8b"),
                                      "-o",
                                      Path("out"),
                                      "--method",
                                      "trellis",
                                      "--bits",
                                      "2",
                                      "--fast",
                                      "--calibration",
                                      Path("bytes.txt"),
                                      "--calibration-tokens",
                                      "8192",
                                      "--calibration-memory",
                                      "1",
                                      "--threads",
                                      "2",
                                      "--sensitivity",
                                      "hessian",
                                      "--no-verify",
                                      "--quiet"});
  const uint64_t bound = QuantizeBound(config, kMiB);
  EXPECT_LE(made["peak_rss_bytes"], bound);
  EXPECT_GT(4 * made["parameters"].get<uint64_t>(), 3 * bound);
}

TEST_F(ProgramTest, PlanningTakesNoMemoryWhateverTheModel) {
  for (const char* shape : {"70b", "405b"}) {
    MakeSynthetic(shape, Path(shape), {"--filled-layers", "0"});
    const ProcessResult plan =
        Tq({"quantize", Path(shape), "-o", Path("out"), "--bits", "1.6", "--dry-run"});
    EXPECT_EQ(plan.exit_code, 0) << plan.err;
    // 20 to 51 MiB: the heap may lie in pages of 2 MiB.
    EXPECT_LE(plan.peak_rss_bytes, 64 * kMiB);
  }
}

}  // namespace
}  // namespace tq::testing
#endif
