// A file read through a private, read-only memory map.
//
// A map of a file that another process truncates raises SIGBUS at the first touch.
// Headers are therefore copied out with ReadAt() (which fails with a Status) before
// they are trusted, and VerifySize() is called before each use of a tensor's bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace tq {

class MappedFile {
 public:
  // Maps a regular file of at least one byte; refuses FIFOs, devices and folders.
  static StatusOr<std::shared_ptr<MappedFile>> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  uint64_t size() const { return size_; }
  const uint8_t* data() const { return data_; }

  // The bytes [offset, offset + size), or an error naming file, range and size.
  StatusOr<std::span<const uint8_t>> Range(uint64_t offset, uint64_t size) const;
  // A copy of bytes, read with pread(2): safe against a file that shrinks.
  Status ReadAt(uint64_t offset, void* out, uint64_t size) const;
  // Has the system begin to read the file into its cache, all of which will be used soon.
  void ReadAhead() const;
  // Makes the pages of these bytes no longer resident. They come back when they are touched.
  void DropPages(uint64_t offset, uint64_t size) const;
  // DataLoss when the file is no longer as long as when it was mapped.
  Status VerifySize() const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  const uint8_t* data_ = nullptr;
};

}  // namespace tq
