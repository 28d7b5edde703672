// Element types of plain (unblocked) tensors, with safetensors' names.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace tq {

enum class DType : uint8_t { kF32, kF16, kBF16, kF64, kU8, kI8, kI16, kI32, kI64, kBool };

// Bytes per element.
uint64_t DTypeSize(DType dtype);
// "F32", "BF16", ...
std::string_view DTypeName(DType dtype);
std::optional<DType> DTypeFromName(std::string_view name);

// IEEE half and bfloat16, rounding to nearest even; portable twins of the kernels.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
inline float BFloat16ToFloat(uint16_t bits);
uint16_t FloatToBFloat16(float value);

inline float BFloat16ToFloat(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace tq
