// Where the state of every group of values of a tile lies among the tile's bytes: the
// layout of kernels/trellis/trellis_code.h turned round, from (row, column) to bits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/trellis/trellis_code.h"

namespace tq {

// A state: the 16 bits from bit `shift` of two little-endian words of the tile (the
// second word may be the first of another lane, or wrap round).
struct StatePlace {
  uint16_t first, second;  // byte offsets of the words in the tile
  uint8_t shift;           // 0..15
  uint16_t step;
};

struct TileMap {
  trellis::Code code;
  trellis::TileShape shape;
  int groups;                      // of `values` neighbouring columns, per row
  std::vector<StatePlace> places;  // [rows, groups]

  const StatePlace* row(int r) const { return places.data() + r * groups; }
};

// The map of a supported code; made once, kept for good.
const TileMap& TileMapOf(trellis::Code code);

// The state at a place, without the mask of state_bits.
inline uint32_t LoadState(const uint8_t* tile, StatePlace place) {
  const uint32_t low = tile[place.first] | uint32_t{tile[place.first + 1u]} << 8;
  const uint32_t high = tile[place.second] | uint32_t{tile[place.second + 1u]} << 8;
  return (low | high << 16) >> place.shift;
}

// Decodes row `row` of a tile: its first `columns` decoded integers (a multiple of the
// code's values or not), times `scale`.
void DecodeTileRow(const TileMap& map, const uint8_t* tile, int row, int columns, float scale,
                   float* out);

}  // namespace tq
