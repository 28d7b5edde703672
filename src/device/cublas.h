// Products of half-precision matrices through cuBLAS, which is loaded when it is first needed: a
// program without it runs everything else. Only in builds with TQ_CUDA.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "device/cuda_device.h"

namespace tq {

class Cublas {
 public:
  // Fixed, so that nothing is allocated later; what NVIDIA recommends for devices of sm_90.
  static constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;

  // Errors: no cuBLAS of this program's toolkit is found, it does not start, or there is no memory
  // for its workspace.
  static StatusOr<std::unique_ptr<Cublas>> Load(const CudaDevice& device);
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  // y = x w^T in IEEE binary16 with sums in float: x [n][x_stride], w [m][w_stride] and
  // y [n][y_stride], of which k columns of x and w count. Starts on the device's stream.
  struct Product {
    uint64_t n = 0, m = 0, k = 0;
    const uint16_t* x = nullptr;
    uint64_t x_stride = 0;
    const uint16_t* w = nullptr;
    uint64_t w_stride = 0;
    uint16_t* y = nullptr;
    uint64_t y_stride = 0;
  };
  Status StartProduct(const Product& product) const;

 private:
  struct Functions;
  Cublas() = default;

  std::shared_ptr<const Functions> functions_;
  void* handle_ = nullptr;
  DeviceMemory workspace_;
};

}  // namespace tq
