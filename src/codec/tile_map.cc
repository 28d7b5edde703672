#include "codec/tile_map.h"

#include "base/status.h"

namespace tq {
namespace {

using trellis::Code;
using trellis::TileShape;

TileMap MakeTileMap(Code code) {
  TileMap map{code, trellis::ShapeOf(code), 0, {}};
  const TileShape& shape = map.shape;
  map.groups = shape.columns / code.values;
  map.places.resize(shape.rows * map.groups);
  const int words = trellis::kLanes * shape.words;
  const auto word_at = [&](int w) {
    w %= words;
    return static_cast<uint16_t>(64 * (w % shape.words) + 2 * (w / shape.words));
  };
  for (int lane = 0; lane < trellis::kLanes; ++lane) {
    for (int window = 0; window < shape.windows; ++window) {
      const int step = lane * shape.windows + window;
      const int bit = step * code.bits;
      const int group = trellis::TileColumn(code, lane, window) / code.values;
      map.places[trellis::TileRow(code, lane, window) * map.groups + group] = {
          word_at(bit / 16), word_at(bit / 16 + 1), static_cast<uint8_t>(bit % 16),
          static_cast<uint16_t>(step)};
    }
  }
  return map;
}

template <int kValues>
void DecodeRowOf(const TileMap& map, const uint8_t* tile, int row, int columns, uint32_t mask,
                 float scale, float* out) {
  const Code code{kValues, map.code.bits, map.code.state_bits};
  const StatePlace* places = map.row(row);
  int values[4] = {};  // room for every code: the compiler does not see that V is kValues
  int column = 0;
  for (; column + kValues <= columns; column += kValues) {
    trellis::DecodeState(code, LoadState(tile, *places++) & mask, values);
    for (int v = 0; v < kValues; ++v) out[column + v] = scale * static_cast<float>(values[v]);
  }
  if (column < columns) {
    trellis::DecodeState(code, LoadState(tile, *places) & mask, values);
    for (int v = 0; column + v < columns; ++v) {
      out[column + v] = scale * static_cast<float>(values[v]);
    }
  }
}

}  // namespace

const TileMap& TileMapOf(Code code) {
  // Index: code, then whether state_bits is 12.
  static const std::vector<TileMap> kMaps = [] {
    std::vector<TileMap> maps;
    // The layout does not depend on state_bits.
    for (Code each : trellis::kSupportedCodes) {
      maps.push_back(MakeTileMap(each));
      maps.push_back(maps.back());
      maps.back().code.state_bits = 12;
    }
    return maps;
  }();
  for (const TileMap& map : kMaps) {
    if (map.code == code) return map;
  }
  TQ_CHECK(false && "unsupported trellis code");
  return kMaps[0];
}

void DecodeTileRow(const TileMap& map, const uint8_t* tile, int row, int columns, float scale,
                   float* out) {
  const uint32_t mask = (1u << map.code.state_bits) - 1;
  switch (map.code.values) {
    case 1:
      return DecodeRowOf<1>(map, tile, row, columns, mask, scale, out);
    case 2:
      return DecodeRowOf<2>(map, tile, row, columns, mask, scale, out);
    default:
      return DecodeRowOf<4>(map, tile, row, columns, mask, scale, out);
  }
}

}  // namespace tq
