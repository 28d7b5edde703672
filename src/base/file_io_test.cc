#include "base/file_io.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>

#include "../../tests/support/faulty_calls.h"

namespace tq {
namespace {
namespace fs = std::filesystem;
using testing::fsync_faults;
using testing::read_faults;
using testing::write_faults;

class FileIoTest : public ::testing::Test {
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

// Robustness case 13: FIFOs and devices.
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

// Robustness case 62. RLIMIT_FSIZE stands in for a full disk: the write that crosses it is
// short, the next fails.
TEST_F(FileIoTest, WriteThatFailsHalfwayLeavesTheOldFile) {
  const fs::path path = folder_ / "a";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Status status = WriteFileAtomically(path, std::string(1500, 'x'));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, ignored);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find(path.string()), std::string::npos) << status.message();
  EXPECT_EQ(*ReadFile(path, 10), "old");
  EXPECT_EQ(FilesInFolder(), 1u);
}

// Robustness case 63.
TEST_F(FileIoTest, InterruptedAndShortCallsGoOn) {
  const fs::path path = folder_ / "a";
  write_faults = {{.error = EINTR}, {.most = 3}, {.error = EINTR}, {.most = 1}};
  ASSERT_TRUE(WriteFileAtomically(path, "0123456789").ok());
  EXPECT_TRUE(write_faults.empty());
  read_faults = {{.error = EINTR}, {.most = 4}, {.error = EINTR}, {.most = 1}};
  EXPECT_EQ(*ReadFile(path, 10), "0123456789");
  EXPECT_TRUE(read_faults.empty());
}

// Robustness case 62, case 63: each call of a write fails in turn, and the old file stays.
TEST_F(FileIoTest, FailedCallsLeaveTheOldFile) {
  const fs::path path = folder_ / "a";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  const auto failed = [&](const char* message) {
    const Status status = WriteFileAtomically(path, "0123456789");
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find(path.string()), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
    EXPECT_EQ(*ReadFile(path, 10), "old");
    EXPECT_EQ(FilesInFolder(), 1u);
  };
  for (const int error : {EIO, ENOSPC, EDQUOT}) {
    write_faults = {{.error = error}};
    failed(std::strerror(error));
    write_faults = {{.most = 4}, {.error = error}};
    failed(std::strerror(error));
    fsync_faults = {{.error = error}};
    failed("fsync");
  }
  read_faults = {{.most = 1}, {.error = EIO}};
  const Status status = ReadFile(path, 10).status();
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_NE(status.message().find(path.string()), std::string::npos) << status.message();
  // The file shrank after its size was asked for.
  read_faults = {{.most = 1}, {.most = 0}};
  EXPECT_EQ(ReadFile(path, 10).status().code(), StatusCode::kDataLoss);
}

// Robustness case 63: when the folder cannot be synced, the new name may not survive a crash.
TEST_F(FileIoTest, FolderThatCannotBeSyncedIsAnError) {
  fsync_faults = {{}, {.error = EIO}};
  EXPECT_EQ(WriteFileAtomically(folder_ / "a", "x").code(), StatusCode::kIo);
  fsync_faults = {{}, {.error = EINVAL}};  // a file system that has no such thing
  EXPECT_TRUE(WriteFileAtomically(folder_ / "a", "x").ok());
}

// Robustness case 67.
TEST_F(FileIoTest, FolderThatCannotBeWrittenIsAnError) {
  EXPECT_FALSE(WriteFileAtomically("/proc/none", "x").ok());
}

}  // namespace
}  // namespace tq
