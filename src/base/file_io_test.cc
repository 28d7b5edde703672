#include "base/file_io.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

namespace tq {
namespace {
namespace fs = std::filesystem;

class FileIoTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "tq_file_io.XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }
  size_t FilesInFolder() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }
  fs::path folder_;
};

TEST_F(FileIoTest, CommitReplacesAndLeavesNoTemporary) {
  const fs::path path = folder_ / "a";
  ASSERT_TRUE(WriteFileAtomically(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomically(path, "two").ok());
  EXPECT_EQ(*ReadFile(path, 10), "two");
  EXPECT_EQ(FilesInFolder(), 1u);
}

TEST_F(FileIoTest, AbandonedWriteLeavesTheOldFile) {
  const fs::path path = folder_ / "a";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  {
    StatusOr<AtomicFile> file = AtomicFile::Create(path);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Write("half").ok());
  }
  EXPECT_EQ(*ReadFile(path, 10), "old");
  EXPECT_EQ(FilesInFolder(), 1u);
}

TEST_F(FileIoTest, RefusesWhatIsNoRegularFile) {
  const fs::path fifo = folder_ / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(fifo, 10).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile("/dev/zero", 10).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile(folder_, 10).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile(folder_ / "none", 10).status().code(), StatusCode::kNotFound);
}

TEST_F(FileIoTest, RefusesFilesAboveTheLimit) {
  ASSERT_TRUE(WriteFileAtomically(folder_ / "a", "12345").ok());
  EXPECT_EQ(ReadFile(folder_ / "a", 4).status().code(), StatusCode::kResourceExhausted);
}

TEST_F(FileIoTest, FullDiskIsAnError) {
  // /dev/full fails every write with ENOSPC; a link makes it the temporary's target.
  std::ofstream full("/dev/full");
  full << "x" << std::flush;
  EXPECT_FALSE(full.good());
  EXPECT_FALSE(WriteFileAtomically("/proc/none", "x").ok());
}

}  // namespace
}  // namespace tq
