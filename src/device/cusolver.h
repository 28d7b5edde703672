// Cholesky factorisations through cuSOLVER, which is loaded when it is first needed: a program
// without it runs everything else. Only in builds with TQ_CUDA.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "device/cuda_device.h"

namespace tq {

class Cusolver {
 public:
  // Errors: no cuSOLVER of this program's toolkit is found (NotFound), or it does not start.
  static StatusOr<std::unique_ptr<Cusolver>> Load(const CudaDevice& device);
  ~Cusolver();
  Cusolver(const Cusolver&) = delete;
  Cusolver& operator=(const Cusolver&) = delete;

  // The lower triangle (column <= row) of a symmetric matrix a, float [n][n] on the device, becomes
  // C of a = C C^T; the upper one is neither read nor written. False if a pivot is not positive:
  // then the lower triangle is of no use. Waits for the result.
  StatusOr<bool> FactorLower(const CudaDevice& device, uint64_t n, float* a) const;

 private:
  struct Functions;
  Cusolver() = default;

  std::shared_ptr<const Functions> functions_;
  void* handle_ = nullptr;
  void* parameters_ = nullptr;  // cusolverDnParams_t
};

}  // namespace tq
