// The plain twin of the trellis kernels: StateAt and the hash bytes, one step at a time.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/trellis_matmul/trellis_matmul.h"

namespace tq::trellis::reference {
namespace {

// What the V activations of step (lane, window) meet: sums of its hash bytes.
template <Code C>
struct Words {
  int16_t word[C.values] = {};

  Words(const uint8_t* tile, int lane, int window) {
    const uint32_t h = StateAt(tile, C, lane * ShapeOf(C).windows + window) * kMultiplier;
    const uint32_t u[4] = {h & 255, (h >> 8) & 255, (h >> 16) & 255, h >> 24};
    // Byte i meets activation i mod V.
    for (int i = 0; i < C.values; ++i) {
      uint32_t sum = 0;
      for (int j = i; j < 4; j += C.values) sum += u[j];
      word[i] = static_cast<int16_t>(sum);
    }
  }
};

// Where activation 0 of (lane, window) is among the words of a row; the next ones follow 4
// words apart.
template <Code C>
constexpr int FirstWord(int lane, int window) {
  return TileColumn(C, lane, window) / (4 * C.values) * (4 * C.values) + lane % 4;
}

// Adds a tile's products to the two sums of each row.
template <Code C>
void AddTile(const uint8_t* tile, const int16_t* a, int32_t (*sums)[2]) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int j = 0; j < ShapeOf(C).windows; ++j) {
      const Words<C> words(tile, lane, j);
      int32_t& sum = sums[TileRow(C, lane, j)][lane % 4 / 2];
      for (int i = 0; i < C.values; ++i) sum += words.word[i] * a[FirstWord<C>(lane, j) + 4 * i];
    }
  }
}

template <Code C>
void Gemv(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
          const ScaleGroup* scales, float* sums) {
  constexpr TileShape kShape = ShapeOf(C);
  constexpr size_t kScaleTiles = kScaleColumns / kShape.columns;
  const auto* a = reinterpret_cast<const int16_t*>(activations);
  float totals[kShape.rows][2] = {};
  for (size_t t = 0; t < num_tiles; t += kScaleTiles) {
    const ScaleGroup& scale = scales[t / kScaleTiles];
    int32_t of_scale[kShape.rows][2];
    for (auto& row : of_scale) std::copy_n(scale.start, 2, row);
    for (size_t i = t; i < num_tiles && i < t + kScaleTiles; ++i) {
      AddTile<C>(tiles + i * kShape.bytes(), a + i * kShape.columns, of_scale);
    }
    for (int row = 0; row < kShape.rows; ++row) {
      for (int part : {0, 1}) {
        float& total = totals[row][part];
        total = std::fma(static_cast<float>(of_scale[row][part]), scale.scale, total);
      }
    }
  }
  for (int row = 0; row < kShape.rows; ++row) sums[row] = totals[row][0] + totals[row][1];
}

// decoded [groups][16 rows][4] int16: the factors of the words of a group.
template <Code C>
void Decode(const uint8_t* tiles, size_t num_tiles, int fragment, uint8_t* decoded) {
  constexpr TileShape kShape = ShapeOf(C);
  auto* out = reinterpret_cast<int16_t*>(decoded);
  for (size_t t = 0; t < num_tiles; ++t, out += kFragmentRows * kShape.columns) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int j = 0; j < kShape.windows; ++j) {
        const int row = TileRow(C, lane, j) - kFragmentRows * fragment;
        if (row < 0 || row >= kFragmentRows) continue;
        const Words<C> words(tiles + t * kShape.bytes(), lane, j);
        const int group = FirstWord<C>(lane, j) / 4;
        for (int i = 0; i < C.values; ++i) {
          out[((group + i) * kFragmentRows + row) * 4 + lane % 4] = words.word[i];
        }
      }
    }
  }
}

template <int N>
void Multiply(const uint8_t* decoded, const uint8_t* panel, size_t groups, int64_t* sums) {
  const auto* w = reinterpret_cast<const int16_t*>(decoded);
  const auto* a = reinterpret_cast<const int16_t*>(panel);
  for (size_t g = 0; g < groups; ++g, w += kFragmentRows * 4, a += N * 4) {
    for (int i = 0; i < N; ++i) {
      for (int row = 0; row < kFragmentRows; ++row) {
        for (int c = 0; c < 4; ++c) sums[i * kFragmentRows + row] += w[row * 4 + c] * a[i * 4 + c];
      }
    }
  }
}

constexpr int kPanelRows = 4;

template <Code C>
constexpr MatmulKernels Make() {
  return {C,          ActivationForm::kWords,
          kPanelRows, Gemv<C>,
          Decode<C>,  {Multiply<1>, Multiply<2>, Multiply<3>, Multiply<4>}};
}

template <size_t... I>
constexpr MatmulTable MakeTable(std::index_sequence<I...>) {
  return {{Make<kMatmulCodes[I]>()...}};
}

}  // namespace

constinit const MatmulTable kMatmulTable = MakeTable(std::make_index_sequence<kNumMatmulCodes>());

}  // namespace tq::trellis::reference
