// Files: reading whole small ones, and writing so that nothing half-written is
// ever found at the final name (temporary name, fsync, rename, fsync of the folder).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tq {

// The whole regular file; refuses FIFOs, devices and files above `max_bytes`.
StatusOr<std::string> ReadFile(const std::filesystem::path& path, uint64_t max_bytes);

// Writes a file under a temporary name beside `path`; Commit() makes it appear.
// Without Commit() the temporary is removed.
class AtomicFile {
 public:
  static StatusOr<AtomicFile> Create(const std::filesystem::path& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  // Appends; short writes and EINTR are retried.
  Status Write(const void* data, size_t size);
  Status Write(std::string_view text) { return Write(text.data(), text.size()); }
  // fsync, rename to the final name, fsync of the folder.
  Status Commit();

 private:
  AtomicFile(std::filesystem::path path, std::filesystem::path temporary, int fd);
  void Discard();

  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

// AtomicFile in one call.
Status WriteFileAtomically(const std::filesystem::path& path, std::string_view contents);

// Whether `file` could be written now: its folder is there and may be written to, and it is no
// folder itself. Asked before long work, so that the result is not lost.
Status CheckWritable(const std::filesystem::path& file);

// Makes the renames inside `folder` durable.
Status SyncFolder(const std::filesystem::path& folder);

// Bytes that an unprivileged user can still write to the file system of `folder`.
StatusOr<uint64_t> FreeDiskBytes(const std::filesystem::path& folder);

}  // namespace tq
