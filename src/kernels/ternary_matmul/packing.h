// How ternary weights lie in memory: 2 bits or 1.6 bits each.
//
// A weight is t in {-1, 0, 1}, stored as u = t + 1. Weights lie in tiles of 32 rows and 128 bytes,
// tiles along the columns of 32 rows one after the other, then the next 32 rows. Byte 4 r + c of a
// tile holds weights of row r:
//
//   k2Bits  16 columns: bits 2 p and 2 p + 1 hold u of column 4 p + c, p = 0..3
//   kBase3  20 columns: u0..u4 of columns c, 4 + c, .., 16 + c are digits of a fraction in base 3,
//             byte = ceil(256 v / 243),   v = 81 u0 + 27 u1 + 9 u2 + 3 u3 + u4
//           which multiplications by 3 give back, first one first. In bytes, modulo 256:
//             f_0 = byte,   f_{k+1} = 3 f_k,   u_k = (3 f_k - f_{k+1}) / 256
//           (An error of byte < 1 is 3^k in f_k, which is below the 256 / 243 * 3^k that f_k is
//           away from the next digit.) With s_k = f_k - 128 as a signed byte, s_{k+1} = 3 s_k as
//           well, and 3 s_k - s_{k+1} = 256 t_k.
//
// So a group is 4 columns of 32 rows, of which a tile has 4 or 5. Rows and columns that fill up the
// last tiles hold t = 0; products do not depend on what they hold.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tq::ternary {

enum class Packing : uint8_t { k2Bits, kBase3 };
inline constexpr Packing kAllPackings[] = {Packing::k2Bits, Packing::kBase3};
inline constexpr int kNumPackings = sizeof(kAllPackings) / sizeof(kAllPackings[0]);

inline constexpr int kTileRows = 32;
inline constexpr int kTileBytes = 128;
inline constexpr int kGroupColumns = 4;

constexpr int TileGroups(Packing packing) { return packing == Packing::k2Bits ? 4 : 5; }
constexpr int TileColumns(Packing packing) { return kGroupColumns * TileGroups(packing); }
inline constexpr int kMaxTileColumns = 20;
// Columns that whole tiles of any packing fill.
inline constexpr int kColumnMultiple = 80;

// Whether a byte is one that PackTile writes: 81 of 256 with 2 bits (u = 3 is none), 243 with base
// 3. Every byte decodes to weights in {-1, 0, 1, 2}, or {-1, 0, 1} in base 3.
constexpr bool IsCode(Packing packing, uint8_t byte) {
  if (packing == Packing::k2Bits) return (byte & byte >> 1 & 0x55) == 0;
  return static_cast<uint8_t>(byte * 243) < 243;  // 243 byte - 256 v, of the largest v not above
}
// The first of `n` bytes that is no code; n where all are.
size_t FindNoCode(Packing packing, const uint8_t* bytes, size_t n);

// Packs trits [rows][stride] in {-1, 0, 1}, up to 32 rows of up to TileColumns, with zeros around
// them.
void PackTile(Packing packing, const int8_t* trits, size_t stride, int rows, int columns,
              uint8_t* tile);
// trits [32][TileColumns].
void UnpackTile(Packing packing, const uint8_t* tile, int8_t* trits);

}  // namespace tq::ternary
