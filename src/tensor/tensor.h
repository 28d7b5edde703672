// Shape, view and owner: TensorView points into storage that somebody keeps alive,
// Tensor shares ownership of its storage (its own buffer or a mapped file).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "tensor/dtype.h"

namespace tq {

class MappedFile;

using Shape = std::vector<uint64_t>;

// "[576, 1536]".
std::string ShapeToString(const Shape& shape);
// Elements and bytes of a shape; an error on overflow.
StatusOr<uint64_t> NumElements(const Shape& shape);
StatusOr<uint64_t> NumBytes(const Shape& shape, DType dtype);

// Memory aligned to 64 bytes (a cache line and an AVX-512 register), uninitialised.
// `what` is named in the error when memory is short.
StatusOr<std::shared_ptr<uint8_t>> AllocateAligned(uint64_t bytes, std::string_view what);

// Row-major elements somewhere in memory.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const uint8_t* data = nullptr;

  uint64_t num_elements() const;
  uint64_t num_bytes() const { return num_elements() * DTypeSize(dtype); }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data);
  }
};

// A view plus what keeps its bytes alive.
class Tensor {
 public:
  Tensor() = default;
  // Takes a view whose bytes live as long as `owner`.
  Tensor(TensorView view, std::shared_ptr<const void> owner)
      : view_(std::move(view)), owner_(std::move(owner)) {}
  // Takes a view into a mapped file.
  static Tensor Mapped(TensorView view, std::shared_ptr<const MappedFile> file);
  // Zero-filled.
  static StatusOr<Tensor> Zeros(DType dtype, Shape shape);
  // A copy of `values`, whose number must be the shape's.
  static StatusOr<Tensor> FromBytes(DType dtype, Shape shape, std::span<const uint8_t> bytes);
  template <class T>
  static StatusOr<Tensor> FromValues(DType dtype, Shape shape, std::span<const T> values) {
    return FromBytes(dtype, std::move(shape),
                     {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()});
  }

  const TensorView& view() const { return view_; }
  DType dtype() const { return view_.dtype; }
  const Shape& shape() const { return view_.shape; }
  const uint8_t* data() const { return view_.data; }
  // Only for tensors made by Zeros or FromBytes and not shared.
  uint8_t* mutable_data() { return const_cast<uint8_t*>(view_.data); }
  uint64_t num_elements() const { return view_.num_elements(); }
  uint64_t num_bytes() const { return view_.num_bytes(); }
  template <class T>
  const T* as() const {
    return view_.as<T>();
  }
  template <class T>
  T* mutable_as() {
    return reinterpret_cast<T*>(mutable_data());
  }

  // Tells that bytes [offset, offset + size) will not be read soon. Those of a tensor that was
  // made by Mapped leave memory until then; of others nothing happens.
  void DropPages(uint64_t offset, uint64_t size) const;

 private:
  TensorView view_;
  const MappedFile* file_ = nullptr;  // of Mapped; `owner_` keeps it
  std::shared_ptr<const void> owner_;
};

// All elements as float32; F32, F16, BF16 and F64 only, others are Unimplemented.
Status ConvertToFloat(const TensorView& view, float* out);

}  // namespace tq
