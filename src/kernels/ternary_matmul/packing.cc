// Plain packing and unpacking: what the kernels' decoders are tested against.
#include "kernels/ternary_matmul/packing.h"

namespace tq::ternary {
namespace {

template <Packing kPacking>
size_t FindNoCodeOf(const uint8_t* bytes, size_t n) {
  // Blocks as a whole, in a form that compilers make vectors of.
  constexpr size_t kBlock = 4096;
  size_t at = 0;
  for (; at + kBlock <= n; at += kBlock) {
    uint8_t bad = 0;
    for (size_t i = 0; i < kBlock; ++i)
      bad |= static_cast<uint8_t>(!IsCode(kPacking, bytes[at + i]));
    if (bad != 0) break;
  }
  while (at < n && IsCode(kPacking, bytes[at])) ++at;
  return at;
}

// The byte of weights u of consecutive groups.
uint8_t Code(Packing packing, const int (&u)[5]) {
  if (packing == Packing::k2Bits) {
    return static_cast<uint8_t>(u[0] | u[1] << 2 | u[2] << 4 | u[3] << 6);
  }
  const int v = 81 * u[0] + 27 * u[1] + 9 * u[2] + 3 * u[3] + u[4];
  return static_cast<uint8_t>((256 * v + 242) / 243);
}

}  // namespace

size_t FindNoCode(Packing packing, const uint8_t* bytes, size_t n) {
  return packing == Packing::k2Bits ? FindNoCodeOf<Packing::k2Bits>(bytes, n)
                                    : FindNoCodeOf<Packing::kBase3>(bytes, n);
}

void PackTile(Packing packing, const int8_t* trits, size_t stride, int rows, int columns,
              uint8_t* tile) {
  const int groups = TileGroups(packing);
  for (int r = 0; r < kTileRows; ++r) {
    for (int c = 0; c < kGroupColumns; ++c) {
      int u[5] = {1, 1, 1, 1, 1};
      for (int g = 0; g < groups; ++g) {
        const int column = kGroupColumns * g + c;
        if (r < rows && column < columns) u[g] = trits[r * stride + column] + 1;
      }
      tile[kGroupColumns * r + c] = Code(packing, u);
    }
  }
}

void UnpackTile(Packing packing, const uint8_t* tile, int8_t* trits) {
  const int groups = TileGroups(packing), columns = TileColumns(packing);
  for (int r = 0; r < kTileRows; ++r) {
    for (int c = 0; c < kGroupColumns; ++c) {
      unsigned rest = tile[kGroupColumns * r + c];
      for (int g = 0; g < groups; ++g) {
        unsigned u;
        if (packing == Packing::k2Bits) {
          u = rest & 3;
          rest >>= 2;
        } else {
          u = 3 * rest >> 8;
          rest = 3 * rest & 255;
        }
        trits[columns * r + kGroupColumns * g + c] = static_cast<int8_t>(static_cast<int>(u) - 1);
      }
    }
  }
}

}  // namespace tq::ternary
