// Ternary codes of a row, five in a byte: how bytes hold them, and plain packing and unpacking.
//
// A code is q = t + 1, t in {-1, 0, 1}. Columns are cut into chunks of 320, of which a row's last
// may have fewer. One of n columns takes w = ceil(n / 5) bytes, a whole one a cache line of 64;
// byte j holds columns j, w + j, .., 4 w + j, and t = 0 for those from n on, as u0 .. u4:
//
//   byte = ceil(256 v / 243),   v = 81 u0 + 27 u1 + 9 u2 + 3 u3 + u4
//
// That is a fraction in base 3, which multiplications by 3 give back first digit first, as in the
// tiles of ternary matrices (kernels/ternary_matmul/packing.h): every digit of a vector of bytes is
// the codes of columns that lie together. A row has ceil(cols / 5) bytes, whatever its chunks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tq::grouped {

inline constexpr size_t kChunkColumns = 320, kChunkBytes = 64, kTritsPerByte = 5;

// Never a function of its own, of which the linker might take a wider machine's.
[[gnu::always_inline]] constexpr size_t TritBytes(size_t cols) {
  return (cols + kTritsPerByte - 1) / kTritsPerByte;
}

// Digit u`place` of a byte. Each of the 256 bytes has digits 0 to 2.
[[gnu::always_inline]] constexpr uint8_t TritOf(uint8_t byte, size_t place) {
  constexpr uint8_t kPowers[kTritsPerByte] = {1, 3, 9, 27, 81};
  const auto fraction = static_cast<uint8_t>(byte * kPowers[place]);
  return static_cast<uint8_t>(3 * fraction >> 8);
}

// q [cols], each 0, 1 or 2, to and from bytes [TritBytes(cols)].
void PackTrits(const uint8_t* q, size_t cols, uint8_t* bytes);
void UnpackTrits(const uint8_t* bytes, size_t cols, uint8_t* q);

}  // namespace tq::grouped
