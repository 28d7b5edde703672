#include "device/cublas.h"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <string>

namespace tq {
namespace {

Status Check(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return OkStatus();
  return FailedPrecondition("cuBLAS: {}: error {}", what, static_cast<int>(status));
}

}  // namespace

struct Cublas::Functions {
  std::shared_ptr<void> library;
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  decltype(&cublasSetMathMode) set_math_mode = nullptr;
  // The one of its overloads that the library exports.
  cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                         const void*, const void*, cudaDataType, int, const void*, cudaDataType,
                         int, const void*, void*, cudaDataType, int, cublasComputeType_t,
                         cublasGemmAlgo_t) = nullptr;

  template <typename Function>
  Status Find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library.get(), name));
    if (function == nullptr) return NotFound("cuBLAS has no {}", name);
    return OkStatus();
  }
  Status FindAll() {
    TQ_RETURN_IF_ERROR(Find(create, "cublasCreate_v2"));
    TQ_RETURN_IF_ERROR(Find(destroy, "cublasDestroy_v2"));
    TQ_RETURN_IF_ERROR(Find(set_stream, "cublasSetStream_v2"));
    TQ_RETURN_IF_ERROR(Find(set_workspace, "cublasSetWorkspace_v2"));
    TQ_RETURN_IF_ERROR(Find(set_math_mode, "cublasSetMathMode"));
    return Find(gemm, "cublasGemmEx");
  }
};

StatusOr<std::unique_ptr<Cublas>> Cublas::Load(const CudaDevice& device) {
  const std::string name = "libcublas.so." + std::to_string(CUBLAS_VER_MAJOR);
  auto functions = std::make_shared<Functions>();
  functions->library =
      std::shared_ptr<void>(dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL), [](void* library) {
        if (library != nullptr) dlclose(library);
      });
  if (functions->library == nullptr) {
    const char* why = dlerror();
    return NotFound("cuBLAS: {}", why == nullptr ? name : std::string(why));
  }
  TQ_RETURN_IF_ERROR(functions->FindAll());
  std::unique_ptr<Cublas> blas(new Cublas);
  blas->functions_ = functions;
  TQ_ASSIGN_OR_RETURN(blas->workspace_, device.Allocate(kWorkspaceBytes, "workspace of cuBLAS"));
  cublasHandle_t handle = nullptr;
  TQ_RETURN_IF_ERROR(Check(functions->create(&handle), "starting"));
  blas->handle_ = handle;
  TQ_RETURN_IF_ERROR(Check(
      functions->set_stream(handle, static_cast<cudaStream_t>(device.stream())), "its stream"));
  TQ_RETURN_IF_ERROR(Check(
      functions->set_workspace(handle, blas->workspace_.get(), kWorkspaceBytes), "its workspace"));
  // Parts of a sum are added in float too.
  const auto mode = static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                              CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  TQ_RETURN_IF_ERROR(Check(functions->set_math_mode(handle, mode), "its mode"));
  return blas;
}

Cublas::~Cublas() {
  if (handle_ != nullptr) (void)functions_->destroy(static_cast<cublasHandle_t>(handle_));
}

Status Cublas::StartProduct(const Product& p) const {
  for (const uint64_t size : {p.n, p.m, p.k, p.x_stride, p.w_stride, p.y_stride}) {
    if (size < 1 || size > INT32_MAX) {
      return InvalidArgument("cuBLAS: a size of {}: must be from 1 to {}", size, INT32_MAX);
    }
  }
  const float one = 1, zero = 0;
  const auto as_int = [](uint64_t size) { return static_cast<int>(size); };
  // cuBLAS has columns together: rows of y are its columns.
  return Check(
      functions_->gemm(static_cast<cublasHandle_t>(handle_), CUBLAS_OP_T, CUBLAS_OP_N, as_int(p.m),
                       as_int(p.n), as_int(p.k), &one, p.w, CUDA_R_16F, as_int(p.w_stride), p.x,
                       CUDA_R_16F, as_int(p.x_stride), &zero, p.y, CUDA_R_16F, as_int(p.y_stride),
                       CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "a product");
}

}  // namespace tq
