// A CUDA device with one stream, its memory and its graphs. No CUDA types here: `stream()` is a
// cudaStream_t, and what kernels' Launch functions return is a cudaError_t. Only in builds with
// TQ_CUDA.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tq {

// Memory of a device, freed at the end.
using DeviceMemory = std::shared_ptr<void>;

class CudaDevice {
 public:
  // Errors: no driver, no device, a driver older than this program's toolkit, no device `index`,
  // one older than sm_80.
  static StatusOr<std::shared_ptr<CudaDevice>> Open(int index = 0);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const std::string& name() const { return name_; }
  int multiprocessors() const { return multiprocessors_; }
  int shared_bytes() const { return shared_bytes_; }                   // per multiprocessor
  uint64_t block_shared_bytes() const { return block_shared_bytes_; }  // that a block may ask for
  void* stream() const { return stream_; }
  StatusOr<uint64_t> FreeBytes() const;

  // An error says what the memory is for and how much is free.
  StatusOr<DeviceMemory> Allocate(uint64_t bytes, std::string_view what) const;
  // Host memory that copies run from and to without waiting for each other.
  StatusOr<DeviceMemory> AllocateHost(uint64_t bytes, std::string_view what) const;
  // On the stream. The host's side must stay until Synchronize, unless it is pageable.
  Status Upload(const void* host, uint64_t bytes, void* device) const;
  Status Download(const void* device, uint64_t bytes, void* host) const;
  Status Fill(void* device, uint8_t byte, uint64_t bytes) const;
  Status Synchronize() const;

  // An error naming `what` unless `error` is cudaSuccess.
  static Status Check(int error, std::string_view what);

 private:
  CudaDevice() = default;
  int index_ = 0;
  std::string name_;
  int multiprocessors_ = 0, shared_bytes_ = 0;
  uint64_t block_shared_bytes_ = 0;
  void* stream_ = nullptr;
};

// Work recorded once and started again at little cost.
class CudaGraph {
 public:
  // Records what `body` starts on the device's stream, without running it.
  static StatusOr<CudaGraph> Record(const CudaDevice& device, const std::function<Status()>& body);
  Status Launch() const;

 private:
  std::shared_ptr<void> executable_;  // cudaGraphExec_t
  void* stream_ = nullptr;
};

}  // namespace tq
