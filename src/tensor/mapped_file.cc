#include "tensor/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/checked.h"

namespace tq {

StatusOr<std::shared_ptr<MappedFile>> MappedFile::Open(const std::filesystem::path& path) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->fd_ < 0) {
    if (errno == ENOENT) return NotFound("{}: no such file", path.string());
    return IoError(path.string(), errno);
  }
  struct stat info;
  if (fstat(file->fd_, &info) != 0) return IoError(path.string(), errno);
  if (!S_ISREG(info.st_mode)) return InvalidArgument("{}: not a regular file", path.string());
  if (info.st_size <= 0) return DataLoss("{}: the file is empty", path.string());
  file->size_ = static_cast<uint64_t>(info.st_size);
  void* map = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, file->fd_, 0);
  if (map == MAP_FAILED) return IoError("mapping " + path.string(), errno);
  file->data_ = static_cast<const uint8_t*>(map);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
  if (fd_ >= 0) close(fd_);
}

StatusOr<std::span<const uint8_t>> MappedFile::Range(uint64_t offset, uint64_t size) const {
  if (!RangeFits(offset, size, size_)) {
    return DataLoss("{}: bytes {} + {} lie outside the file of {} bytes", path_.string(), offset,
                    size, size_);
  }
  return std::span<const uint8_t>(data_ + offset, size);
}

Status MappedFile::ReadAt(uint64_t offset, void* out, uint64_t size) const {
  if (!RangeFits(offset, size, size_)) {
    return DataLoss("{}: bytes {} + {} lie outside the file of {} bytes", path_.string(), offset,
                    size, size_);
  }
  auto* bytes = static_cast<uint8_t*>(out);
  while (size > 0) {
    const ssize_t n = pread(fd_, bytes, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError("reading " + path_.string(), errno);
    if (n == 0) return DataLoss("{}: file shrank while being read", path_.string());
    bytes += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<uint64_t>(n);
  }
  return OkStatus();
}

void MappedFile::ReadAhead() const {
  // Advice only: without it pages come when they are touched, some 128 KiB at a time.
  (void)madvise(const_cast<uint8_t*>(data_), size_, MADV_WILLNEED);
}

void MappedFile::DropPages(uint64_t offset, uint64_t size) const {
  TQ_CHECK(RangeFits(offset, size, size_));
  static const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;
  // Advice only: a page that stays does no harm.
  (void)madvise(const_cast<uint8_t*>(data_) + begin, offset + size - begin, MADV_DONTNEED);
}

Status MappedFile::VerifySize() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) return IoError(path_.string(), errno);
  if (static_cast<uint64_t>(info.st_size) != size_) {
    return DataLoss("{}: the file changed from {} to {} bytes while in use", path_.string(), size_,
                    info.st_size);
  }
  return OkStatus();
}

}  // namespace tq
