// Sums of trellis-coded weights against 14-bit activations, in integers: the same on every
// instruction set, to the bit.
//
// The decoded weights of a step are sums of four hash bytes u0..u3 with signs, so their
// dot product with x is one of u with combined activations (trellis_code.h):
//
//   V = 1: v x                  = (u0 + u1 + u2 + u3 - 510) a,        a = x
//   V = 2: v0 x0 + v1 x1        = (u0 + u2 - 255) a0 + (u1 + u3 - 255) a1,
//                                 a0 = x0 + x1, a1 = x0 - x1
//   V = 4: v0 x0 + .. + v3 x3   = sum_i (u_i - 127.5) a_i,            a = H4 x
//
// The a are quantised to integers in [-8159, 8159] with one scale per row of x
// (activations.h); eight bits would add a noise of nearly 1 % per product. A kernel sums
// products with the bytes as they are, in int64; their centres become one `bias` per row:
//
//   bias = -SumCentre(V) * (sum of the a),   y = float((sum + bias) * act_scale * weight_scale)
//
// in double arithmetic, where sum + bias is exact and the scales' product too.
//
// Three kernels per code and level:
//   gemv      a row of tiles against one row of x, decode fused with the dot product
//   decode    16 rows of a row of tiles into operands, to be used for many rows of x
//   multiply  those operands against a panel of rows of x
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"
#include "kernels/trellis/trellis_code.h"

namespace tq::trellis {

// The largest quantised activation. It splits into two digits of a byte,
//   a = 64 * high + low,   high = floor((a + 32) / 64) in [-127, 127],  low in [-32, 31]
inline constexpr int kMaxActivation = 8159;
// Columns that a sum of words in int32 may cover. A row's sum is spread over two int32, by
// half of the columns: at most 1020 * 8159 * 512 / 2 = 2130478080 < 2^31 (V = 1; half of
// that for V = 2, a quarter for V = 4).
inline constexpr int kMaxWordColumns = 512;
// The same for the digits against bytes: 1020 * 127 * 32768 / 2 = 2122383360 < 2^31.
inline constexpr int kMaxByteColumns = 32768;

// How the activations of a row lie in memory. The unit is a group: what one row of 4 lanes
// (64 bits) of the tile needs for a window. In column order, padded with zeros to whole
// tiles:
//   kWords  4 int16: the a_i of the 4 lanes; groups i = 0..V-1 for each 4 V columns
//   kBytes  8 int8, the high digits, then the 8 low digits, of: V = 1: a0 a0 a1 a1 a2 a2
//           a3 a3 (4 columns); V = 2: 8 columns in order; V = 4: for 16 columns a0 a1 of
//           each of the 4 lanes, and in the next group a2 a3: low and high half of the hash
enum class ActivationForm : uint8_t { kBytes, kWords };

constexpr int GroupBytes(ActivationForm form) { return form == ActivationForm::kBytes ? 16 : 8; }
// Columns per group, on average over the groups of a V.
constexpr int GroupColumns(int values, ActivationForm form) {
  return values == 1 || form == ActivationForm::kWords ? 4 : 8;
}
// The mean of what an activation is multiplied with.
constexpr double SumCentre(int values) { return 510.0 / values; }

// Rows decoded and multiplied together: an mma fragment.
inline constexpr int kFragmentRows = 16;
inline constexpr int kMaxTileRows = 64;
// Most rows of x in a panel, over all levels.
inline constexpr int kMaxPanelRows = 12;
// Bytes of decoded operands (words) per column of a fragment.
inline constexpr int kDecodedBytesPerColumn = 2 * kFragmentRows;

// sums [rows of a tile]: overwritten.
using GemvFn = void (*)(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
                        int64_t* sums);
// `fragment`: rows 16 * fragment .. + 15 of the tiles. The layout of `decoded` is the level's own.
using DecodeFn = void (*)(const uint8_t* tiles, size_t num_tiles, int fragment, uint8_t* decoded);
// panel [groups][rows of x][4] int16 (kWords), of at most kMaxWordColumns columns;
// sums [rows of x][16]: added to.
using MultiplyFn = void (*)(const uint8_t* decoded, const uint8_t* panel, size_t groups,
                            int64_t* sums);

struct MatmulKernels {
  Code code;
  ActivationForm gemv_form;
  int panel_rows;  // most rows of x that `multiply` takes
  GemvFn gemv;
  DecodeFn decode;
  MultiplyFn multiply[kMaxPanelRows];  // by rows of x, less one
};

// The codes with kernels: every supported (V, k) at both lengths of the state.
inline constexpr Code kMatmulCodes[] = {
    {4, 2, 16}, {4, 3, 16}, {2, 2, 16}, {2, 3, 16}, {2, 4, 16}, {2, 5, 16}, {1, 2, 16}, {1, 3, 16},
    {1, 4, 16}, {1, 5, 16}, {1, 6, 16}, {1, 8, 16}, {4, 2, 12}, {4, 3, 12}, {2, 2, 12}, {2, 3, 12},
    {2, 4, 12}, {2, 5, 12}, {1, 2, 12}, {1, 3, 12}, {1, 4, 12}, {1, 5, 12}, {1, 6, 12}, {1, 8, 12}};
inline constexpr size_t kNumMatmulCodes = sizeof(kMatmulCodes) / sizeof(kMatmulCodes[0]);

// The kernels of a supported code at a level; levels without kernels of their own fall to
// the next lower one.
const MatmulKernels& FindMatmulKernels(Isa isa, Code code);

// The one list of kernels, per level in the order of kMatmulCodes: it drives dispatch,
// tests and benchmarks.
struct MatmulTable {
  MatmulKernels kernels[kNumMatmulCodes];
};
namespace reference {
extern const MatmulTable kMatmulTable;
}
namespace avx2 {
extern const MatmulTable kMatmulTable;
}
namespace avx2vnni {
extern const MatmulTable kMatmulTable;
}
namespace avx512 {
extern const MatmulTable kMatmulTable;
}

}  // namespace tq::trellis
