// System calls that fail when a test says so. This file defines read, pread, write and fsync
// for the program that includes it, in one source file only; with no fault queued they do what
// the kernel does.
//
//   write_faults = {{.error = EINTR}, {.most = 3}, {.error = ENOSPC}};
//   // The next write is interrupted, the one after it writes 3 bytes, the third fails.
#pragma once

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>

namespace tq::testing {

struct Fault {
  int error = 0;           // the call fails with this errno, or
  size_t most = SIZE_MAX;  // moves at most so many bytes
};

// What the next calls do, each entry once. For the thread that runs the test alone.
inline std::deque<Fault> read_faults, write_faults, fsync_faults;

// Takes a fault off the queue: false with errno set if the call is to fail.
inline bool Proceed(std::deque<Fault>& faults, size_t& size) {
  if (faults.empty()) return true;
  const Fault fault = faults.front();
  faults.pop_front();
  size = std::min(size, fault.most);
  if (fault.error == 0) return true;
  errno = fault.error;
  return false;
}

}  // namespace tq::testing

extern "C" {

ssize_t read(int fd, void* out, size_t size) {
  if (!tq::testing::Proceed(tq::testing::read_faults, size)) return -1;
  return syscall(SYS_read, fd, out, size);
}

ssize_t pread(int fd, void* out, size_t size, off_t offset) {
  if (!tq::testing::Proceed(tq::testing::read_faults, size)) return -1;
  return syscall(SYS_pread64, fd, out, size, offset);
}

ssize_t write(int fd, const void* data, size_t size) {
  if (!tq::testing::Proceed(tq::testing::write_faults, size)) return -1;
  return syscall(SYS_write, fd, data, size);
}

int fsync(int fd) {
  size_t unused = 0;
  if (!tq::testing::Proceed(tq::testing::fsync_faults, unused)) return -1;
  return static_cast<int>(syscall(SYS_fsync, fd));
}

}  // extern "C"
