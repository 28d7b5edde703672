// grouped_codes.h in terms of simd::Vec; a file of one level includes its simd header first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/gemm/gemm_f32_levels.h"

namespace tq::gemm {
namespace {

// Where 16 codes of one width stand in their 2 * bits bytes: code i in the bytes at[i] and
// at[i] + 1, shifted.
struct CodePositions {
  alignas(64) uint8_t bytes[64];  // for a byte shuffle: 4 per code, the upper two 0
  alignas(64) int32_t shift[16];
};
constexpr CodePositions PositionsOf(int bits) {
  CodePositions p = {};
  for (int i = 0; i < 16; ++i) {
    const int byte = i * bits / 8;
    p.bytes[4 * i] = static_cast<uint8_t>(byte);
    // Byte 16 does not exist; it is asked for only where its bits are masked away.
    p.bytes[4 * i + 1] = static_cast<uint8_t>((byte + 1) % 16);
    p.bytes[4 * i + 2] = p.bytes[4 * i + 3] = 0x80;
    p.shift[i] = i * bits % 8;
  }
  return p;
}
constexpr CodePositions kPositions[] = {PositionsOf(2), PositionsOf(3), PositionsOf(4),
                                        PositionsOf(5), PositionsOf(6), PositionsOf(7),
                                        PositionsOf(8)};

void DecodeRow(const GroupedRow& row, float* out) {
  const CodePositions& positions = kPositions[row.bits - 2];
  const size_t stride = 2 * static_cast<size_t>(row.bits);
  size_t at = 0;
  for (size_t begin = 0, g = 0; begin < row.cols; begin += row.group_size, ++g) {
    const simd::Vec scale = simd::Set1(simd::HalfToFloatOne(row.scale[g]));
    const simd::Vec zero = simd::Set1(simd::HalfToFloatOne(row.zero[g]));
    const size_t end = begin + row.group_size < row.cols ? begin + row.group_size : row.cols;
    for (size_t c = begin; c < end; c += 16, at += stride) {
      uint8_t part[16] = {};
      const uint8_t* codes = row.codes + at;
      if (row.code_bytes - at < 16) {
        std::memcpy(part, codes, row.code_bytes - at);
        codes = part;
      }
      const simd::Vec q = simd::CodesToFloat(codes, positions.bytes, positions.shift, row.bits);
      const simd::Vec value = simd::Mul(scale, simd::Sub(q, zero));
      if (end - c >= 16) {
        simd::Store(out + c, value);
      } else {
        simd::StoreFirst(out + c, end - c, value);
      }
    }
  }
}

}  // namespace
}  // namespace tq::gemm
