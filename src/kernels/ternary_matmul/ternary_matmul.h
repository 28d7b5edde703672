// Sums of ternary weights (packing.h) against integer activations.
//
// BitNet b1.58 (arXiv 2402.17764, section 2) rounds a row of x to integers a in [-127, 127] with
// one scale (ternary_activations.h). Products are of bytes u = t + 1, as machines multiply unsigned
// with signed bytes:
//
//   sum t a = sum u a - sum a,   y = (sum t a) * activation scale * weight scale
//
// All sums are exact in int32, so that every level gives the same bits. In base 3 one row of x
// never sees a digit,
//
//   256 sum_k u_k a_k = 3 sum_k f_k a_k - sum_k f_{k+1} a_k,
//
// where f_{k+1} is two byte additions away from f_k.
//
// Three kernels per packing and level:
//   gemv      a row of tiles against one row of x, decode fused with the dot product
//   decode    a row of tiles into bytes u, to be used for many rows of x
//   multiply  those against a panel of rows of x
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"
#include "kernels/ternary_matmul/packing.h"

namespace tq::ternary {

inline constexpr int kMaxActivation = 127;
// Columns that sums of u a, at most 254 each, in int32 may cover.
inline constexpr size_t kMaxColumns = size_t{1} << 23;

// Most rows of x in a panel, over all levels.
inline constexpr int kMaxPanelRows = 12;
// Bytes of decoded weights per group.
inline constexpr int kDecodedGroupBytes = kTileRows * kGroupColumns;

// a: int8, columns of whole tiles (zeros behind the last); activation_sum: of all a. sums [32], of
// t a: overwritten.
using GemvFn = void (*)(const uint8_t* tiles, size_t num_tiles, const int8_t* a,
                        int32_t activation_sum, int32_t* sums);
// u: uint8 [groups][32 rows][4 columns].
using DecodeFn = void (*)(const uint8_t* tiles, size_t num_tiles, uint8_t* u);
// panel: int8 [groups][rows of x][4]; sums [rows of x][32], of u a: added to.
using MultiplyFn = void (*)(const uint8_t* u, const int8_t* panel, size_t groups, int32_t* sums);

struct MatmulKernels {
  Packing packing;
  int panel_rows;  // most rows of x that `multiply` takes
  GemvFn gemv;
  DecodeFn decode;
  MultiplyFn multiply[kMaxPanelRows];  // by rows of x, less one
};

const MatmulKernels& FindMatmulKernels(Isa isa, Packing packing);

// The one list of kernels, per level in the order of kAllPackings: it drives dispatch, tests and
// benchmarks.
struct MatmulTable {
  MatmulKernels kernels[kNumPackings];
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
namespace neondot {
extern const MatmulTable kMatmulTable;
}

}  // namespace tq::ternary
