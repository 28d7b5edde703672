// Bytes as a file that readers can open by path, without touching a disk.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace tq::fuzz {

class MemoryFile {
 public:
  MemoryFile(const uint8_t* bytes, size_t size) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0) abort();
    while (size > 0) {
      const ssize_t n = write(fd_, bytes, size);
      if (n <= 0) abort();
      bytes += n;
      size -= static_cast<size_t>(n);
    }
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

// Every error is one short line, whatever the file says.
inline void RequireOneLine(const std::string& message) {
  if (message.empty() || message.size() > 2000) abort();
  if (message.find('\n') != std::string::npos) abort();
}

}  // namespace tq::fuzz
