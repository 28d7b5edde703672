#include "device/cublas.h"

#include <cublas_v2.h>

#include <initializer_list>
#include <string>
#include <utility>

#include "device/shared_library.h"

namespace tq {
namespace {

Status Check(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return OkStatus();
  return FailedPrecondition("cuBLAS: {}: error {}", what, static_cast<int>(status));
}

Status CheckSizes(std::initializer_list<uint64_t> sizes) {
  for (const uint64_t size : sizes) {
    if (size < 1 || size > INT32_MAX) {
      return InvalidArgument("cuBLAS: a size of {}: must be from 1 to {}", size, INT32_MAX);
    }
  }
  return OkStatus();
}

}  // namespace

struct Cublas::Functions {
  explicit Functions(SharedLibrary loaded) : library(std::move(loaded)) {}

  SharedLibrary library;
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  decltype(&cublasSetMathMode) set_math_mode = nullptr;
  decltype(&cublasSsyrk_v2) syrk = nullptr;
  // The one of its overloads that the library exports.
  cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                         const void*, const void*, cudaDataType, int, const void*, cudaDataType,
                         int, const void*, void*, cudaDataType, int, cublasComputeType_t,
                         cublasGemmAlgo_t) = nullptr;

  Status FindAll() {
    TQ_RETURN_IF_ERROR(library.Find("cublasCreate_v2", create));
    TQ_RETURN_IF_ERROR(library.Find("cublasDestroy_v2", destroy));
    TQ_RETURN_IF_ERROR(library.Find("cublasSetStream_v2", set_stream));
    TQ_RETURN_IF_ERROR(library.Find("cublasSetWorkspace_v2", set_workspace));
    TQ_RETURN_IF_ERROR(library.Find("cublasSetMathMode", set_math_mode));
    TQ_RETURN_IF_ERROR(library.Find("cublasSsyrk_v2", syrk));
    return library.Find("cublasGemmEx", gemm);
  }
};

StatusOr<std::unique_ptr<Cublas>> Cublas::Load(const CudaDevice& device) {
  TQ_ASSIGN_OR_RETURN(
      SharedLibrary library,
      SharedLibrary::Load("cuBLAS", "libcublas.so." + std::to_string(CUBLAS_VER_MAJOR)));
  auto functions = std::make_shared<Functions>(std::move(library));
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
  // Parts of a sum are added in float too, and float factors are taken as they are: TF32 would have
  // to be asked for.
  const auto mode = static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                              CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  TQ_RETURN_IF_ERROR(Check(functions->set_math_mode(handle, mode), "its mode"));
  return blas;
}

Cublas::~Cublas() {
  if (handle_ != nullptr) (void)functions_->destroy(static_cast<cublasHandle_t>(handle_));
}

template <typename T>
Status Cublas::Start(const ProductOf<T>& p, int type) const {
  TQ_RETURN_IF_ERROR(CheckSizes({p.n, p.m, p.k, p.x_stride, p.w_stride, p.y_stride}));
  const float one = 1, zero = 0;
  const auto as_int = [](uint64_t size) { return static_cast<int>(size); };
  const auto data_type = static_cast<cudaDataType>(type);
  // cuBLAS has columns together: rows of y are its columns.
  return Check(
      functions_->gemm(static_cast<cublasHandle_t>(handle_), p.w_by_k ? CUBLAS_OP_N : CUBLAS_OP_T,
                       CUBLAS_OP_N, as_int(p.m), as_int(p.n), as_int(p.k), &one, p.w, data_type,
                       as_int(p.w_stride), p.x, data_type, as_int(p.x_stride), &zero, p.y,
                       data_type, as_int(p.y_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "a product");
}

Status Cublas::StartProduct(const Product& product) const { return Start(product, CUDA_R_16F); }

Status Cublas::StartProduct(const FloatProduct& product) const {
  return Start(product, CUDA_R_32F);
}

Status Cublas::StartGram(const float* x, uint64_t n, uint64_t features, float* sum) const {
  TQ_RETURN_IF_ERROR(CheckSizes({n, features}));
  const float one = 1;
  const auto size = static_cast<int>(features);
  // With columns together x is its transpose [features, n], and the upper triangle the lower one.
  return Check(
      functions_->syrk(static_cast<cublasHandle_t>(handle_), CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N,
                       size, static_cast<int>(n), &one, x, size, &one, sum, size),
      "a sum of squares");
}

}  // namespace tq
