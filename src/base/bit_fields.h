// Fields of up to 8 bits one behind the other, least significant bit first.
#pragma once

#include <cstdint>

namespace tq {

// Field `index`; reads no byte behind its own.
inline uint32_t FieldAt(const uint8_t* bytes, uint64_t index, uint32_t bits) {
  const uint64_t bit = index * bits;
  const uint32_t shift = bit % 8;
  uint32_t value = bytes[bit / 8] >> shift;
  if (shift + bits > 8) value |= static_cast<uint32_t>(bytes[bit / 8 + 1]) << (8 - shift);
  return value & ((1u << bits) - 1);
}

// Adds a field to bytes whose bits there are zero.
inline void PutField(uint8_t* bytes, uint64_t index, uint32_t bits, uint32_t value) {
  const uint64_t bit = index * bits;
  const uint32_t shifted = value << (bit % 8);
  bytes[bit / 8] |= static_cast<uint8_t>(shifted);
  if (shifted >> 8 != 0) bytes[bit / 8 + 1] |= static_cast<uint8_t>(shifted >> 8);
}

}  // namespace tq
