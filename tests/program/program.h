// What the end-to-end tests share: running `tq` and small models to run it on.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/run_process.h"
#include "support/tiny_model.h"

namespace tq::testing {

inline ProcessResult Tq(std::vector<std::string> arguments, const ProcessOptions& options = {}) {
  arguments.insert(arguments.begin(), TQ_PROGRAM);
  return RunProcess(arguments, options);
}

// Runs tq with --json and returns the object; a failure fails the test.
inline nlohmann::json TqJson(std::vector<std::string> arguments,
                             const ProcessOptions& options = {}) {
  arguments.insert(arguments.end(), {"--json", "-"});
  const ProcessResult result = Tq(std::move(arguments), options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  nlohmann::json object = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_FALSE(object.is_discarded()) << result.out;
  return object;
}

// Exit code 1 and one line on standard error that names what it should.
inline void ExpectFailure(const ProcessResult& result, const std::vector<std::string>& names) {
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  for (const std::string& name : names) {
    EXPECT_NE(result.err.find(name), std::string::npos) << name << " is not in: " << result.err;
  }
}

// Name -> contents of all files of a folder.
inline std::map<std::string, std::string> FolderContents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    contents[entry.path().filename().string()] = ReadWhole(entry.path());
  }
  return contents;
}

// English-like text of about `bytes` bytes.
inline std::string SampleText(size_t bytes) {
  const char* const words[] = {"the",  "river", "old",  "house", "and",   "of",    "stone",
                               "were", "found", "near", "a",     "quiet", "field", "by"};
  Random random(7, "text");
  std::string text;
  while (text.size() < bytes) {
    text += words[random.NextBelow(std::size(words))];
    text += random.NextBelow(12) == 0 ? ".\n" : " ";
  }
  return text;
}

// A folder with a tiny model in it ("hf") and a text ("text.txt").
class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteHuggingFace(MakeTinyModel({.max_position = 256}), folder_ / "hf");
    std::ofstream(folder_ / "text.txt") << SampleText(20000);
  }
  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  // The arguments of a quick quantisation of "hf".
  std::vector<std::string> Quantize(const std::string& output, const std::string& bits,
                                    std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"quantize",   Path("hf"), "-o",
                                          Path(output), "--bits",   bits};
    arguments.insert(arguments.end(), quick_.begin(), quick_.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  TempFolder folder_;
  // What makes quantising a matter of seconds, in a sanitized build too.
  const std::vector<std::string> quick_ = {"--fast", "--calibration", Path("text.txt"),
                                           "--calibration-tokens", "2048"};
};

}  // namespace tq::testing
