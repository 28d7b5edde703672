// For tests: quantising tiny models, and what became of them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/hash.h"
#include "base/random.h"
#include "compress/quantize.h"
#include "device/thread_pool.h"
#include "evaluate/evaluate.h"
#include "model/transformer.h"
#include "tiny_model.h"
#include "tokenizer/tokenizer.h"

namespace tq::testing {

namespace fs = std::filesystem;

// Random letters: a model of random weights knows no likelier text.
inline std::string SomeText(uint64_t seed = 1) {
  Random random(seed, "text");
  std::string text;
  for (size_t i = 0; i < 4000; ++i) text += static_cast<char>(32 + random.NextBelow(95));
  return text;
}

// Hash of every file by name.
inline std::map<std::string, std::string> HashFolder(const fs::path& folder) {
  std::map<std::string, std::string> hashes;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    hashes[entry.path().filename().string()] = HashBytes(bytes.data(), bytes.size()).Hex();
  }
  return hashes;
}

// Asks to stop once `lines` matrices have been announced.
class StopAfter final : public Progress {
 public:
  explicit StopAfter(int lines) : lines_(lines) {}
  void Begin(std::string_view, uint64_t) override {}
  void Update(uint64_t, std::string_view) override {}
  void Line(std::string_view text) override {
    if (text.starts_with("[") && --lines_ == 0) RequestCancel();
  }
  void End() override {}

 private:
  int lines_;
};

class QuantizeTest : public ::testing::Test {
 protected:
  void TearDown() override { ClearCancel(); }

  void Make(const TinyModelOptions& options = {}) { Make(MakeTinyModel(options)); }
  void Make(const TinyModel& model) {
    WriteHuggingFace(model, folder_ / "model");
    WriteText(folder_ / "text.txt", SomeText());
  }
  QuantizeOptions Options(double bits, std::string_view output = "out") {
    QuantizeOptions options;
    options.model = folder_ / "model";
    options.output = folder_ / output;
    options.bits = bits;
    options.calibration = (folder_ / "text.txt").string();
    options.calibration_tokens = 2048;
    options.calibration_context = 128;
    options.sensitivity = SensitivityMeasure::kNone;
    options.fast = true;
    return options;
  }
  StatusOr<QuantizeReport> Run(const QuantizeOptions& options, size_t threads = 2) {
    auto pool = ThreadPool::Create(threads);
    NullProgress progress;
    return Quantize(options, **pool, progress);
  }
  // The part of a matrix, whatever its codes.
  fs::path FindPart(const std::string& matrix) {
    for (const auto& entry : fs::directory_iterator(folder_ / "out.work")) {
      if (entry.path().filename().string().starts_with(matrix + ".")) return entry.path();
    }
    ADD_FAILURE() << "no part of " << matrix;
    return {};
  }
  double KlAgainstOriginal(const fs::path& path) {
    auto pool = ThreadPool::Create(2);
    auto model = Transformer::Load(path), reference = Transformer::Load(folder_ / "model");
    EXPECT_TRUE(model.ok() && reference.ok());
    const auto tokenizer = Tokenizer::FromModel(folder_ / "model");
    std::vector<int32_t> tokens = (*tokenizer)->Encode(SomeText(2));
    tokens.resize(512);
    EvaluateOptions options;
    options.context = 64;
    ForwardContext context;
    context.executor = pool->get();
    NullProgress progress;
    const auto result = Evaluate(**model, reference->get(), tokens, options, context, progress);
    EXPECT_TRUE(result.ok());
    return result->kl->mean;
  }

  TempFolder folder_;
};

}  // namespace tq::testing
