#include "device/cuda_device.h"

#include <cuda_runtime_api.h>

namespace tq {
namespace {

constexpr int kOldestMajor = 8;  // sm_80: cp.async, mma of 8-bit integers with 32 columns

Status OpenError(cudaError_t error) {
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    if (driver == 0) return FailedPrecondition("--device cuda: no NVIDIA driver is installed");
    return FailedPrecondition(
        "--device cuda: the driver supports CUDA {}.{}, this program needs {}.{}", driver / 1000,
        driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  }
  if (error == cudaErrorNoDevice) return NotFound("--device cuda: no CUDA device is there");
  return FailedPrecondition("--device cuda: {}", cudaGetErrorString(error));
}

}  // namespace

StatusOr<std::shared_ptr<CudaDevice>> CudaDevice::Open(int index) {
  int devices = 0;
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return OpenError(error);
  if (index < 0 || index >= devices) {
    return NotFound("--device cuda: no device {}, the machine has {}", index, devices);
  }
  cudaDeviceProp properties;
  error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) return OpenError(error);
  if (properties.major < kOldestMajor) {
    return Unimplemented("--device cuda: {} is of sm_{}{}, at least sm_{}0 is needed",
                         properties.name, properties.major, properties.minor, kOldestMajor);
  }
  std::shared_ptr<CudaDevice> device(new CudaDevice);
  device->index_ = index;
  device->name_ = properties.name;
  device->multiprocessors_ = properties.multiProcessorCount;
  device->shared_bytes_ = static_cast<int>(properties.sharedMemPerMultiprocessor);
  device->block_shared_bytes_ = properties.sharedMemPerBlockOptin;
  error = cudaSetDevice(index);
  if (error != cudaSuccess) return OpenError(error);
  cudaStream_t stream = nullptr;
  error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return OpenError(error);
  device->stream_ = stream;
  return device;
}

CudaDevice::~CudaDevice() {
  if (stream_ != nullptr) (void)cudaStreamDestroy(static_cast<cudaStream_t>(stream_));
}

Status CudaDevice::Check(int error, std::string_view what) {
  if (error == cudaSuccess) return OkStatus();
  return FailedPrecondition("CUDA: {}: {}", what,
                            cudaGetErrorString(static_cast<cudaError_t>(error)));
}

StatusOr<uint64_t> CudaDevice::FreeBytes() const {
  size_t free = 0, total = 0;
  TQ_RETURN_IF_ERROR(Check(cudaMemGetInfo(&free, &total), "asking for free memory"));
  return free;
}

StatusOr<DeviceMemory> CudaDevice::Allocate(uint64_t bytes, std::string_view what) const {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // not sticky: the device is of use still
    TQ_ASSIGN_OR_RETURN(const uint64_t free, FreeBytes());
    return ResourceExhausted("{}: {} takes {} bytes, {} are free", name_, what, bytes, free);
  }
  TQ_RETURN_IF_ERROR(Check(error, what));
  return DeviceMemory(memory, [](void* p) { (void)cudaFree(p); });
}

StatusOr<DeviceMemory> CudaDevice::AllocateHost(uint64_t bytes, std::string_view what) const {
  void* memory = nullptr;
  TQ_RETURN_IF_ERROR(Check(cudaMallocHost(&memory, bytes == 0 ? 1 : bytes), what));
  return DeviceMemory(memory, [](void* p) { (void)cudaFreeHost(p); });
}

Status CudaDevice::Upload(const void* host, uint64_t bytes, void* device) const {
  return Check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice,
                               static_cast<cudaStream_t>(stream_)),
               "copying to the device");
}

Status CudaDevice::Download(const void* device, uint64_t bytes, void* host) const {
  return Check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost,
                               static_cast<cudaStream_t>(stream_)),
               "copying from the device");
}

Status CudaDevice::Fill(void* device, uint8_t byte, uint64_t bytes) const {
  return Check(cudaMemsetAsync(device, byte, bytes, static_cast<cudaStream_t>(stream_)),
               "filling memory");
}

Status CudaDevice::Synchronize() const {
  return Check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)), "running");
}

StatusOr<CudaGraph> CudaGraph::Record(const CudaDevice& device,
                                      const std::function<Status()>& body) {
  const auto stream = static_cast<cudaStream_t>(device.stream());
  TQ_RETURN_IF_ERROR(CudaDevice::Check(
      cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a graph"));
  const Status status = body();
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream, &graph);
  const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> owner(graph, cudaGraphDestroy);
  TQ_RETURN_IF_ERROR(status);
  TQ_RETURN_IF_ERROR(CudaDevice::Check(error, "recording a graph"));
  cudaGraphExec_t executable = nullptr;
  TQ_RETURN_IF_ERROR(
      CudaDevice::Check(cudaGraphInstantiate(&executable, graph, 0), "making a graph"));
  CudaGraph result;
  result.stream_ = stream;
  result.executable_ = std::shared_ptr<void>(
      executable, [](void* p) { (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(p)); });
  return result;
}

Status CudaGraph::Launch() const {
  return CudaDevice::Check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_.get()),
                                           static_cast<cudaStream_t>(stream_)),
                           "starting a graph");
}

}  // namespace tq
