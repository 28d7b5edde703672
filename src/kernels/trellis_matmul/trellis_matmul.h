// Sums of trellis-coded weights against integer activations.
//
// The decoded weights of a step are sums of four hash bytes u0..u3 with signs, so their
// dot product with x is one of u with combined activations (trellis_code.h):
//
//   V = 1: v x                  = (u0 + u1 + u2 + u3 - 510) a,        a = x
//   V = 2: v0 x0 + v1 x1        = (u0 + u2 - 255) a0 + (u1 + u3 - 255) a1,
//                                 a0 = x0 + x1, a1 = x0 - x1
//   V = 4: v0 x0 + .. + v3 x3   = sum_i (u_i - 127.5) a_i,            a = H4 x
//
// One row of x: the a are integers in [-127, 127] with a scale d for every 32 columns (rounding to
// 8 bits adds a noise of about half a percent to a product). A row of weights has two sums for
// them, exact in int32: S0 of lanes 0 and 1 modulo 4, S1 of lanes 2 and 3. They are of the bytes
// as they are, and begin with minus their centre times the sum of the a. Floats add them up,
//
//   A0 <- fma(float(S0), d, A0),   A1 <- fma(float(S1), d, A1),
//   y = float((double(A0 + A1) + bias) * weight_scale)
//
// where bias is what the integer centre leaves (ByteCentre). That is the same on every instruction
// set, to the bit.
//
// Many rows of x: integers in [-8159, 8159] with one scale per row of x, summed exactly in int64,
// so that y does not depend on how many rows there are:
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
#include "kernels/trellis_matmul/constants.h"

namespace tq::trellis {

// Columns that share a scale.
inline constexpr int kScaleColumns = 32;
// Columns that a sum of words in int32 may cover. A row's sum is spread over two int32, by
// half of the columns: at most 1020 * 8159 * 512 / 2 = 2130478080 < 2^31 (V = 1; half of
// that for V = 2, a quarter for V = 4).
inline constexpr int kMaxWordColumns = 512;

// How the activations of a row lie in memory, in column order, padded with zeros to whole
// tiles. The unit is a group:
//   kWords  4 int16, for one row of 4 lanes (64 bits) of the tile in a window: the a_i of the 4
//           lanes; groups i = 0..V-1 for each 4 V columns
//   kBytes  16 int8, for the 4 hash bytes of a row of 4 lanes in a window (4 V columns): of
//           lanes 0, 2, 1, 3 in this order; V = 1: a0 a0 a0 a0; V = 2: a0 a1 a0 a1; V = 4: a0..a3
//   kHalves 8 int8, for the bytes of one half of the hash, of lanes 0 to 3. Both halves meet the
//           same for V = 1, a0 a0, and V = 2, a0 a1; V = 4 has a group for the low half, a0 a1, and
//           one for the high half, a2 a3
//   kMagnitudes  the magnitudes |a| of kBytes as 16 uint8, and 16 masks that make signed bytes of
//           hash bytes u: 0x80, u - 128; where a is negative 0x7f, 127 - u. Two products with
//           magnitudes are at most 2 * 127 * 128 < 2^15: vpmaddubsw saturates at none
enum class ActivationForm : uint8_t { kBytes, kHalves, kMagnitudes, kWords };

constexpr int GroupBytes(ActivationForm form) {
  if (form == ActivationForm::kWords || form == ActivationForm::kHalves) return 8;
  return form == ActivationForm::kBytes ? 16 : 32;
}
// Columns per group, on average over the groups of a V.
constexpr int GroupColumns(int values, ActivationForm form) {
  if (form == ActivationForm::kHalves && values == 4) return 8;
  return form == ActivationForm::kWords ? 4 : 4 * values;
}

// Of kScaleColumns activations of one row of x: what one is worth, and what S0 and S1 begin with.
// Of bytes as they are that is minus ByteCentre times the sums of a over lanes 0 and 1, and over
// lanes 2 and 3, modulo 4; with magnitudes, as -a (127 - u) = a (u - 128) + a, minus the sums of
// the negative a, as often as one is used.
struct ScaleGroup {
  int32_t start[2];
  float scale;
};

// Rows decoded and multiplied together: an mma fragment.
inline constexpr int kFragmentRows = 16;
inline constexpr int kMaxTileRows = 64;
// Most rows of x in a panel, over all levels.
inline constexpr int kMaxPanelRows = 12;
// Bytes of decoded operands (words) per column of a fragment.
inline constexpr int kDecodedBytesPerColumn = 2 * kFragmentRows;

// scales: one per kScaleColumns; sums [rows of a tile], A0 + A1: overwritten.
using GemvFn = void (*)(const uint8_t* tiles, size_t num_tiles, const uint8_t* activations,
                        const ScaleGroup* scales, float* sums);
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

// The kernels of a supported code at a level.
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
namespace avx512vnni {
extern const MatmulTable kMatmulTable;
}
namespace avx512 {
extern const MatmulTable kMatmulTable;
}
namespace avx512mul16 {
extern const MatmulTable kMatmulTable;
}
namespace neondot {
extern const MatmulTable kMatmulTable;
}

}  // namespace tq::trellis
