// How codes and activations of trellis products lie in device memory: pure host code and constants.
//
// Codes: a unit is `kUnitTiles` neighbouring tiles of one row of tiles, or of two where tiles have
// 16 rows, regrouped so that a thread loads 16 bytes at a time. Each of its rows of tiles has
// `words` chunks of 512 bytes; chunk q holds word q of lane i of all its tiles at byte 16 i, tile t
// at + 2 t. Units follow each other along their rows; tiles beyond the last are zeros.
//
// Activations: the integers of trellis_matmul.h for many rows of x, as two signed bytes each,
// a = 128 high + low, in two columns of the B operand of mma.m16n8k32, so that four rows of x
// share an operation:
//   [unit][c: 4][digit: 2 n][tile: 8][slot],  digit 2 b of row b high, 2 b + 1 low.
// Slots are the columns of a tile that lanes 4 g + c meet, in the order of their windows:
//   V = 1  c, 4 + c, 8 + c, 12 + c;  V = 2  2 c, 2 c + 1, 8 + 2 c, 8 + 2 c + 1;
//   V = 4  4 c .. 4 c + 3, 16 + 4 c .. 16 + 4 c + 3
#pragma once

#include <cstdint>

#include "kernels/trellis/trellis_code.h"

namespace tq::cuda {

inline constexpr int kUnitTiles = 8;
inline constexpr int kChunkBytes = 16 * trellis::kLanes;
// Rows of x in one launch: four share an mma.
inline constexpr int kMaxGemvRows = 16;

// Rows of tiles in a unit: activations are prepared once for 32 rows of weights at least.
constexpr int UnitTileRows(trellis::Code code) { return trellis::ShapeOf(code).rows == 16 ? 2 : 1; }
constexpr int UnitRows(trellis::Code code) {
  return UnitTileRows(code) * trellis::ShapeOf(code).rows;
}
constexpr int UnitBytes(trellis::Code code) {
  return UnitTileRows(code) * trellis::ShapeOf(code).words * kChunkBytes;
}
constexpr int UnitColumns(trellis::Code code) {
  return trellis::ShapeOf(code).columns * kUnitTiles;
}
constexpr int SlotsPerTile(trellis::Code code) { return trellis::ShapeOf(code).columns / 4; }
constexpr uint64_t UnitsAcross(trellis::Code code, uint64_t cols) {
  const auto unit = static_cast<uint64_t>(UnitColumns(code));
  return (cols + unit - 1) / unit;
}
constexpr uint64_t UnitsDown(trellis::Code code, uint64_t tile_rows) {
  const auto unit = static_cast<uint64_t>(UnitTileRows(code));
  return (tile_rows + unit - 1) / unit;
}
constexpr int SlotColumn(trellis::Code code, int c, int slot) {
  const int run = code.values;  // neighbouring columns of one window
  return slot / run * 4 * run + run * c + slot % run;
}

// The low digit of an activation, in [-64, 63]; the high one is (a - low) / 128, in [-64, 64].
constexpr int LowDigit(int a) { return ((a + 64) & 127) - 64; }

// Bytes of a matrix of `tile_rows` rows of tiles and of n rows of activations. The caller has
// checked that they fit (a matrix' codes do).
uint64_t CodesBytes(trellis::Code code, uint64_t tile_rows, uint64_t cols);
uint64_t ActivationBytes(trellis::Code code, uint64_t n, uint64_t cols);

// Regroups tiles [tile_rows][ceil(cols / tile columns)][tile bytes] into units.
void PackCodes(trellis::Code code, const uint8_t* tiles, uint64_t tile_rows, uint64_t cols,
               uint8_t* units);
// Lays out q [n][cols], |q| <= trellis::kMaxActivation, n <= kMaxGemvRows.
void PackActivations(trellis::Code code, const int16_t* q, uint64_t n, uint64_t cols, uint8_t* out);

}  // namespace tq::cuda
