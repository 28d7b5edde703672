#include "device/cusolver.h"

#include <cusolverDn.h>

#include <string>
#include <utility>
#include <vector>

#include "device/shared_library.h"

namespace tq {
namespace {

// cuSOLVER has columns together: the lower triangle is its upper one.
constexpr cublasFillMode_t kLower = CUBLAS_FILL_MODE_UPPER;

Status Check(cusolverStatus_t status, std::string_view what) {
  if (status == CUSOLVER_STATUS_SUCCESS) return OkStatus();
  return FailedPrecondition("cuSOLVER: {}: error {}", what, static_cast<int>(status));
}

}  // namespace

struct Cusolver::Functions {
  explicit Functions(SharedLibrary loaded) : library(std::move(loaded)) {}

  SharedLibrary library;
  decltype(&cusolverDnCreate) create = nullptr;
  decltype(&cusolverDnDestroy) destroy = nullptr;
  decltype(&cusolverDnSetStream) set_stream = nullptr;
  decltype(&cusolverDnCreateParams) create_parameters = nullptr;
  decltype(&cusolverDnDestroyParams) destroy_parameters = nullptr;
  decltype(&cusolverDnXpotrf_bufferSize) workspace_size = nullptr;
  decltype(&cusolverDnXpotrf) factor = nullptr;

  Status FindAll() {
    TQ_RETURN_IF_ERROR(library.Find("cusolverDnCreate", create));
    TQ_RETURN_IF_ERROR(library.Find("cusolverDnDestroy", destroy));
    TQ_RETURN_IF_ERROR(library.Find("cusolverDnSetStream", set_stream));
    TQ_RETURN_IF_ERROR(library.Find("cusolverDnCreateParams", create_parameters));
    TQ_RETURN_IF_ERROR(library.Find("cusolverDnDestroyParams", destroy_parameters));
    TQ_RETURN_IF_ERROR(library.Find("cusolverDnXpotrf_bufferSize", workspace_size));
    return library.Find("cusolverDnXpotrf", factor);
  }
};

StatusOr<std::unique_ptr<Cusolver>> Cusolver::Load(const CudaDevice& device) {
  TQ_ASSIGN_OR_RETURN(
      SharedLibrary library,
      SharedLibrary::Load("cuSOLVER", "libcusolver.so." + std::to_string(CUSOLVER_VER_MAJOR)));
  auto functions = std::make_shared<Functions>(std::move(library));
  TQ_RETURN_IF_ERROR(functions->FindAll());
  std::unique_ptr<Cusolver> solver(new Cusolver);
  solver->functions_ = functions;
  cusolverDnHandle_t handle = nullptr;
  TQ_RETURN_IF_ERROR(Check(functions->create(&handle), "starting"));
  solver->handle_ = handle;
  TQ_RETURN_IF_ERROR(Check(
      functions->set_stream(handle, static_cast<cudaStream_t>(device.stream())), "its stream"));
  cusolverDnParams_t parameters = nullptr;
  TQ_RETURN_IF_ERROR(Check(functions->create_parameters(&parameters), "its parameters"));
  solver->parameters_ = parameters;
  return solver;
}

Cusolver::~Cusolver() {
  if (parameters_ != nullptr) {
    (void)functions_->destroy_parameters(static_cast<cusolverDnParams_t>(parameters_));
  }
  if (handle_ != nullptr) (void)functions_->destroy(static_cast<cusolverDnHandle_t>(handle_));
}

StatusOr<bool> Cusolver::FactorLower(const CudaDevice& device, uint64_t n, float* a) const {
  const auto handle = static_cast<cusolverDnHandle_t>(handle_);
  const auto parameters = static_cast<cusolverDnParams_t>(parameters_);
  const auto size = static_cast<int64_t>(n);
  size_t device_bytes = 0, host_bytes = 0;
  TQ_RETURN_IF_ERROR(
      Check(functions_->workspace_size(handle, parameters, kLower, size, CUDA_R_32F, a, size,
                                       CUDA_R_32F, &device_bytes, &host_bytes),
            "the workspace of a factorisation"));
  TQ_ASSIGN_OR_RETURN(const DeviceMemory workspace,
                      device.Allocate(device_bytes, "workspace of a factorisation"));
  std::vector<uint8_t> host_workspace(host_bytes);
  TQ_ASSIGN_OR_RETURN(const DeviceMemory info,
                      device.Allocate(sizeof(int), "the outcome of a factorisation"));
  TQ_RETURN_IF_ERROR(
      Check(functions_->factor(handle, parameters, kLower, size, CUDA_R_32F, a, size, CUDA_R_32F,
                               workspace.get(), device_bytes, host_workspace.data(), host_bytes,
                               static_cast<int*>(info.get())),
            "a factorisation"));
  int outcome = 0;  // i > 0: the i-th pivot is not positive
  TQ_RETURN_IF_ERROR(device.Download(info.get(), sizeof(outcome), &outcome));
  TQ_RETURN_IF_ERROR(device.Synchronize());
  if (outcome < 0) return FailedPrecondition("cuSOLVER: a factorisation: argument {}", -outcome);
  return outcome == 0;
}

}  // namespace tq
