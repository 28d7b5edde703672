// Sums of trellis-coded weights against int8 activations, in integers: the same on every
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
// The a are quantised to int8 in [-127, 127] with one scale per row of x (activations.h).
// A kernel sums products of bytes; the constants are one `bias` per row of x:
//
//   S = kSumFactor[V] * sum + bias,   y = float(S) * act_scale * weight_scale / kSumFactor[V]
//
// with factor 1, and 2 for V = 4 (its constant is a half). |S| <= 510 * 127 * cols, so
// int32 is safe up to kMaxSumColumns; partial sums may wrap on the way, S does not.
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

// Columns that one int32 sum may cover: 2^31 / (510 * 127) = 33156, rounded down to a
// power of two. Longer rows are summed in parts of this many columns.
inline constexpr size_t kMaxSumColumns = 32768;

// How the int8 activations of a row lie in memory. The unit is a group: what one row of
// 4 lanes (64 bits) of the tile needs for a window. In column order, padded with zeros to
// whole tiles:
//   kBytes          8 bytes. V = 1: a0 a0 a1 a1 a2 a2 a3 a3 (4 columns); V = 2: 8 columns
//                   in order; V = 4: for 16 columns a0 a1 of each of the 4 lanes, and in
//                   the next group a2 a3: low and high half of the hash.
//                   bias = -255 * (sum of the bytes)
//   kSignMagnitude  16 bytes: |a| of kBytes, then 0x80 (a >= 0) or 0x7f (a < 0), so that
//                   |a| * int8(u ^ mask) = a (u - 128) or a (u - 127), a product of bytes
//                   whose pairs do not saturate 16 bits. bias = sum of the |a|
//   kWords          4 int16: the a_i of the 4 lanes; groups i = 0..V-1 for each 4 V
//                   columns. bias = -255 * (sum of the words), for V = 1 twice that
enum class ActivationForm : uint8_t { kBytes, kSignMagnitude, kWords };

constexpr int GroupBytes(ActivationForm form) {
  return form == ActivationForm::kSignMagnitude ? 16 : 8;
}
// Columns per group, on average over the groups of a V.
constexpr int GroupColumns(int values, ActivationForm form) {
  return values == 1 || form == ActivationForm::kWords ? 4 : 8;
}
constexpr int SumFactor(int values) { return values == 4 ? 2 : 1; }

// Rows decoded and multiplied together: an mma fragment.
inline constexpr int kFragmentRows = 16;
inline constexpr int kMaxTileRows = 64;
// Most rows of x in a panel, over all levels.
inline constexpr int kMaxPanelRows = 12;
// Bytes of decoded operands per column of a fragment, at most.
inline constexpr int kMaxDecodedBytesPerColumn = 2 * kFragmentRows;

// partial [rows / 8][8][2] int32: the sum of row 8 i + j is the sum of its two numbers,
// modulo 2^32. `gemv` overwrites it.
using GemvFn = void (*)(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
                        int32_t* partial);
// `fragment`: rows 16 * fragment .. + 15 of the tiles. The layout of `decoded` is the level's own.
using DecodeFn = void (*)(const uint8_t* tiles, size_t num_tiles, int fragment, uint8_t* decoded);
// panel [groups][rows of x][group]; partial [rows of x][2][8][2] int32, added to.
using MultiplyFn = void (*)(const uint8_t* decoded, const uint8_t* panel, size_t groups,
                            int32_t* partial);

struct MatmulKernels {
  Code code;
  ActivationForm gemv_form, panel_form;
  int panel_rows;  // most rows of x that `multiply` takes
  GemvFn gemv;
  DecodeFn decode;
  MultiplyFn multiply[kMaxPanelRows];  // by rows of x, less one
};

// The codes with kernels: every supported (V, k) at both lengths of the state.
inline constexpr Code kMatmulCodes[] = {{4, 2, 16}, {4, 3, 16}, {2, 2, 16}, {2, 3, 16}, {2, 4, 16},
                                        {2, 5, 16}, {1, 2, 16}, {1, 3, 16}, {1, 4, 16}, {4, 2, 12},
                                        {4, 3, 12}, {2, 2, 12}, {2, 3, 12}, {2, 4, 12}, {2, 5, 12},
                                        {1, 2, 12}, {1, 3, 12}, {1, 4, 12}};
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
