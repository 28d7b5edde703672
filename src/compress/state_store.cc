#include "compress/state_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "base/checked.h"
#include "base/file_io.h"
#include "tensor/tensor.h"

namespace tq {

StatusOr<StateStore> StateStore::Create(uint64_t count, uint64_t memory_limit,
                                        const std::filesystem::path& folder) {
  const auto bytes = CheckedMul<uint64_t>(count, sizeof(float));
  if (!bytes || *bytes == 0) {
    return ResourceExhausted("calibration: {} activations are more than can be kept", count);
  }
  StateStore store;
  if (*bytes <= memory_limit) {
    TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(*bytes, "calibration activations"));
    store.data_ = std::shared_ptr<float>(memory, reinterpret_cast<float*>(memory.get()));
    return store;
  }
  TQ_ASSIGN_OR_RETURN(const uint64_t free, FreeDiskBytes(folder));
  if (*bytes > free) {
    return ResourceExhausted("{}: calibration needs {} bytes of disk for activations, {} are free",
                             folder.string(), *bytes, free);
  }
  const std::filesystem::path path = folder / "states.part";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return IoError(path.string(), errno);
  unlink(path.c_str());
  // Reserved now: a write into a hole of a mapped file would be a SIGBUS on a full disk.
  const int error = posix_fallocate(fd, 0, static_cast<off_t>(*bytes));
  if (error != 0) {
    close(fd);
    return IoError(path.string(), error);
  }
  void* map = mmap(nullptr, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int map_error = errno;
  close(fd);
  if (map == MAP_FAILED) return IoError(path.string(), map_error);
  store.data_ = std::shared_ptr<float>(static_cast<float*>(map),
                                       [size = *bytes](float* data) { munmap(data, size); });
  store.spilled_ = true;
  return store;
}

void StateStore::Release(uint64_t begin, uint64_t count) {
  if (!spilled_) return;
  static const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t first = begin * sizeof(float) / page * page;
  // The pages of a shared map keep their contents: the file has them.
  (void)madvise(reinterpret_cast<char*>(data_.get()) + first,
                (begin + count) * sizeof(float) - first, MADV_DONTNEED);
}

}  // namespace tq
