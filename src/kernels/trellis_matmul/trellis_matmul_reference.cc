// The plain twin of the trellis kernels: StateAt and the hash bytes, one step at a time.
#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq::trellis::reference {
namespace {

// Bytes of the hash of step (lane, window), and the int8 activations they meet. A row of
// 4 lanes shares its groups; `group` is the first of its window.
template <Code C>
int32_t DotWindow(const uint8_t* tile, int lane, int window, const int8_t* activations) {
  constexpr TileShape kShape = ShapeOf(C);
  const uint32_t h = StateAt(tile, C, lane * kShape.windows + window) * kMultiplier;
  const int u0 = h & 255, u1 = (h >> 8) & 255, u2 = (h >> 16) & 255, u3 = h >> 24;
  const int column = TileColumn(C, lane, window);
  const int c = lane % 4;
  if constexpr (C.values == 1) {
    return (u0 + u1 + u2 + u3) * activations[2 * column];
  } else if constexpr (C.values == 2) {
    return (u0 + u2) * activations[column] + (u1 + u3) * activations[column + 1];
  } else {
    const int8_t* low = activations + column / 16 * 16 + 2 * c;
    const int8_t* high = low + 8;
    return u0 * low[0] + u1 * low[1] + u2 * high[0] + u3 * high[1];
  }
}

template <Code C>
void Gemv(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations, int32_t* partial) {
  constexpr TileShape kShape = ShapeOf(C);
  constexpr size_t kTileActivations = size_t{kShape.columns} * (C.values == 1 ? 2 : 1);
  uint32_t sums[kMaxTileRows] = {};
  for (size_t t = 0; t < num_tiles; ++t) {
    const uint8_t* tile = tiles + t * kShape.bytes();
    const auto* a = reinterpret_cast<const int8_t*>(activations + t * kTileActivations);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int j = 0; j < kShape.windows; ++j) {
        sums[TileRow(C, lane, j)] += static_cast<uint32_t>(DotWindow<C>(tile, lane, j, a));
      }
    }
  }
  for (int row = 0; row < kShape.rows; ++row) {
    partial[2 * row] = static_cast<int32_t>(sums[row]);
    partial[2 * row + 1] = 0;
  }
}

// decoded [groups][16 rows][4] int16: the factors of the words of a group.
template <Code C>
void Decode(const uint8_t* tiles, size_t num_tiles, int fragment, uint8_t* decoded) {
  constexpr TileShape kShape = ShapeOf(C);
  auto* out = reinterpret_cast<int16_t*>(decoded);
  for (size_t t = 0; t < num_tiles; ++t, out += kFragmentRows * kShape.columns) {
    const uint8_t* tile = tiles + t * kShape.bytes();
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int j = 0; j < kShape.windows; ++j) {
        const int row = TileRow(C, lane, j) - kFragmentRows * fragment;
        if (row < 0 || row >= kFragmentRows) continue;
        const uint32_t h = StateAt(tile, C, lane * kShape.windows + j) * kMultiplier;
        const int u[4] = {static_cast<int>(h & 255), static_cast<int>((h >> 8) & 255),
                          static_cast<int>((h >> 16) & 255), static_cast<int>(h >> 24)};
        const int group = TileColumn(C, lane, j) / (4 * C.values) * C.values;
        int16_t* at = out + (group * kFragmentRows + row) * 4 + lane % 4;
        constexpr int kStride = kFragmentRows * 4;
        if constexpr (C.values == 1) {
          at[0] = static_cast<int16_t>(u[0] + u[1] + u[2] + u[3]);
        } else if constexpr (C.values == 2) {
          at[0] = static_cast<int16_t>(u[0] + u[2]);
          at[kStride] = static_cast<int16_t>(u[1] + u[3]);
        } else {
          for (int i = 0; i < 4; ++i) at[i * kStride] = static_cast<int16_t>(u[i]);
        }
      }
    }
  }
}

template <int N>
void Multiply(const uint8_t* decoded, const uint8_t* panel, size_t groups, int32_t* partial) {
  const auto* w = reinterpret_cast<const int16_t*>(decoded);
  const auto* a = reinterpret_cast<const int16_t*>(panel);
  for (size_t g = 0; g < groups; ++g, w += kFragmentRows * 4, a += N * 4) {
    for (int i = 0; i < N; ++i) {
      for (int row = 0; row < kFragmentRows; ++row) {
        uint32_t sum = static_cast<uint32_t>(partial[(i * kFragmentRows + row) * 2]);
        for (int c = 0; c < 4; ++c) sum += static_cast<uint32_t>(w[row * 4 + c] * a[i * 4 + c]);
        partial[(i * kFragmentRows + row) * 2] = static_cast<int32_t>(sum);
      }
    }
  }
}

constexpr int kPanelRows = 4;

template <Code C>
constexpr MatmulKernels Make() {
  return {C,
          ActivationForm::kBytes,
          ActivationForm::kWords,
          kPanelRows,
          Gemv<C>,
          Decode<C>,
          {Multiply<1>, Multiply<2>, Multiply<3>, Multiply<4>}};
}

template <size_t... I>
constexpr MatmulTable MakeTable(std::index_sequence<I...>) {
  return {{Make<kMatmulCodes[I]>()...}};
}

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::reference
