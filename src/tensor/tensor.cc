#include "tensor/tensor.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>

#include "base/checked.h"
#include "tensor/mapped_file.h"

namespace tq {

std::string ShapeToString(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

StatusOr<uint64_t> NumElements(const Shape& shape) {
  const auto product = CheckedProduct(shape);
  if (!product) return InvalidArgument("shape {}: the product overflows", ShapeToString(shape));
  return *product;
}

StatusOr<uint64_t> NumBytes(const Shape& shape, DType dtype) {
  TQ_ASSIGN_OR_RETURN(const uint64_t elements, NumElements(shape));
  const auto bytes = CheckedMul<uint64_t>(elements, DTypeSize(dtype));
  if (!bytes) return InvalidArgument("shape {}: the size overflows", ShapeToString(shape));
  return *bytes;
}

StatusOr<std::shared_ptr<uint8_t>> AllocateAligned(uint64_t bytes, std::string_view what) {
  constexpr uint64_t kAlignment = 64;
  const auto padded = CheckedAdd<uint64_t>(bytes, kAlignment);
  void* memory =
      padded ? std::aligned_alloc(kAlignment, *padded / kAlignment * kAlignment) : nullptr;
  if (memory == nullptr) return ResourceExhausted("{}: cannot allocate {} bytes", what, bytes);
  return std::shared_ptr<uint8_t>(static_cast<uint8_t*>(memory), std::free);
}

uint64_t TensorView::num_elements() const {
  uint64_t product = 1;
  for (uint64_t d : shape) product *= d;
  return product;
}

Tensor Tensor::Mapped(TensorView view, std::shared_ptr<const MappedFile> file) {
  const MappedFile* mapped = file.get();
  Tensor tensor(std::move(view), std::move(file));
  tensor.file_ = mapped;
  return tensor;
}

void Tensor::DropPages(uint64_t offset, uint64_t size) const {
  if (file_ == nullptr) return;
  file_->DropPages(static_cast<uint64_t>(view_.data - file_->data()) + offset, size);
}

StatusOr<Tensor> Tensor::Zeros(DType dtype, Shape shape) {
  TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(shape, dtype));
  TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(bytes, "tensor"));
  std::memset(memory.get(), 0, bytes);
  const uint8_t* data = memory.get();
  return Tensor({dtype, std::move(shape), data}, std::move(memory));
}

StatusOr<Tensor> Tensor::FromBytes(DType dtype, Shape shape, std::span<const uint8_t> bytes) {
  TQ_ASSIGN_OR_RETURN(const uint64_t expected, NumBytes(shape, dtype));
  if (expected != bytes.size()) {
    return InvalidArgument("shape {} of {} holds {} bytes, not {}", ShapeToString(shape),
                           DTypeName(dtype), expected, bytes.size());
  }
  TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(expected, "tensor"));
  if (!bytes.empty()) std::memcpy(memory.get(), bytes.data(), bytes.size());
  const uint8_t* data = memory.get();
  return Tensor({dtype, std::move(shape), data}, std::move(memory));
}

Status ConvertToFloat(const TensorView& view, float* out) {
  const uint64_t n = view.num_elements();
  // Source bytes need not be aligned in a mapped file, hence the copies by memcpy.
  const auto load = [&view](uint64_t i, auto value) {
    std::memcpy(&value, view.data + i * sizeof(value), sizeof(value));
    return value;
  };
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(out, view.data, n * sizeof(float));
      return OkStatus();
    case DType::kF16:
      for (uint64_t i = 0; i < n; ++i) out[i] = HalfToFloat(load(i, uint16_t{}));
      return OkStatus();
    case DType::kBF16:
      for (uint64_t i = 0; i < n; ++i) out[i] = BFloat16ToFloat(load(i, uint16_t{}));
      return OkStatus();
    case DType::kF64:
      for (uint64_t i = 0; i < n; ++i) out[i] = static_cast<float>(load(i, double{}));
      return OkStatus();
    default:
      return Unimplemented("dtype {}: no floating-point type", DTypeName(view.dtype));
  }
}

}  // namespace tq
