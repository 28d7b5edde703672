// Products of matrices through cuBLAS, which is loaded when it is first needed: a program without
// it runs everything else. Only in builds with TQ_CUDA.
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

  // Errors: no cuBLAS of this program's toolkit is found (NotFound), it does not start, or there is
  // no memory for its workspace.
  static StatusOr<std::unique_ptr<Cublas>> Load(const CudaDevice& device);
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  // y = x w^T with sums in float: x [n][x_stride], w [m][w_stride] and y [n][y_stride], of which k
  // columns of x and w count; or y = x w with w [k][w_stride]. All of it starts on the device's
  // stream and gives the same bits at every run.
  template <typename T>
  struct ProductOf {
    uint64_t n = 0, m = 0, k = 0;
    const T* x = nullptr;
    uint64_t x_stride = 0;
    const T* w = nullptr;
    uint64_t w_stride = 0;
    T* y = nullptr;
    uint64_t y_stride = 0;
    bool w_by_k = false;  // w [k][w_stride]
  };
  using Product = ProductOf<uint16_t>;    // IEEE binary16
  using FloatProduct = ProductOf<float>;  // IEEE binary32 throughout: factors are not cut to TF32
  Status StartProduct(const Product& product) const;
  Status StartProduct(const FloatProduct& product) const;

  // sum += x^T x in float: x [n][features], sum [features][features], of which only the upper
  // triangle (column >= row) is touched.
  Status StartGram(const float* x, uint64_t n, uint64_t features, float* sum) const;

 private:
  struct Functions;
  Cublas() = default;
  template <typename T>
  Status Start(const ProductOf<T>& product, int type) const;

  std::shared_ptr<const Functions> functions_;
  void* handle_ = nullptr;
  DeviceMemory workspace_;
};

}  // namespace tq
