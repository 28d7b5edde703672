// Regrouping codes and activations for the device.
#include "kernels/cuda/trellis_units.h"

#include <cstring>
#include <initializer_list>

namespace tq::cuda {

using trellis::Code;
using trellis::TileShape;

uint64_t CodesBytes(Code code, uint64_t tile_rows, uint64_t cols) {
  return UnitsDown(code, tile_rows) * UnitsAcross(code, cols) *
         static_cast<uint64_t>(UnitBytes(code));
}

uint64_t ActivationBytes(Code code, uint64_t n, uint64_t cols) {
  return 2 * n * UnitsAcross(code, cols) * static_cast<uint64_t>(UnitColumns(code));
}

void PackCodes(Code code, const uint8_t* tiles, uint64_t tile_rows, uint64_t cols, uint8_t* units) {
  const TileShape shape = trellis::ShapeOf(code);
  const auto columns = static_cast<uint64_t>(shape.columns);
  const uint64_t tiles_across = (cols + columns - 1) / columns;
  const auto unit_bytes = static_cast<uint64_t>(UnitBytes(code));
  const auto together = static_cast<uint64_t>(UnitTileRows(code));
  std::memset(units, 0, CodesBytes(code, tile_rows, cols));
  for (uint64_t row = 0; row < tile_rows; ++row) {
    uint8_t* row_units = units + row / together * UnitsAcross(code, cols) * unit_bytes +
                         row % together * (unit_bytes / together);
    for (uint64_t t = 0; t < tiles_across; ++t, tiles += shape.bytes()) {
      uint8_t* out = row_units + t / kUnitTiles * unit_bytes + 2 * (t % kUnitTiles);
      for (int q = 0; q < shape.words; ++q) {
        for (int lane = 0; lane < trellis::kLanes; ++lane) {
          std::memcpy(out + q * kChunkBytes + 16 * lane, tiles + 64 * q + 2 * lane, 2);
        }
      }
    }
  }
}

void PackActivations(Code code, const int16_t* q, uint64_t n, uint64_t cols, uint8_t* out) {
  const TileShape shape = trellis::ShapeOf(code);
  const int slots = SlotsPerTile(code);
  for (uint64_t unit = 0; unit < UnitsAcross(code, cols); ++unit) {
    for (int c = 0; c < 4; ++c) {
      for (uint64_t row = 0; row < n; ++row) {
        for (int digit : {0, 1}) {
          for (int i = 0; i < kUnitTiles * slots; ++i) {
            const int column = i / slots * shape.columns + SlotColumn(code, c, i % slots);
            const uint64_t at =
                unit * static_cast<uint64_t>(UnitColumns(code)) + static_cast<uint64_t>(column);
            const int a = at < cols ? q[row * cols + at] : 0;
            const int low = LowDigit(a);
            *out++ = static_cast<uint8_t>(digit == 0 ? (a - low) / 128 : low);
          }
        }
      }
    }
  }
}

}  // namespace tq::cuda
