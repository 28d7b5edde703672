#include "base/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace tq {
namespace fs = std::filesystem;

StatusOr<std::string> ReadFile(const fs::path& path, uint64_t max_bytes) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT) return NotFound("{}: no such file", path.string());
    return IoError(path.string(), errno);
  }
  struct Closer {
    int fd;
    ~Closer() { close(fd); }
  } closer{fd};
  struct stat info;
  if (fstat(fd, &info) != 0) return IoError(path.string(), errno);
  if (!S_ISREG(info.st_mode)) return InvalidArgument("{}: not a regular file", path.string());
  if (static_cast<uint64_t>(info.st_size) > max_bytes) {
    return ResourceExhausted("{}: {} bytes, the limit is {}", path.string(), info.st_size,
                             max_bytes);
  }
  std::string contents(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < contents.size()) {
    const ssize_t n = read(fd, contents.data() + done, contents.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(path.string(), errno);
    if (n == 0) return DataLoss("{}: file shrank while being read", path.string());
    done += static_cast<size_t>(n);
  }
  return contents;
}

StatusOr<AtomicFile> AtomicFile::Create(const fs::path& path) {
  std::string temporary = path.string() + ".tmp.XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return IoError("cannot create " + temporary, errno);
  fchmod(fd, 0644);
  return AtomicFile(path, temporary, fd);
}

AtomicFile::AtomicFile(fs::path path, fs::path temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(std::exchange(other.fd_, -1)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this != &other) {
    Discard();
    path_ = std::move(other.path_);
    temporary_ = std::move(other.temporary_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

AtomicFile::~AtomicFile() { Discard(); }

void AtomicFile::Discard() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
  fd_ = -1;
}

Status AtomicFile::Write(const void* data, size_t size) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = write(fd_, bytes, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError("writing " + path_.string(), errno);
    bytes += n;
    size -= static_cast<size_t>(n);
  }
  return OkStatus();
}

Status AtomicFile::Commit() {
  if (fsync(fd_) != 0) return IoError("fsync of " + temporary_.string(), errno);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    return IoError("renaming to " + path_.string(), errno);
  }
  close(std::exchange(fd_, -1));
  return SyncFolder(path_.parent_path());
}

Status WriteFileAtomically(const fs::path& path, std::string_view contents) {
  TQ_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  TQ_RETURN_IF_ERROR(file.Write(contents));
  return file.Commit();
}

Status CheckWritable(const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) return IoError(file.string(), EISDIR);
  const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
  if (access(folder.c_str(), W_OK | X_OK) != 0) return IoError(file.string(), errno);
  return OkStatus();
}

Status SyncFolder(const fs::path& folder) {
  const fs::path target = folder.empty() ? fs::path(".") : folder;
  const int fd = open(target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return IoError(target.string(), errno);
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  // Some file systems cannot sync a folder and say EINVAL; the rename is still atomic there.
  if (result != 0 && error != EINVAL) return IoError("fsync of " + target.string(), error);
  return OkStatus();
}

StatusOr<uint64_t> FreeDiskBytes(const fs::path& folder) {
  struct statvfs info;
  if (statvfs(folder.c_str(), &info) != 0) return IoError(folder.string(), errno);
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace tq
