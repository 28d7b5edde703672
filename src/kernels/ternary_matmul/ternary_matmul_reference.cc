// The portable twins: every weight unpacked and multiplied by itself.
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace tq::ternary::reference {
namespace {

template <Packing kPacking>
void Gemv(const uint8_t* tiles, size_t num_tiles, const int8_t* a, int32_t, int32_t* sums) {
  constexpr int kColumns = TileColumns(kPacking);
  for (int r = 0; r < kTileRows; ++r) sums[r] = 0;
  for (size_t t = 0; t < num_tiles; ++t, tiles += kTileBytes, a += kColumns) {
    int8_t trits[kTileRows][kColumns];
    UnpackTile(kPacking, tiles, trits[0]);
    for (int r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kColumns; ++c) sums[r] += trits[r][c] * a[c];
    }
  }
}

template <Packing kPacking>
void Decode(const uint8_t* tiles, size_t num_tiles, uint8_t* u) {
  for (size_t t = 0; t < num_tiles; ++t, tiles += kTileBytes) {
    int8_t trits[kTileRows][TileColumns(kPacking)];
    UnpackTile(kPacking, tiles, trits[0]);
    for (int g = 0; g < TileGroups(kPacking); ++g, u += kDecodedGroupBytes) {
      for (int i = 0; i < kDecodedGroupBytes; ++i) {
        const int column = kGroupColumns * g + i % kGroupColumns;
        u[i] = static_cast<uint8_t>(trits[i / kGroupColumns][column] + 1);
      }
    }
  }
}

template <int N>
void Multiply(const uint8_t* u, const int8_t* panel, size_t groups, int32_t* sums) {
  for (size_t g = 0; g < groups; ++g, u += kDecodedGroupBytes, panel += kGroupColumns * N) {
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < kDecodedGroupBytes; ++j) {
        sums[kTileRows * i + j / kGroupColumns] +=
            u[j] * panel[kGroupColumns * i + j % kGroupColumns];
      }
    }
  }
}

template <Packing kPacking>
constexpr MatmulKernels Make() {
  return {kPacking,
          4,
          Gemv<kPacking>,
          Decode<kPacking>,
          {Multiply<1>, Multiply<2>, Multiply<3>, Multiply<4>}};
}

}  // namespace

constinit const MatmulTable kMatmulTable = {{Make<Packing::k2Bits>(), Make<Packing::kBase3>()}};

}  // namespace tq::ternary::reference
