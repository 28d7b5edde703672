#include "checkpoint/gguf_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "../../tests/support/tiny_model.h"
#include "checkpoint/model_source.h"
#include "checkpoint/status_matcher_for_test.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using namespace tq::testing;  // NOLINT: the test support
constexpr auto kInvalid = StatusCode::kInvalidArgument;
constexpr auto kDataLoss = StatusCode::kDataLoss;
constexpr auto kNotFound = StatusCode::kNotFound;
constexpr uint32_t kUint16 = 2;

std::string PartName(uint64_t number, uint64_t count) {
  return fmt::format("m-{:05}-of-{:05}.gguf", number + 1, count);
}

GgufBuilder SplitKeys(uint64_t number, uint64_t count, int32_t tensors, GgufBuilder builder = {}) {
  builder.Scalar<uint16_t>("split.no", kUint16, static_cast<uint16_t>(number))
      .Scalar<uint16_t>("split.count", kUint16, static_cast<uint16_t>(count))
      .Scalar<int32_t>("split.tensors.count", kGgufInt32, tensors);
  return builder;
}

GgufBuilder& Number(GgufBuilder& builder, std::string_view name, float value) {
  return builder.Tensor(name, kPackF32, {1}, PackGguf(kPackF32, {value}));
}

// A file in three parts: metadata, tensors a and b, tensor c.
class GgufSplit : public ::testing::Test {
 protected:
  void SetUp() override {
    Write(0, SplitKeys(0, 3, 3).String("general.name", "tiny").Uint("n", 7));
    GgufBuilder second = SplitKeys(1, 3, 3), third = SplitKeys(2, 3, 3);
    Write(1, Number(Number(second, "a", 1), "b", 2));
    Write(2, Number(third, "c", 3));
  }
  fs::path Path(uint64_t number) const { return folder_ / PartName(number, 3); }
  void Write(uint64_t number, const GgufBuilder& part) { WriteText(Path(number), part.Build()); }
  auto Open() const { return GgufFile::Open(Path(0)); }

  TempFolder folder_;
};

TEST_F(GgufSplit, ReadsAllParts) {
  const auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(*(*file)->GetUint("n"), 7u);
  EXPECT_EQ((*file)->path(), Path(0));
  ASSERT_EQ((*file)->tensors().size(), 3u);
  for (const auto& [name, value, part] : {std::tuple{"a", 1, 1}, {"b", 2, 1}, {"c", 3, 2}}) {
    const GgufTensor* tensor = (*file)->Find(name);
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ((*file)->FileOf(*tensor).path(), Path(static_cast<uint64_t>(part)));
    EXPECT_EQ((*file)->LoadFloat(*tensor)->as<float>()[0], static_cast<float>(value));
    EXPECT_EQ((*file)->Bytes(*tensor)->size(), 4u);
  }
}

TEST_F(GgufSplit, IsTheSameModelAsOneFile) {
  const TinyModel model = MakeTinyModel({.layers = 2});
  WriteGguf(model, folder_ / "whole.gguf", kPackQ4_1);
  constexpr size_t kParts = 4;
  std::vector<TinyModel> parts(kParts, model);
  for (TinyModel& part : parts) part.tensors.clear();
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    parts[i % kParts].tensors.push_back(model.tensors[i]);
  }
  // Here every part repeats the model's metadata, which is more than gguf-split does.
  for (size_t i = 0; i < kParts; ++i) {
    const GgufBuilder part = SplitKeys(i, kParts, static_cast<int32_t>(model.tensors.size()),
                                       BuildGguf(parts[i], kPackQ4_1));
    WriteText(folder_ / PartName(i, kParts), part.Build());
  }
  const auto whole = ModelSource::Open(folder_ / "whole.gguf");
  const auto split = ModelSource::Open(folder_ / PartName(0, kParts));
  ASSERT_TRUE(whole.ok());
  ASSERT_TRUE(split.ok()) << split.status().message();
  EXPECT_EQ((*split)->num_bytes(), (*whole)->num_bytes());
  for (const SourceTensorInfo& info : (*whole)->tensors()) {
    const auto a = (*whole)->LoadFloat(info.name), b = (*split)->LoadFloat(info.name);
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_EQ(std::memcmp(a->data(), b->data(), a->num_bytes()), 0) << info.name;
    Hasher first, second;  // what was made of the one can be resumed with the other
    ASSERT_TRUE((*whole)->HashTensor(info.name, first).ok());
    ASSERT_TRUE((*split)->HashTensor(info.name, second).ok());
    EXPECT_EQ(first.Digest(), second.Digest()) << info.name;
  }
}

TEST_F(GgufSplit, PartsMayBeLinks) {  // as in Hugging Face's cache
  fs::create_directory(folder_ / "blobs");
  for (uint64_t i = 0; i < 3; ++i) {
    const fs::path blob = folder_.path() / "blobs" / fmt::format("{:064x}", i);
    fs::rename(Path(i), blob);
    fs::create_symlink(blob, Path(i));
  }
  EXPECT_TRUE(Open().ok()) << Open().status().message();
}

TEST_F(GgufSplit, CountsOfOneFile) {
  for (const uint16_t whole : {1, 0}) {  // 0 is what merging leaves
    GgufBuilder builder;
    WriteText(folder_ / "x.gguf", builder.Scalar("split.count", kUint16, whole).Build());
    EXPECT_TRUE(GgufFile::Open(folder_ / "x.gguf").ok());
  }
}

// Robustness case 27.
TEST_F(GgufSplit, MissingPartsAreListed) {
  fs::remove(Path(1));
  EXPECT_THAT(Open(), Fails(kNotFound, "m-00001-of-00003.gguf", "1 of 3 parts missing",
                            "'m-00002-of-00003.gguf'"));
  fs::remove(Path(2));
  EXPECT_THAT(Open(), Fails(kNotFound, "2 of 3 parts missing", "'m-00002-of-00003.gguf'",
                            "'m-00003-of-00003.gguf'"));
  const fs::path many = folder_ / PartName(0, 65535);
  WriteText(many, SplitKeys(0, 65535, 3).Build());
  EXPECT_THAT(GgufFile::Open(many), Fails(kNotFound, "more than 5 of 65535 parts missing",
                                          "'m-00006-of-65535.gguf' and others"));
  WriteText(folder_ / PartName(0, 8), SplitKeys(0, 8, 3).Build());
  WriteText(folder_ / PartName(7, 8), "");
  EXPECT_THAT(GgufFile::Open(folder_ / PartName(0, 8)), Fails(kNotFound, ": more than 5 of 8"));
  WriteText(folder_ / PartName(6, 8), "");
  EXPECT_THAT(GgufFile::Open(folder_ / PartName(0, 8)), Fails(kNotFound, ": 5 of 8 parts"));
}

// Robustness case 27.
TEST_F(GgufSplit, OnlyTheFirstPartIsOpened) {
  EXPECT_THAT(GgufFile::Open(Path(1)),
              Fails(kInvalid, "is part 2 of 3", "open the first, 'm-00001-of-00003.gguf'"));
  for (const char* name : {"m.gguf", "m-00001-of-00002.gguf", "m-00002-of-00003.gguf",
                           "m-1-of-3.gguf", "m-00001-of-00003.gguf.part"}) {
    const fs::path path = folder_ / "renamed" / name;
    fs::create_directories(path.parent_path());
    WriteText(path, ReadText(Path(0)));
    EXPECT_THAT(GgufFile::Open(path), Fails(kInvalid, name, "NAME-00001-of-00003.gguf"));
  }
}

// Robustness case 27.
TEST_F(GgufSplit, KeysOfTheFirstPart) {
  const auto with = [&](const GgufBuilder& builder) {
    Write(0, builder);
    return Open().status();
  };
  const auto count = [](int64_t n) { return GgufBuilder().Scalar("split.count", 11, n); };
  EXPECT_THAT(with(count(-3)), Fails(kInvalid, "split.count"));
  EXPECT_THAT(with(GgufBuilder().String("split.count", "3")), Fails(kInvalid, "split.count"));
  EXPECT_THAT(with(count(3)), Fails(kNotFound, "split.no"));
  for (const int64_t n : {int64_t{65536}, int64_t{1} << 62}) {
    EXPECT_THAT(with(count(n).Uint("split.no", 0)), Fails(kInvalid, std::to_string(n), "65535"));
  }
  EXPECT_THAT(with(count(3).Uint("split.no", 3)), Fails(kInvalid, "split.no is 3", "0 to 2"));
  EXPECT_THAT(with(count(3).Uint("split.no", 0)), Fails(kNotFound, "split.tensors.count"));
  for (const int32_t tensors : {-1, 0, 2, 4}) {
    EXPECT_THAT(with(SplitKeys(0, 3, tensors)), Fails(kInvalid, "split.tensors.count"));
  }
}

// Robustness case 27.
TEST_F(GgufSplit, PartsThatAreOthers) {
  const std::string second = ReadText(Path(1));
  const auto with = [&](const GgufBuilder& builder) {
    Write(1, builder);
    return Open().status();
  };
  EXPECT_THAT(with(GgufBuilder()), Fails(kNotFound, "m-00002", "split.no"));
  EXPECT_THAT(with(GgufBuilder().Uint("split.no", 1)), Fails(kNotFound, "split.count"));
  EXPECT_THAT(with(SplitKeys(2, 3, 3)), Fails(kInvalid, "m-00002", "split.no is 2"));
  EXPECT_THAT(with(SplitKeys(1, 4, 3)), Fails(kInvalid, "m-00002", "split.count is 4", "says 3"));
  EXPECT_THAT(with(SplitKeys(1, 3, 9)), Fails(kInvalid, "split.tensors.count is 9", "says 3"));
  EXPECT_THAT(with(SplitKeys(1, 3, 3).String("general.name", "other")),
              Fails(kInvalid, "m-00002", "no part of", "'general.name' is another"));
  EXPECT_THAT(with(SplitKeys(1, 3, 3).Uint("general.name", 1)), Fails(kInvalid, "is another"));
  EXPECT_THAT(with(SplitKeys(1, 3, 3).Uint("more", 1)), Fails(kInvalid, "'more' is not there"));
  GgufBuilder fewer = SplitKeys(1, 3, 3);
  EXPECT_THAT(with(Number(fewer, "a", 1)),
              Fails(kInvalid, "split.tensors.count is 3", "3 parts hold 2 tensors"));
  GgufBuilder twice = SplitKeys(1, 3, 3);
  EXPECT_THAT(with(Number(Number(twice, "a", 1), "c", 2)),
              Fails(kInvalid, "m-00003", "'c'", "m-00002"));
  WriteText(Path(1), second.substr(0, second.size() - 1));
  EXPECT_THAT(Open(), Fails(kDataLoss, "m-00002", "'b'", "outside the file"));
  WriteText(Path(1), "no GGUF file, but of some length");
  EXPECT_THAT(Open(), Fails(kInvalid, "m-00002", "magic"));
  fs::remove(Path(1));
  ASSERT_EQ(mkfifo(Path(1).c_str(), 0600), 0);
  EXPECT_THAT(Open(), Fails(kInvalid, "m-00002", "not a regular file"));
  fs::remove(Path(1));
  fs::create_symlink(Path(0), Path(1));
  EXPECT_THAT(Open(), Fails(kInvalid, "m-00002", "split.no is 0"));
}

// Every part counts its offsets by its own alignment.
TEST_F(GgufSplit, AlignmentIsEachPartsOwn) {
  GgufBuilder second = SplitKeys(1, 3, 3);
  second.alignment = 8;
  second.Uint("general.alignment", 8);
  Write(1, Number(Number(second, "a", 1), "b", 2));
  const auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ((*file)->LoadFloat(*(*file)->Find("b"))->as<float>()[0], 2);
}

// Robustness case 15.
TEST_F(GgufSplit, APartShrinksWhileRead) {
  const auto file = Open();
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate(Path(2).c_str(), 100), 0);
  EXPECT_TRUE((*file)->LoadFloat(*(*file)->Find("b")).ok());
  EXPECT_THAT((*file)->LoadFloat(*(*file)->Find("c")), Fails(kDataLoss, "m-00003-of-00003.gguf"));
  EXPECT_THAT((*file)->Bytes(*(*file)->Find("c")), Fails(kDataLoss, "m-00003-of-00003.gguf"));
}

}  // namespace
}  // namespace tq
