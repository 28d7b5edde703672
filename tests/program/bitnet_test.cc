// A model with ternary weights through the program: looked at, run, measured, quantised, exported.
#include <gmock/gmock.h>

#include "program/program.h"
#include "support/tiny_bitnet.h"

namespace tq::testing {
namespace {

class BitNetProgramTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    TinyModel model = MakeTinyModel({.architecture = "bitnet", .max_position = 256});
    for (const TinyTensor& tensor : model.tensors) {
      (IsTinyLinear(tensor.name) ? linear_ : other_) += tensor.values.size();
    }
    TinyModel rounded = model;
    WriteDirectory(MakeTinyBitNet(rounded, BitNetForm::kAutoBitLinear), folder_ / "bitnet");
    WriteDirectory(MakeTinyBitNet(model, BitNetForm::kOnline), folder_ / "online");
  }
  uint64_t linear_ = 0, other_ = 0;  // weights
};

TEST_F(BitNetProgramTest, InspectSaysWhatTheFileHolds) {
  const nlohmann::json packed = TqJson({"inspect", Path("bitnet")});
  const nlohmann::json online = TqJson({"inspect", Path("online")});
  constexpr uint64_t kLinears = 14;
  EXPECT_EQ(packed["file_bytes"], linear_ / 4 + kLinears * 4 + other_ * 4);
  EXPECT_EQ(online["file_bytes"], (linear_ + other_) * 4);
  EXPECT_DOUBLE_EQ(packed["decoder_bits_per_weight"].get<double>(),
                   2 + 32.0 * kLinears / static_cast<double>(linear_));
  for (const auto& model : {packed, online}) {
    EXPECT_EQ(model["parameters"], linear_ + other_);
    for (const auto& tensor : model["tensors"]) {
      EXPECT_EQ(tensor["runs_ternary"], IsTinyLinear(tensor["name"].get<std::string>()));
    }
  }
  EXPECT_THAT(Tq({"inspect", Path("bitnet")}).out, ::testing::HasSubstr("U8"));
  EXPECT_THAT(Tq({"inspect", Path("online")}).out, ::testing::HasSubstr("runs ternary"));
  EXPECT_THAT(Tq({"inspect", Path("hf")}).out, ::testing::Not(::testing::HasSubstr("ternary")));
}

TEST_F(BitNetProgramTest, RunsTernary) {
  const auto bench = [&](const std::string& model) {
    return TqJson({"bench", Path(model), "--prompt", "8", "--tokens", "4", "--repeat", "1"});
  };
  const nlohmann::json packed = bench("bitnet");
  // A little more than 2 bits a weight, where tiles of 32 rows are not full.
  EXPECT_LT(packed["bytes_per_token"].get<double>(),
            static_cast<double>(other_ * 4) + static_cast<double>(linear_) * 0.26 + 64 * 4);
  EXPECT_EQ(bench("online")["bytes_per_token"], packed["bytes_per_token"]);
  const auto generate = [&](const std::string& model, const char* threads) {
    return TqJson({"generate", Path(model), "-p", "the river", "-n", "24", "--threads", threads});
  };
  const nlohmann::json text = generate("bitnet", "1");
  EXPECT_EQ(text["tokens"].size(), 24u);
  EXPECT_EQ(generate("bitnet", "2")["tokens"], text["tokens"]);
  EXPECT_EQ(generate("online", "1")["tokens"], text["tokens"]);
}

// In floating point: as the reference, quantised, and as other files.
TEST_F(BitNetProgramTest, EvaluatesQuantisesAndExports) {
  const auto kl = [&](const std::string& model) {
    return TqJson({"eval", Path(model), "--text", Path("text.txt"), "--context", "64", "--windows",
                   "4", "--reference", Path("bitnet")})["kl_mean"]
        .get<double>();
  };
  // What 8 bits of activations cost.
  EXPECT_GT(kl("bitnet"), 1e-7);
  EXPECT_LT(kl("bitnet"), 1e-2);
  TqJson({"export", Path("bitnet"), Path("exported"), "--to", "hf"});
  EXPECT_LT(kl("exported"), 1e-3);
  EXPECT_EQ(TqJson({"inspect", Path("exported")})["parameters"], linear_ + other_);
  std::vector<std::string> quantize = {"quantize",     Path("bitnet"), "-o",
                                       Path("packed"), "--bits",       "6"};
  quantize.insert(quantize.end(), quick_.begin(), quick_.end());
  TqJson(quantize);
  EXPECT_LT(kl("packed"), 2e-2);
}

TEST_F(BitNetProgramTest, RefusesBrokenFiles) {
  TinyModel model = MakeTinyModel({.architecture = "bitnet", .max_position = 256});
  TinyDirectory broken = MakeTinyBitNet(model, BitNetForm::kBitLinear);
  broken.quantization()["use_rms_norm"] = true;
  WriteDirectory(broken, folder_ / "norms");
  ExpectFailure(Tq({"generate", Path("norms"), "-p", "the"}),
                {"config.json", "quantization_config", "use_rms_norm"});
  broken.quantization()["use_rms_norm"] = false;
  OutputTensor& codes = broken.Get("model.layers.0.mlp.up_proj.weight");
  codes.tensor.mutable_data()[0] = 0xff;
  WriteDirectory(broken, folder_ / "codes");
  ExpectFailure(Tq({"generate", Path("codes"), "-p", "the"}),
                {"model.safetensors", "model.layers.0.mlp.up_proj.weight", "holds 3"});
}

}  // namespace
}  // namespace tq::testing
