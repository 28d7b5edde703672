#include "compress/work_folder.h"

#include <gtest/gtest.h>

#include <fstream>

#include "../../tests/support/temp_folder.h"

namespace tq {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

constexpr Hash128 kJob{1, 2}, kOtherJob{1, 3};

std::vector<OutputTensor> Tensors(float value) {
  const std::vector<float> values(100, value);
  return {{"x.codes", *Tensor::FromValues<float>(DType::kF32, {10, 10}, values)},
          {"a.scale", *Tensor::FromValues<float>(DType::kF32, {100}, values)}};
}

void FlipByte(const fs::path& path, uint64_t from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-static_cast<std::streamoff>(from_end), std::ios::end);
  const char byte = static_cast<char>(file.get());
  file.seekp(-static_cast<std::streamoff>(from_end), std::ios::end);
  file.put(static_cast<char>(byte ^ 16));
}

TEST(WorkFolderTest, KeepsParts) {
  const TempFolder folder;
  {
    auto work = WorkFolder::Open(folder / "out.work", kJob, "job", false);
    ASSERT_TRUE(work.ok()) << work.status().message();
    EXPECT_FALSE(work->Load("m").has_value());
    ASSERT_TRUE(work->Store("m", Tensors(3)).ok());
  }
  auto work = WorkFolder::Open(folder / "out.work", kJob, "job", false);
  ASSERT_TRUE(work.ok());
  const auto part = work->Load("m");
  ASSERT_TRUE(part.has_value());
  ASSERT_EQ(part->size(), 2u);
  EXPECT_EQ((*part)[1].name, "x.codes");
  EXPECT_EQ((*part)[1].tensor.shape(), (Shape{10, 10}));
  EXPECT_EQ((*part)[1].tensor.as<float>()[99], 3.0f);
  ASSERT_TRUE(work->Remove().ok());
  EXPECT_FALSE(fs::exists(folder / "out.work"));
}

// Robustness case 70: any flipped byte or cut of a part is caught.
TEST(WorkFolderTest, DamagedPartsAreForgotten) {
  const TempFolder folder;
  auto work = WorkFolder::Open(folder / "w", kJob, "job", false);
  ASSERT_TRUE(work.ok());
  const fs::path path = folder / "w/m.part";
  ASSERT_TRUE(work->Store("m", Tensors(3)).ok());
  const uint64_t size = fs::file_size(path);
  for (uint64_t from_end = 1; from_end <= size; from_end += 7) {
    ASSERT_TRUE(work->Store("m", Tensors(3)).ok());
    FlipByte(path, from_end);
    const auto part = work->Load("m");
    // Spaces that pad the header may change without harm.
    if (part.has_value()) {
      EXPECT_EQ((*part)[0].tensor.as<float>()[0], 3.0f);
    }
  }
  for (uint64_t cut : {uint64_t{0}, uint64_t{5}, size / 2, size - 1}) {
    ASSERT_TRUE(work->Store("m", Tensors(3)).ok());
    fs::resize_file(path, cut);
    EXPECT_FALSE(work->Load("m").has_value()) << cut;
  }
  // A part of another matrix under this one's name.
  ASSERT_TRUE(work->Store("other", Tensors(4)).ok());
  fs::rename(folder / "w/other.part", path);
  EXPECT_FALSE(work->Load("m").has_value());
}

// Robustness case 65.
TEST(WorkFolderTest, RefusesAnotherJobUnlessFresh) {
  const TempFolder folder;
  {
    auto work = WorkFolder::Open(folder / "w", kJob, "model A, 2 bits", false);
    ASSERT_TRUE(work.ok());
    ASSERT_TRUE(work->Store("m", Tensors(3)).ok());
  }
  const auto refused = WorkFolder::Open(folder / "w", kOtherJob, "model A, 3 bits", false);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition);
  for (const char* part : {"2 bits", "3 bits", "--fresh"}) {
    EXPECT_NE(refused.status().message().find(part), std::string::npos);
  }
  auto fresh = WorkFolder::Open(folder / "w", kOtherJob, "model A, 3 bits", true);
  ASSERT_TRUE(fresh.ok()) << fresh.status().message();
  EXPECT_FALSE(fresh->Load("m").has_value());
}

// Robustness case 70.
TEST(WorkFolderTest, DamagedJobFileIsNoMatch) {
  const TempFolder folder;
  { ASSERT_TRUE(WorkFolder::Open(folder / "w", kJob, "job", false).ok()); }
  testing::WriteText(folder / "w/job.json", "[[[");
  EXPECT_FALSE(WorkFolder::Open(folder / "w", kJob, "job", false).ok());
}

// Robustness case 64: what kill -9 leaves.
TEST(WorkFolderTest, ClearsHalfWrittenFiles) {
  const TempFolder folder;
  { ASSERT_TRUE(WorkFolder::Open(folder / "w", kJob, "job", false).ok()); }
  fs::create_directories(folder / "w/out.tmp.abcdef");
  testing::WriteText(folder / "w/out.tmp.abcdef/model.safetensors", "half");
  testing::WriteText(folder / "w/m.part.tmp.abcdef", "half");
  auto work = WorkFolder::Open(folder / "w", kJob, "job", false);
  ASSERT_TRUE(work.ok());
  EXPECT_FALSE(fs::exists(folder / "w/out.tmp.abcdef"));
  EXPECT_FALSE(fs::exists(folder / "w/m.part.tmp.abcdef"));
}

// Robustness case 66.
TEST(WorkFolderTest, OneWriterAtATime) {
  const TempFolder folder;
  const auto first = WorkFolder::Open(folder / "w", kJob, "job", false);
  ASSERT_TRUE(first.ok());
  const auto second = WorkFolder::Open(folder / "w", kJob, "job", true);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kFailedPrecondition);
}

// A folder in use, named by mistake: its files may have names like ours.
TEST(WorkFolderTest, RefusesAFolderWithoutAJob) {
  for (const bool fresh : {false, true}) {
    for (const char* name : {"movie.mkv.part", "backup.tmp.1", "mine.txt"}) {
      const TempFolder folder;
      testing::WriteText(folder / name, "hello");
      const auto refused = WorkFolder::Open(folder.path(), kJob, "job", fresh);
      ASSERT_FALSE(refused.ok()) << name;
      EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition);
      EXPECT_NE(refused.status().message().find(name), std::string::npos);
      EXPECT_TRUE(fs::exists(folder / name));
      EXPECT_FALSE(fs::exists(folder / "lock"));
    }
    const TempFolder folder;  // somebody else's job.json
    testing::WriteText(folder / "job.json", R"({"job": "bake"})");
    testing::WriteText(folder / "movie.mkv.part", "hello");
    EXPECT_FALSE(WorkFolder::Open(folder.path(), kJob, "job", fresh).ok());
    EXPECT_TRUE(fs::exists(folder / "movie.mkv.part"));
    EXPECT_FALSE(fs::exists(folder / "lock"));
  }
  // What is left of a process killed before its job was written.
  const TempFolder folder;
  fs::create_directory(folder / "w");
  testing::WriteText(folder / "w/lock", "");
  testing::WriteText(folder / "w/job.json.tmp.abcdef", "{");
  EXPECT_TRUE(WorkFolder::Open(folder / "w", kJob, "job", false).ok());
}

TEST(WorkFolderTest, LeavesForeignFilesAlone) {
  const TempFolder folder;
  auto work = WorkFolder::Open(folder / "w", kJob, "job", true);
  ASSERT_TRUE(work.ok());
  testing::WriteText(folder / "w/mine.txt", "hello");
  ASSERT_TRUE(work->Store("m", Tensors(3)).ok());
  ASSERT_TRUE(work->Remove().ok());
  EXPECT_TRUE(fs::exists(folder / "w/mine.txt"));
  EXPECT_FALSE(fs::exists(folder / "w/m.part"));
}

// Robustness case 67.
TEST(WorkFolderTest, UnwritableParentIsAnError) {
  EXPECT_FALSE(WorkFolder::Open("/proc/nowhere.work", kJob, "job", false).ok());
}

}  // namespace
}  // namespace tq
