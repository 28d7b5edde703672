// Exit codes, help, and errors that a user meets first.
#include "kernels/isa.h"
#include "program/program.h"

namespace tq::testing {
namespace {

TEST_F(ProgramTest, HelpShowsExamples) {
  const ProcessResult help = Tq({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* command :
       {"quantize", "eval", "generate", "chat", "inspect", "bench", "export"}) {
    EXPECT_NE(help.out.find(command), std::string::npos) << command;
    const ProcessResult own = Tq({command, "--help"});
    EXPECT_EQ(own.exit_code, 0);
    EXPECT_NE(own.out.find("Examples:"), std::string::npos) << command;
  }
  EXPECT_EQ(Tq({"--version"}).out.substr(0, 3), "tq ");
}

TEST_F(ProgramTest, WrongUsageExitsWithTwo) {
  EXPECT_EQ(Tq({}).exit_code, 2);
  EXPECT_EQ(Tq({"frobnicate"}).exit_code, 2);
  EXPECT_EQ(Tq({"inspect"}).exit_code, 2);
  EXPECT_EQ(Tq({"inspect", Path("hf"), "--kv-bits", "4,4"}).exit_code, 2);
  EXPECT_EQ(Tq({"quantize", Path("hf"), "-o", Path("o")}).exit_code, 2);
  EXPECT_EQ(Tq({"quantize", Path("hf"), "-o", Path("o"), "--bits", "two"}).exit_code, 2);
  EXPECT_EQ(
      Tq({"quantize", Path("hf"), "-o", Path("o"), "--bits", "2", "--method", "magic"}).exit_code,
      2);
  EXPECT_EQ(Tq({"eval", Path("hf"), "--text", Path("text.txt"), "--context", "-5"}).exit_code, 2);
}

TEST_F(ProgramTest, MissingFilesAreNamed) {
  ExpectFailure(Tq({"inspect", Path("absent")}), {"absent"});
  ExpectFailure(Tq({"eval", Path("hf"), "--text", Path("absent.txt")}), {"absent.txt"});
  ExpectFailure(Tq({"quantize", Path("hf"), "-o", Path("o"), "--bits", "2", "--calibration",
                    Path("absent.txt")}),
                {"absent.txt"});
}

TEST_F(ProgramTest, UnsupportedIsaNamesTheSupportedOnes) {
  ProcessOptions options;
  options.environment = {"TQ_FORCE_ISA=sse9"};
  ExpectFailure(Tq({"inspect", Path("hf")}, options), {"sse9", "reference"});
}

// Robustness case 69: the portable level runs anywhere; any other runs or is refused by name.
TEST_F(ProgramTest, EveryInstructionSetRunsOrIsRefused) {
  TqJson(Quantize("out", "2", {"--uniform"}));
  for (const Isa level : kAllIsas) {
    const std::string isa(IsaName(level));
    ProcessOptions options;
    options.environment = {"TQ_FORCE_ISA=" + isa};
    const ProcessResult run = Tq({"generate", Path("out"), "-p", "the", "-n", "8"}, options);
    if (run.exit_code != 0) {
      ASSERT_NE(isa, "reference") << run.err;
      ExpectFailure(run, {"TQ_FORCE_ISA=" + isa, "supported here are reference"});
    }
  }
}

// Without CUDA, without a device, or with one: never silently on the processor.
TEST_F(ProgramTest, CudaRunsOrIsRefused) {
  TqJson(Quantize("out", "2", {"--uniform"}));
  const ProcessResult run =
      Tq({"generate", Path("out"), "-p", "the", "-n", "4", "--device", "cuda"});
  if (run.exit_code != 0) ExpectFailure(run, {"--device cuda"});
  ExpectFailure(Tq({"generate", Path("hf"), "-p", "the", "--device", "cuda"}),
                {"hf", "only models made by tq quantize run on a CUDA device"});
  ExpectFailure(
      Tq({"generate", Path("out"), "-p", "the", "--device", "cuda", "--compute", "reference"}),
      {"--compute reference", "--device cpu"});
  EXPECT_EQ(Tq({"generate", Path("out"), "-p", "the", "--device", "tpu"}).exit_code, 2);
  ExpectFailure(Tq({"generate", Path("out"), "-p", "the", "--gpu-memory", "1GiB"}),
                {"--gpu-memory", "--device cuda"});
}

TEST_F(ProgramTest, AbsurdThreadCountIsRefused) {
  for (const std::string threads :
       {"-1", "1025", "1000000", "two", "1e3", "18446744073709551616"}) {
    const ProcessResult result = Tq({"bench", Path("hf"), "--threads", threads});
    EXPECT_EQ(result.exit_code, 2) << threads << ": " << result.err;
    for (const std::string& part : {std::string("--threads"), threads, std::string("1024")}) {
      EXPECT_NE(result.err.find(part), std::string::npos) << part << ": " << result.err;
    }
  }
}

// Robustness case 36: pickle files, by name and by magic.
TEST_F(ProgramTest, PickleIsRefused) {
  std::filesystem::create_directory(folder_ / "pickle");
  std::filesystem::copy(folder_ / "hf" / "config.json", folder_ / "pickle" / "config.json");
  std::ofstream(folder_ / "pickle" / "pytorch_model.bin") << "PK\x03\x04";
  ExpectFailure(Tq({"inspect", Path("pickle")}), {"pickle"});
  std::ofstream(folder_ / "model.gguf") << std::string("\x80\x02}q\x00.", 6);
  ExpectFailure(Tq({"inspect", Path("model.gguf")}), {"model.gguf"});
}

// Robustness case 62: results that do not reach standard output are no success.
TEST_F(ProgramTest, FullStandardOutputIsAnError) {
  ProcessOptions full;
  full.output = "/dev/full";
  ExpectFailure(Tq({"inspect", Path("hf")}, full), {"No space left"});
  ExpectFailure(Tq({"generate", Path("hf"), "-p", "the", "-n", "4"}, full), {"standard output"});
  const ProcessResult json = Tq({"inspect", Path("hf"), "--json", "-"}, full);
  EXPECT_EQ(json.exit_code, 1);
  EXPECT_NE(json.err.find("standard output: No space left"), std::string::npos) << json.err;
}

TEST_F(ProgramTest, InspectCountsEveryByte) {
  const nlohmann::json object = TqJson({"inspect", Path("hf")});
  uint64_t bytes = 0, elements = 0;
  for (const auto& tensor : object["tensors"]) {
    bytes += tensor["bytes"].get<uint64_t>();
    uint64_t product = 1;
    for (uint64_t d : tensor["shape"]) product *= d;
    elements += product;
  }
  EXPECT_EQ(object["parameters"], elements);
  EXPECT_EQ(object["file_bytes"], bytes);
  EXPECT_DOUBLE_EQ(object["bits_per_weight"].get<double>(), 32.0);
}

}  // namespace
}  // namespace tq::testing
