// Rates by sensitivity, memory budgets, comparisons and reports, as a user meets them.
#include <algorithm>

#include "model/backend.h"
#include "program/program.h"

namespace tq::testing {
namespace {

TEST_F(ProgramTest, WritesTheBetterOfTwoPlansAndAReport) {
  const nlohmann::json made = TqJson(
      Quantize("out", "3", {"--report", Path("report.html"), "--report", Path("report.json")}));
  ASSERT_EQ(made["candidates"].size(), 2u);
  EXPECT_TRUE(made["candidates"][0]["written"]);
  EXPECT_LE(made["candidates"][0]["kl_mean"], made["candidates"][1]["kl_mean"]);
  EXPECT_GT(made["candidates"][0]["predicted_kl"], 0);
  EXPECT_EQ(made["candidates"][0]["file_bytes"], made["file_bytes"]);
  const std::string page = ReadWhole(folder_ / "report.html");
  EXPECT_TRUE(page.ends_with("</html>\n") || page.ends_with("</html>"));
  for (const char* part : {"Where the bits went", "Candidates", "allocated", "--report"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  const nlohmann::json report = nlohmann::json::parse(ReadWhole(folder_ / "report.json"));
  const nlohmann::json& model = report["models"][0];
  EXPECT_EQ(model["bytes"], made["file_bytes"]);
  // The chosen size once among its neighbours.
  size_t chosen = 0;
  for (const nlohmann::json& point : model["frontier"]) {
    chosen += point["chosen"].get<bool>();
    EXPECT_TRUE(!point["chosen"].get<bool>() || point["bytes"] == made["file_bytes"]);
  }
  EXPECT_EQ(chosen, 1u);
  // Asked before the work, not found after it.
  ExpectFailure(Tq(Quantize("other", "3", {"--quiet", "--report", Path("absent/report.html")})),
                {"absent/report.html"});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "other.work"));
  const nlohmann::json uniform = TqJson(Quantize("uniform", "3", {"--uniform"}));
  EXPECT_FALSE(uniform["candidates"][0].contains("kl_mean"));
}

TEST_F(ProgramTest, FitsAMemory) {
  const uint64_t kibibytes = 9912 + (CudaProgramBytes() >> 10);
  const std::string budget = std::to_string(kibibytes) + "KiB";
  std::vector<std::string> arguments = {"quantize", Path("hf"),  "-o", Path("out"), "--memory",
                                        budget,     "--context", "64", "--threads", "1"};
  arguments.insert(arguments.end(), quick_.begin(), quick_.end());
  const nlohmann::json plan = [&] {
    std::vector<std::string> dry = arguments;
    dry.push_back("--dry-run");
    return TqJson(dry);
  }();
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
  EXPECT_TRUE(plan["predicted_kl"].is_null());
  EXPECT_GT(plan["seconds"], 0);
  const nlohmann::json made = TqJson(arguments);
  const nlohmann::json& memory = made["memory"];
  EXPECT_EQ(memory["budget"], kibibytes << 10);
  EXPECT_EQ(memory["weights"], made["file_bytes"]);
  EXPECT_LE(memory["weights"].get<uint64_t>() + memory["kv_cache"].get<uint64_t>() +
                memory["activations"].get<uint64_t>() + memory["reserve"].get<uint64_t>(),
            memory["budget"].get<uint64_t>());
#ifndef TQ_SANITIZED
  const nlohmann::json run = TqJson({"generate", Path("out"), "-p", "the old stone house", "-n",
                                     "40", "--context", "64", "--threads", "1"});
  EXPECT_LE(run["peak_rss_bytes"], memory["budget"]);
#endif
  arguments[5] = "2MiB";
  arguments[3] = Path("small");
  ExpectFailure(Tq(arguments), {"memory", "smallest possible"});
  arguments[5] = "0";
  EXPECT_EQ(Tq(arguments).exit_code, 2);
  arguments[5] = "2 parsecs";
  EXPECT_EQ(Tq(arguments).exit_code, 2);
  arguments.insert(arguments.end(), {"--bits", "2"});
  EXPECT_EQ(Tq(arguments).exit_code, 2);  // one or the other
}

TEST_F(ProgramTest, ComparesSizes) {
  std::ofstream(folder_ / "held.txt") << SampleText(9000).substr(3000);
  std::vector<std::string> arguments = {
      "compare",  Path("hf"),           "--bits",    "4,3",       "--rates",   "uniform,kl",
      "--text",   Path("held.txt"),     "--context", "128",       "--windows", "8",
      "--report", Path("compare.html"), "--work",    Path("work")};
  arguments.insert(arguments.end(), quick_.begin(), quick_.end());
  const nlohmann::json report = TqJson(arguments);
  ASSERT_EQ(report["models"].size(), 4u);
  for (const auto& model : report["models"]) {
    EXPECT_GT(model["measured"]["kl_mean"], 0);
    EXPECT_LE(model["bits_per_weight"], 4);
  }
  EXPECT_NE(ReadWhole(folder_ / "compare.html").find("All models"), std::string::npos);
  // The figures are those of the model that quantize makes and eval measures.
  const nlohmann::json made = TqJson(Quantize("out", "3", {"--no-verify"}));
  const nlohmann::json measured = TqJson({"eval", Path("out"), "--reference", Path("hf"), "--text",
                                          Path("held.txt"), "--context", "128", "--windows", "8"});
  const nlohmann::json& compared = report["models"][3];
  EXPECT_EQ(compared["name"], "3 bits, kl");
  EXPECT_EQ(compared["bytes"], made["file_bytes"]);
  EXPECT_NEAR(compared["measured"]["kl_mean"], measured["kl_mean"], 1e-9);
  EXPECT_NEAR(compared["measured"]["perplexity"], measured["perplexity"], 1e-6);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "work"));
  ExpectFailure(Tq({"compare", Path("hf"), "--bits", "0.2", "--text", Path("held.txt"), "--context",
                    "128", "--calibration", Path("text.txt"), "--work", Path("work"), "--quiet"}),
                {"smallest possible"});
}

// A size that a method has not is said in a line; flags of methods that are not asked for are
// refused.
TEST_F(ProgramTest, ComparesMethods) {
  std::ofstream(folder_ / "held.txt") << SampleText(9000).substr(3000);
  std::vector<std::string> arguments = {"compare",   Path("hf"),   "--methods",    "gptq,rtn",
                                        "--bits",    "4,2.5",      "--text",       Path("held.txt"),
                                        "--context", "128",        "--windows",    "8",
                                        "--work",    Path("work"), "--group-size", "32"};
  arguments.insert(arguments.end(), quick_.begin(), quick_.end());
  const ProcessResult shown = Tq(arguments);
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  for (const char* line : {"4 bits, gptq", "4 bits, rtn", "2.5 bits, gptq not possible"}) {
    EXPECT_NE(shown.out.find(line), std::string::npos) << line << ": " << shown.out;
  }
  const nlohmann::json report = TqJson(arguments);
  ASSERT_EQ(report["models"].size(), 2u);
  const nlohmann::json made =
      TqJson(Quantize("out", "4", {"--method", "gptq", "--group-size", "32"}));
  EXPECT_EQ(report["models"][0]["bytes"], made["file_bytes"]);
  arguments.insert(arguments.end(), {"--rates", "kl"});
  const ProcessResult refused = Tq(arguments);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("--rates"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace tq::testing
