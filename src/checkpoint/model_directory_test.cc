#include "checkpoint/model_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kExists = StatusCode::kAlreadyExists;

ModelDirectory Sample() {
  ModelDirectory model;
  model.config_json = "{}\n";
  model.files = {{"tokenizer.json", "{}"}};
  for (const char* name : {"a", "b", "c"}) {
    model.tensors.push_back({name, *Tensor::Zeros(DType::kU8, {1000})});
  }
  return model;
}

std::vector<std::string> Names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(ModelDirectory, WritesTheSameBytesEveryTime) {
  TempFolder folder;
  ModelDirectory model = Sample();
  ASSERT_TRUE(WriteModelDirectory(folder / "a", folder / "in", model).ok());
  ASSERT_TRUE(WriteModelDirectory((folder / "b").string() + "/", folder / "in", model).ok());
  EXPECT_EQ(Names(folder / "a"),
            (std::vector<std::string>{"config.json", "model.safetensors", "tokenizer.json"}));
  for (const std::string& name : Names(folder / "a")) {
    EXPECT_EQ(ReadText(folder / "a" / name), ReadText(folder / "b" / name)) << name;
  }
  EXPECT_EQ(Names(folder.path()), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(fs::status(folder / "a").permissions(), fs::perms(0755));
}

TEST(ModelDirectory, SpreadsTensorsOverShards) {
  TempFolder folder;
  ModelDirectory model = Sample();
  for (const auto& [limit, shards] :
       {std::pair<uint64_t, size_t>{3000, 1}, {2999, 2}, {1999, 3}, {1, 3}}) {
    model.max_shard_bytes = limit;
    const fs::path out = folder / std::to_string(limit);
    ASSERT_TRUE(WriteModelDirectory(out, "", model).ok());
    EXPECT_EQ(fs::exists(out / "model.safetensors"), shards == 1);
    const auto read = SafetensorsDirectory::Open(out);
    ASSERT_TRUE(read.ok()) << read.status().message();
    EXPECT_EQ((*read)->names(), (std::vector<std::string>{"a", "b", "c"}));
    if (shards > 1) {
      EXPECT_TRUE(fs::exists(out / fmt::format("model-00002-of-{:05}.safetensors", shards)));
    }
  }
}

// Robustness case 67.
TEST(ModelDirectory, OutputsThatAreRefused) {
  TempFolder folder;
  const TinyModel tiny = MakeTinyModel({.layers = 1});
  WriteHuggingFace(tiny, folder / "in");
  const std::string before = ReadText(folder / "in/model.safetensors");
  const auto refused = [&](const fs::path& out) {
    const Status status = WriteModelDirectory(out, folder / "in", Sample());
    EXPECT_EQ(CheckOutputDirectory(out, folder / "in").message(), status.message());
    return status;
  };
  EXPECT_THAT(refused(folder / "in"), Fails(kInvalid, "is the input"));
  EXPECT_THAT(refused((folder / "in").string() + "/"), Fails(kInvalid, "is the input"));
  EXPECT_THAT(refused(folder.path()), Fails(kExists, "not empty"));
  WriteText(folder / "file", "text");
  EXPECT_THAT(refused(folder / "file"), Fails(kExists, "no folder"));
  EXPECT_THAT(refused(folder / "absent/out"), Fails(StatusCode::kNotFound, "absent"));
  EXPECT_THAT(refused(""), Fails(kInvalid, "no name"));
  fs::create_symlink("nowhere", folder / "link");
  EXPECT_THAT(refused(folder / "link"), Fails(kExists, "link"));
  EXPECT_EQ(ReadText(folder / "file"), "text");
  EXPECT_EQ(ReadText(folder / "in/model.safetensors"), before);
  fs::create_directory(folder / "empty");
  EXPECT_TRUE(WriteModelDirectory(folder / "empty", folder / "in", Sample()).ok());
}

// Runs `body` in a child and expects it to return true there.
template <class Body>
void InChild(Body body) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(body() ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "child status " << status;
}

// Robustness case 62.
TEST(ModelDirectory, FullDiskLeavesNothing) {
  TempFolder folder;
  // A limit on the size of files fails writes as a full disk does, at any point of the data.
  for (const rlim_t limit : {1u, 100u, 500u, 3000u}) {
    InChild([&] {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit size{limit, limit};
      if (setrlimit(RLIMIT_FSIZE, &size) != 0) return false;
      const Status status = WriteModelDirectory(folder / "out", "", Sample());
      return status.code() == StatusCode::kIo && status.message().find('\n') == std::string::npos;
    });
    EXPECT_TRUE(fs::is_empty(folder.path())) << limit;
  }
}

// Robustness case 67.
TEST(ModelDirectory, ReadOnlyFolder) {
  if (geteuid() == 0) {
    // Root may write anywhere but here.
    EXPECT_THAT(WriteModelDirectory("/proc/out", "", Sample()),
                ::testing::AnyOf(Fails(StatusCode::kIo, "/proc"),
                                 Fails(StatusCode::kResourceExhausted, "/proc")));
    return;
  }
  TempFolder folder;
  fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_THAT(WriteModelDirectory(folder / "out", "", Sample()), Fails(StatusCode::kIo, "cannot"));
  fs::permissions(folder.path(), fs::perms::owner_all);
}

TEST(ModelDirectory, ReadsTokenizerFilesThatAreThere) {
  TempFolder folder;
  EXPECT_TRUE(ReadTokenizerFiles(folder.path())->empty());
  WriteText(folder / "tokenizer.json", "t");
  WriteText(folder / "tokenizer.model", "m");
  WriteText(folder / "chat_template.jinja", "c");
  WriteText(folder / "unrelated.json", "u");
  const auto files = ReadTokenizerFiles(folder.path());
  ASSERT_TRUE(files.ok());
  EXPECT_EQ(*files,
            (std::map<std::string, std::string>{
                {"chat_template.jinja", "c"}, {"tokenizer.json", "t"}, {"tokenizer.model", "m"}}));
  fs::create_directory(folder / "generation_config.json");
  EXPECT_THAT(ReadTokenizerFiles(folder.path()), Fails(kInvalid, "generation_config.json"));
}

}  // namespace
}  // namespace tq
