// tq export, read back by the program itself.
#include <gmock/gmock.h>

#include "program/logits.h"
#include "program/program.h"

namespace tq::testing {
namespace {

TEST_F(ProgramTest, ExportedModelsGiveTheSameLogits) {
  const std::vector<float> original = LogitsOf(folder_ / "hf");
  const std::tuple<const char*, double, double> types[] = {
      {"f32", 0, 32}, {"f16", 3e-3, 16}, {"bf16", 2.5e-2, 16}, {"q8_0", 6e-2, 8.5}};
  for (const auto& [type, bound, bits] : types) {
    const std::string output = Path(std::string(type) + ".gguf");
    const nlohmann::json object = TqJson({"export", Path("hf"), output, "--type", type});
    EXPECT_EQ(object["type"], type);
    EXPECT_EQ(object["file_bytes"], std::filesystem::file_size(output));
    EXPECT_GT(object["bits_per_weight"].get<double>(), bits);
    EXPECT_LE(RelativeError(original, LogitsOf(output)), bound) << type;
    EXPECT_EQ(TqJson({"inspect", output})["parameters"], object["parameters"]);
  }
  const nlohmann::json object = TqJson({"export", Path("hf"), Path("out"), "--to", "hf"});
  EXPECT_EQ(object["type"], "bf16");
  EXPECT_LE(RelativeError(original, LogitsOf(folder_ / "out")), 2.5e-2);
}

TEST_F(ProgramTest, ExportedPackedModelsGiveTheSameLogits) {
  TqJson(Quantize("packed", "3"));
  const std::vector<float> packed = LogitsOf(folder_ / "packed");
  TqJson({"export", Path("packed"), Path("packed.gguf"), "--type", "f32"});
  EXPECT_LE(RelativeError(packed, LogitsOf(folder_ / "packed.gguf")), 1e-4);
  TqJson({"export", Path("packed"), Path("out"), "--to", "hf"});
  EXPECT_LE(RelativeError(packed, LogitsOf(folder_ / "out")), 2.5e-2);
  EXPECT_EQ(ReadWhole(folder_ / "out/tokenizer.json"), ReadWhole(folder_ / "hf/tokenizer.json"));
}

TEST_F(ProgramTest, ExportSaysWhichTypesDoNotFit) {
  const ProcessResult result =
      Tq({"export", Path("hf"), Path("x.gguf"), "--type", "q4_k", "--quiet"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              ::testing::HasSubstr("rows of 15 of 20 tensors do not fit the blocks: Q8_0 in place "
                                   "of Q6_K for 1, Q5_0 in place of Q4_K for 14\n"));
}

TEST_F(ProgramTest, ExportUsage) {
  EXPECT_EQ(Tq({"export", Path("hf")}).exit_code, 2);
  EXPECT_EQ(Tq({"export", Path("hf"), Path("x.gguf")}).exit_code, 2);
  EXPECT_EQ(Tq({"export", Path("hf"), Path("x.gguf"), "--type", "q3_k"}).exit_code, 2);
  EXPECT_EQ(Tq({"export", Path("hf"), Path("x"), "--to", "onnx"}).exit_code, 2);
  EXPECT_EQ(Tq({"export", Path("hf"), Path("x"), "--to", "hf", "--type", "f16"}).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x.gguf"));
}

// Robustness case 67.
TEST_F(ProgramTest, ExportHarmsNoFile) {
  ExpectFailure(Tq({"export", Path("absent"), Path("x.gguf"), "--type", "f16"}), {"absent"});
  ExpectFailure(Tq({"export", Path("hf"), Path("hf"), "--to", "hf"}), {"hf", "is the input"});
  ExpectFailure(Tq({"export", Path("hf"), Path("text.txt"), "--type", "f16"}),
                {"text.txt", "exists"});
  EXPECT_EQ(ReadWhole(folder_ / "text.txt"), SampleText(20000));
  ExpectFailure(Tq({"export", Path("hf"), "/proc/x.gguf", "--type", "f16", "--quiet"}), {"/proc"});
}

// Robustness case 62.
TEST_F(ProgramTest, ExportToAFullDiskLeavesNothing) {
  for (const uint64_t limit : {1000, 20000, 100000}) {
    ProcessOptions full;
    full.file_size_limit = limit;
    ExpectFailure(Tq({"export", Path("hf"), Path("x.gguf"), "--type", "f16", "--quiet"}, full),
                  {"x.gguf"});
    ExpectFailure(Tq({"export", Path("hf"), Path("out"), "--to", "hf", "--quiet"}, full), {"out"});
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(name == "hf" || name == "text.txt") << name;
  }
}

}  // namespace
}  // namespace tq::testing
