#include "checkpoint/plain_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"

namespace tq {

bool IsWeightType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

std::string PlaceOf(const SafetensorsDirectory& directory, std::string_view name) {
  return fmt::format("{}: tensor {}", directory.FileOf(name)->file().path().string(), Quote(name));
}

StatusOr<const SafetensorsEntry*> FindWeight(const SafetensorsDirectory& directory,
                                             std::string_view name) {
  const SafetensorsEntry* entry = directory.Find(name);
  if (entry == nullptr) {
    return NotFound("{}: tensor {} is missing", directory.folder().string(), Quote(name));
  }
  return entry;
}

StatusOr<SourceTensorInfo> DescribePlainWeight(const SafetensorsDirectory& directory,
                                               const TensorSpec& spec) {
  TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, FindWeight(directory, spec.name));
  if (entry->shape != spec.shape) {
    return InvalidArgument("{} has shape {}, config.json says {}", PlaceOf(directory, spec.name),
                           ShapeToString(entry->shape), ShapeToString(spec.shape));
  }
  if (!IsWeightType(entry->dtype)) {
    return Unimplemented("{}: weights of type {} are not supported", PlaceOf(directory, spec.name),
                         DTypeName(entry->dtype));
  }
  return SourceTensorInfo{spec.name, std::string(DTypeName(entry->dtype)), spec.shape,
                          entry->bytes};
}

StatusOr<Tensor> LoadPlainWeight(const SafetensorsDirectory& directory, std::string_view name) {
  TQ_ASSIGN_OR_RETURN(const SafetensorsEntry* entry, FindWeight(directory, name));
  const MappedFile& file = directory.FileOf(name)->file();
  TQ_ASSIGN_OR_RETURN(const uint64_t elements, NumElements(entry->shape));
  TQ_ASSIGN_OR_RETURN(const uint64_t bytes, NumBytes(entry->shape, DType::kF32));
  TQ_ASSIGN_OR_RETURN(auto memory, AllocateAligned(bytes, name));
  auto* out = reinterpret_cast<float*>(memory.get());
  const uint64_t width = DTypeSize(entry->dtype);
  constexpr uint64_t kPiece = 128 << 10;  // elements: half a megabyte at most
  std::vector<uint8_t> buffer(std::min(kPiece, elements) * width);
  for (uint64_t done = 0; done < elements; done += kPiece) {
    const uint64_t n = std::min(kPiece, elements - done);
    TQ_RETURN_IF_ERROR(file.ReadAt(entry->offset + done * width, buffer.data(), n * width));
    TQ_RETURN_IF_ERROR(ConvertToFloat({entry->dtype, {n}, buffer.data()}, out + done));
  }
  TQ_RETURN_IF_ERROR(CheckFinite(out, elements, file.path(), name));
  const uint8_t* data = memory.get();
  return Tensor({DType::kF32, entry->shape, data}, std::move(memory));
}

}  // namespace tq
