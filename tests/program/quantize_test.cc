// tq quantize, and what eval and inspect say of its result.
#include "program/program.h"

namespace tq::testing {
namespace {

#if !defined(TQ_SANITIZED)  // how much is lost is no matter of memory, and takes long
TEST_F(ProgramTest, LossFallsWithEveryBit) {
  double last_kl = 1e9;
  for (const char* bits : {"2", "3", "4"}) {
    const std::string output = std::string("out-") + bits;
    const nlohmann::json made = TqJson(Quantize(output, bits));
    // Small matrices move in coarse steps: 64 rows at a time.
    EXPECT_NEAR(made["bits_per_weight"].get<double>(), std::stod(bits), 0.3);
    const nlohmann::json result = TqJson({"eval", Path(output), "--reference", Path("hf"), "--text",
                                          Path("text.txt"), "--context", "64", "--windows", "8"});
    const double kl = result["kl_mean"].get<double>();
    EXPECT_GT(kl, 0);
    EXPECT_LT(kl, last_kl) << bits;
    last_kl = kl;
    for (const char* key : {"model", "parameters", "file_bytes", "bits_per_weight", "tokens",
                            "context", "windows", "perplexity", "perplexity_stderr", "reference",
                            "kl_stderr", "kl_p99", "top1_agreement"}) {
      EXPECT_TRUE(result.contains(key)) << key;
    }
    EXPECT_EQ(result["windows"], 8);
    EXPECT_EQ(result["tokens"], 8 * 31);
  }
}
#endif

TEST_F(ProgramTest, DryRunForetellsTheFile) {
  for (const std::string bits : {"2.2", "3"}) {
    const nlohmann::json plan = TqJson(Quantize("out-" + bits, bits, {"--uniform", "--dry-run"}));
    EXPECT_FALSE(std::filesystem::exists(folder_ / ("out-" + bits)));
    EXPECT_FALSE(std::filesystem::exists(folder_ / ("out-" + bits + ".work")));
    const nlohmann::json made = TqJson(Quantize("out-" + bits, bits, {"--uniform"}));
    EXPECT_EQ(plan["file_bytes"], made["file_bytes"]);
    EXPECT_EQ(plan["bits_per_weight"], made["bits_per_weight"]);
  }
}

TEST_F(ProgramTest, OverriddenRatesAreInTheFile) {
  const nlohmann::json made = TqJson(
      Quantize("out", "2.5", {"--override", "down_proj=4", "--override", "q_proj|k_proj=1"}));
  for (const nlohmann::json& m : made["matrices"]) {
    const std::string name = m["name"];
    // Scales and layout come on top.
    const double bits = m["bits"];
    EXPECT_TRUE(!name.ends_with("down_proj") || bits >= 4) << name << " " << bits;
    EXPECT_TRUE(!name.ends_with("q_proj") || bits < 2) << name << " " << bits;
  }
  EXPECT_NEAR(made["bits_per_weight"], 2.5, 0.1);
  ExpectFailure(Tq(Quantize("other", "2", {"--override", "nothing=3"})), {"nothing"});
  ExpectFailure(Tq(Quantize("other", "2", {"--override", "down_proj=9"})), {"9 bits"});
  ExpectFailure(Tq(Quantize("other", "2", {"--override", "down_proj"})), {"REGEX=BITS"});
}

TEST_F(ProgramTest, InspectAgreesWithTheFile) {
  const nlohmann::json made = TqJson(Quantize("out", "2", {"--uniform"}));
  const nlohmann::json seen = TqJson({"inspect", Path("out")});
  uint64_t on_disk = 0;
  for (const auto& [name, contents] : FolderContents(folder_ / "out")) {
    if (name.ends_with(".safetensors")) on_disk += contents.size();
  }
  EXPECT_EQ(seen["file_bytes"], on_disk);
  EXPECT_EQ(seen["file_bytes"], made["file_bytes"]);
  EXPECT_EQ(seen["parameters"], made["parameters"]);
  EXPECT_DOUBLE_EQ(seen["bits_per_weight"].get<double>(),
                   8.0 * static_cast<double>(on_disk) / seen["parameters"].get<double>());
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out.work"));
}

TEST_F(ProgramTest, GgufAndDirectoryGiveTheSameText) {
  const TinyModel model = MakeTinyModel();
  WriteGguf(model, folder_ / "tiny.gguf");
  const nlohmann::json a = TqJson({"generate", Path("hf"), "-p", "the river", "-n", "16"});
  const nlohmann::json b = TqJson({"generate", Path("tiny.gguf"), "-p", "the river", "-n", "16"});
  EXPECT_EQ(a["tokens"], b["tokens"]);
  EXPECT_EQ(a["text"], b["text"]);
}

TEST_F(ProgramTest, GgufSourceGetsATokenizer) {
  WriteGguf(MakeTinyModel(), folder_ / "tiny.gguf");
  std::vector<std::string> arguments = Quantize("out", "3", {"--uniform"});
  arguments[1] = Path("tiny.gguf");
  TqJson(arguments);
  const nlohmann::json made =
      TqJson({"generate", Path("out"), "-p", "the river", "-n", "8", "--compute", "reference"});
  EXPECT_EQ(made["prompt_tokens"],
            TqJson({"generate", Path("hf"), "-p", "the river", "-n", "8"})["prompt_tokens"]);
}

TEST_F(ProgramTest, RoundToNearestIsTheBaseline) {
  for (const char* method : {"rtn", "gptq", "awq"}) {
    const nlohmann::json made =
        TqJson(Quantize(method, "4", {"--method", method, "--group-size", "32"}));
    // 4-bit codes, an fp16 number and a zero of 4 bits per 32 weights; layouts, and for gptq
    // orders, are much of a tiny model.
    const double bits = made["decoder_bits_per_weight"];
    EXPECT_GT(bits, 4.625);
    EXPECT_LT(bits, method == std::string("gptq") ? 5.3 : 4.75);
    EXPECT_EQ(made["method"], method);
    EXPECT_EQ(Tq({"generate", Path(method), "-p", "the", "-n", "4"}).exit_code, 0);
    const nlohmann::json plan =
        TqJson(Quantize("plan", "4", {"--method", method, "--group-size", "32", "--dry-run"}));
    EXPECT_EQ(plan["file_bytes"], made["file_bytes"]);
  }
}

TEST_F(ProgramTest, TernaryHasOneSize) {
  const auto ternary = [&](const std::string& output, std::vector<std::string> more) {
    std::vector<std::string> arguments = {"quantize", Path("hf"), "-o",           Path(output),
                                          "--method", "ternary",  "--group-size", "32"};
    arguments.insert(arguments.end(), quick_.begin(), quick_.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const nlohmann::json made = TqJson(ternary("out", {}));
  EXPECT_EQ(made["method"], "ternary");
  EXPECT_EQ(made["bits"], 1.6);
  // 1.6-bit codes and an fp16 number per 32 weights; layouts are much of a tiny model.
  const double bits = made["decoder_bits_per_weight"];
  EXPECT_GT(bits, 2.1);
  EXPECT_LT(bits, 2.25);
  EXPECT_EQ(TqJson(ternary("same", {"--bits", "1.6"}))["file_bytes"], made["file_bytes"]);
  EXPECT_EQ(TqJson(ternary("plan", {"--dry-run"}))["file_bytes"], made["file_bytes"]);

  const nlohmann::json seen = TqJson({"inspect", Path("out")});
  EXPECT_EQ(seen["file_bytes"], made["file_bytes"]);
  EXPECT_NE(Tq({"inspect", Path("out")}).out.find("ternary 1.6 bits / 32"), std::string::npos);
  const nlohmann::json measured = TqJson({"eval", Path("out"), "--reference", Path("hf"), "--text",
                                          Path("text.txt"), "--context", "64", "--windows", "8"});
  EXPECT_GT(measured["kl_mean"], 0);
  EXPECT_EQ(Tq({"generate", Path("out"), "-p", "the", "-n", "4"}).exit_code, 0);

  ExpectFailure(Tq(ternary("other", {"--bits", "2"})), {"ternary", "1.6 bits alone, not 2"});
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--symmetric"}, {"--act-order"}, {"--memory", "1GiB"}}) {
    const ProcessResult refused = Tq(ternary("other", more));
    EXPECT_EQ(refused.exit_code, 2) << refused.err;
    EXPECT_NE(refused.err.find(more[0]), std::string::npos) << refused.err;
  }
}

// A flag of another method is refused by its name, with the methods that it is for.
TEST_F(ProgramTest, FlagsOfOtherMethodsAreRefused) {
  const auto refused = [&](std::vector<std::string> more, const std::string& name) {
    const ProcessResult result = Tq(Quantize("out", "3", std::move(more)));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_NE(result.err.find(name), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
  };
  for (const char* method : {"rtn", "gptq", "awq", "ternary"}) {
    refused({"--method", method, "--uniform"}, "--uniform");
    refused({"--method", method, "--sensitivity", "hessian"}, "--sensitivity");
    refused({"--method", method, "--sensitivity-file", Path("s.json")}, "--sensitivity-file");
    refused({"--method", method, "--no-verify"}, "--no-verify");
    refused({"--method", method, "--max-bits", "4"}, "--max-bits");
    refused({"--method", method, "--group-size", "48"}, "--group-size");
  }
  refused({"--group-size", "64"}, "--group-size");
  refused({"--symmetric"}, "--symmetric");
  refused({"--act-order"}, "--act-order");
  refused({"--method", "awq", "--no-act-order"}, "--act-order");
  refused({"--method", "rtn", "--act-order"}, "gptq, not rtn");
  EXPECT_EQ(Tq(Quantize("out", "3",
                        {"--method", "gptq", "--no-act-order", "--symmetric", "--group-size", "row",
                         "--quiet"}))
                .exit_code,
            0);
}

// The reference of an evaluation computes on the reference path, so a model against itself
// shows what the 14-bit activations of the fast path cost.
TEST_F(ProgramTest, FastPathStaysNearTheReferencePath) {
  TqJson(Quantize("out", "3", {"--uniform"}));
  const auto kl = [&](const std::string& compute) {
    return TqJson({"eval", Path("out"), "--reference", Path("out"), "--text", Path("text.txt"),
                   "--context", "64", "--windows", "8", "--compute", compute})["kl_mean"]
        .get<double>();
  };
  EXPECT_LT(kl("fast"), 1e-3);
  EXPECT_GT(kl("fast"), 0);  // else the fast path was not taken
  EXPECT_EQ(kl("reference"), 0);
}

TEST_F(ProgramTest, ImpossibleBitsNameThePossible) {
  ExpectFailure(Tq(Quantize("out", "0.2")), {"0.2"});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

}  // namespace
}  // namespace tq::testing
