// Models in the layouts of GPTQ and AWQ through the program: made, written, looked at, run,
// measured and compressed again.
#include <gmock/gmock.h>

#include "program/logits.h"
#include "program/program.h"
#include "support/tiny_exchange.h"

namespace tq::testing {
namespace {

class ExchangeProgramTest : public ProgramTest {
 protected:
  // Our own directory of "hf", by a method of grouped codes.
  void Make(const std::string& method, const std::string& output,
            std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--method", method, "--group-size", "32"});
    TqJson(Quantize(output, "4", more));
  }
  nlohmann::json Export(const std::string& model, const std::string& output,
                        const std::string& format) {
    return TqJson({"export", Path(model), Path(output), "--to", "hf", "--format", format});
  }
  double Kl(const std::string& model, const std::string& reference) {
    return TqJson({"eval", Path(model), "--text", Path("text.txt"), "--context", "64", "--windows",
                   "4", "--reference", Path(reference)})["kl_mean"]
        .get<double>();
  }
};

// Codes are the same; embedding and head, decoded from trellis codes, are rounded to halves.
TEST_F(ExchangeProgramTest, ExportedModelsGiveTheSameLogits) {
  const std::tuple<const char*, const char*, std::vector<std::string>> cases[] = {
      {"gptq", "gptq", {}},  // act-order
      {"gptq", "gptq_v2", {"--symmetric", "--no-act-order"}},
      {"awq", "awq", {}},
      {"rtn", "gptq_v2", {}},
      {"rtn", "awq", {"--symmetric"}}};
  for (const auto& [method, format, options] : cases) {
    SCOPED_TRACE(fmt::format("{} as {}", method, format));
    const std::string packed = fmt::format("{}-{}-{}", method, format, options.size());
    Make(method, packed, options);
    const std::string out = packed + "-hf";
    const nlohmann::json report = Export(packed, out, format);
    EXPECT_EQ(report["type"], format);
    const nlohmann::json inspected = TqJson({"inspect", Path(packed)});
    for (const auto& tensor : inspected["tensors"]) {
      const bool grouped = IsTinyLinear(tensor["name"].get<std::string>());
      EXPECT_EQ(tensor["runs_grouped"], grouped);
      EXPECT_THAT(
          tensor["type"].get<std::string>(),
          ::testing::StartsWith(grouped ? fmt::format("{} 4 bits / 32", method) : "trellis"));
    }
    EXPECT_EQ(report["parameters"], TqJson({"inspect", Path(out)})["parameters"]);
    EXPECT_LE(RelativeError(LogitsOf(folder_ / packed), LogitsOf(folder_ / out)), 2e-3);
    // As it runs: of the decoder the integers are the same too.
    EXPECT_LT(Kl(out, packed), 1e-3);
  }
}

TEST_F(ExchangeProgramTest, OneModelInEveryFormat) {
  Make("rtn", "packed");
  Export("packed", "v1", "gptq");
  Export("v1", "v2", "gptq_v2");
  Export("v2", "awq", "awq");
  const std::vector<float> logits = LogitsOf(folder_ / "v1");
  EXPECT_EQ(LogitsOf(folder_ / "v2"), logits);
  EXPECT_EQ(LogitsOf(folder_ / "awq"), logits);
  const auto text = [&](const std::string& model, const char* threads) {
    return TqJson({"generate", Path(model), "-p", "the river", "-n", "24", "--threads", threads});
  };
  const nlohmann::json tokens = text("v1", "1")["tokens"];
  EXPECT_EQ(tokens.size(), 24u);
  EXPECT_EQ(text("v1", "2")["tokens"], tokens);
  EXPECT_EQ(text("v2", "1")["tokens"], tokens);
  EXPECT_EQ(text("awq", "1")["tokens"], tokens);
  // Inspected, and run packed: 4.5 to 5 bits a weight of the decoder, two bytes elsewhere and four
  // where floats run.
  for (const char* model : {"v1", "v2", "awq"}) {
    const nlohmann::json inspected = TqJson({"inspect", Path(model)});
    EXPECT_GT(inspected["decoder_bits_per_weight"], 4.6);
    EXPECT_LT(inspected["decoder_bits_per_weight"], 5.5);
    for (const auto& tensor : inspected["tensors"]) {
      EXPECT_EQ(tensor["runs_grouped"], IsTinyLinear(tensor["name"].get<std::string>()));
      EXPECT_EQ(tensor["runs_ternary"], false);
    }
    EXPECT_THAT(Tq({"inspect", Path(model)}).out, ::testing::HasSubstr(", runs grouped"));
  }
  EXPECT_THAT(Tq({"inspect", Path("v2")}).out, ::testing::HasSubstr("gptq_v2 4 bits / 32"));
  const auto bench = [&](const std::string& model) {
    return TqJson({"bench", Path(model), "--prompt", "8", "--tokens", "4", "--repeat",
                   "1"})["bytes_per_token"]
        .get<double>();
  };
  EXPECT_LT(bench("v1"), 0.5 * bench("hf"));
}

// Decoded, they are models like any other.
TEST_F(ExchangeProgramTest, CompressesAndExportsFurther) {
  Make("awq", "packed");
  Export("packed", "awq", "awq");
  std::vector<std::string> quantize = {"quantize",      Path("awq"), "-o",
                                       Path("trellis"), "--bits",    "6"};
  quantize.insert(quantize.end(), quick_.begin(), quick_.end());
  TqJson(quantize);
  EXPECT_LT(Kl("trellis", "awq"), 2e-2);
  TqJson({"export", Path("awq"), Path("awq.gguf"), "--type", "f32"});
  EXPECT_LE(RelativeError(LogitsOf(folder_ / "awq"), LogitsOf(folder_ / "awq.gguf")), 1e-5);
}

TEST_F(ExchangeProgramTest, RefusesWhatAFormatCannotSay) {
  Make("gptq", "ordered");
  ExpectFailure(
      Tq({"export", Path("ordered"), Path("out"), "--to", "hf", "--format", "awq", "--quiet"}),
      {"ordered", "q_proj", "act-order"});
  TqJson(Quantize("trellis", "4"));
  ExpectFailure(
      Tq({"export", Path("trellis"), Path("out"), "--to", "hf", "--format", "gptq", "--quiet"}),
      {"trellis", "q_proj", "no grouped codes"});
  std::vector<std::string> ternary = {"quantize", Path("hf"), "-o",           Path("ternary"),
                                      "--method", "ternary",  "--group-size", "32"};
  ternary.insert(ternary.end(), quick_.begin(), quick_.end());
  TqJson(ternary);
  for (const char* format : {"gptq", "gptq_v2", "awq"}) {
    ExpectFailure(
        Tq({"export", Path("ternary"), Path("out"), "--to", "hf", "--format", format, "--quiet"}),
        {"ternary", "q_proj", "has ternary codes", format, "--method gptq"});
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
  EXPECT_EQ(
      Tq({"export", Path("hf"), Path("x.gguf"), "--type", "f16", "--format", "awq"}).exit_code, 2);
  EXPECT_EQ(Tq({"export", Path("hf"), Path("x"), "--to", "hf", "--format", "gemv"}).exit_code, 2);
}

// Robustness cases 42, 43.
TEST_F(ExchangeProgramTest, RefusesBrokenFiles) {
  TinyModel model = MakeTinyModel({.max_position = 256});
  const TinyDirectory sound = MakeTinyExchange(model, {});
  const std::string stem = "model.layers.0.mlp.up_proj.";
  const auto expect = [&](const TinyDirectory& broken, const std::vector<std::string>& names) {
    WriteDirectory(broken, folder_ / "broken");
    ExpectFailure(Tq({"generate", Path("broken"), "-p", "the"}), names);
  };
  TinyDirectory broken = sound;
  broken.quantization()["checkpoint_format"] = "marlin";
  expect(broken, {"config.json", "quantization_config", "checkpoint_format", "marlin"});
  broken = sound;
  broken.Remove(stem + "scales");
  expect(broken, {"broken", stem + "scales", "missing"});
  broken = sound;
  Tensor scales = *Tensor::Zeros(DType::kF16, {2, 128});
  scales.mutable_as<uint16_t>()[128] = 0x7C00;
  broken.Get(stem + "scales").tensor = scales;
  expect(broken, {"model.safetensors", stem, "row 0 group 1", "finite"});
  broken = sound;
  Tensor g_idx = *Tensor::Zeros(DType::kI32, {64});
  g_idx.mutable_as<int32_t>()[7] = 1 << 30;
  broken.Get(stem + "g_idx").tensor = g_idx;
  expect(broken, {"model.safetensors", stem, "g_idx[7] = 1073741824", "0 to 1"});
}

}  // namespace
}  // namespace tq::testing
