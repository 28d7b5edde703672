// Products of scalar codes in groups of columns (GPTQ, AWQ, round-to-nearest, ternary) with integer
// activations.
//
//   y[r] = sum over columns of scale[r, g] * (q[r, c] - zero[r, g]) * x[c],   q of 2 to 8 bits, or
//   trits
//
// The columns of x are cut into blocks of 32, rounded to integers a in [-127, 127] with one scale d
// a block (grouped_activations.h); groups are whole blocks. Of a block b the sums
//
//   S[r, b] = sum q a  (exact in int32: at most 32 * 255 * 127 = 1036320)   A[b] = sum a
//
// are floats without rounding, and y is formed from them in one order,
//
//   value = fma(-zero[r, g], A[b], S[r, b])        (exact where zeros are integers)
//   total[r, b mod P] = fma(value, scale[r, g] * d[b], total[r, b mod P])       b = 0, 1, ...
//   y[r] = SumPhases(total[r, 0 .. P))
//
// with P = 8 for 2 bits and 4 for others. That is the same to the bit on every instruction set,
// for any number of rows of x. Blocks behind the last column have a = 0, d = 0, A = 0.
//
// Three kernels per width and level, and one that reads scales and zeros:
//   gemv      4 rows of weights against one row of x, codes cut up as they pass
//   decode    32 rows into bytes, to be used for many rows of x
//   multiply  those against a panel of rows of x
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/grouped_matmul/trits.h"
#include "kernels/isa.h"

namespace tq::grouped {

// Widths of a code in bits; the first stands for trits, five in a byte (trits.h).
inline constexpr int kTrits = 1;
inline constexpr int kMinBits = kTrits, kMaxBits = 8, kNumWidths = kMaxBits - kMinBits + 1;
constexpr int LargestCode(int bits) { return bits == kTrits ? 2 : (1 << bits) - 1; }
constexpr size_t CodeBytes(int bits, size_t cols) {
  return bits == kTrits ? TritBytes(cols) : (cols * static_cast<size_t>(bits) + 7) / 8;
}
inline constexpr int kBlockColumns = 32;
// Rows of x are padded with zeros to whole multiples.
inline constexpr size_t kBlockMultiple = 8;
inline constexpr int kMaxActivation = 127;

// Rows of weights that gemv takes, and that are decoded together.
inline constexpr int kGemvRows = 4, kTileRows = 32;
// Most rows of x in a panel, over all levels.
inline constexpr int kMaxPanelRows = 12;
// Bytes of a block of decoded weights.
inline constexpr size_t kDecodedBlockBytes = size_t{kTileRows} * kBlockColumns;

constexpr int Phases(int bits) { return bits == 2 ? 8 : 4; }
// The order in which the totals of a row are added up, `stride` floats apart. Never a function of
// its own, of which the linker might take a wider machine's.
[[gnu::always_inline]] constexpr float SumPhases(const float* total, size_t stride, int phases) {
  float sums[4] = {};
  for (int i = 0; i < 4; ++i) {
    sums[i] = total[i * stride];
    if (phases == 8) sums[i] += total[(i + 4) * stride];
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// How the columns of a block follow each other in bytes, so that codes can be cut out of their
// bytes by masks: 2 bits: columns 0, 4, 8, ..., then 1, 5, ...; 4 bits: even ones, then odd ones;
// else as they are. These are the parts of a block, 4 of 8 bytes or 2 of 16.
constexpr int Parts(int bits) { return bits == 2 ? 4 : 2; }
constexpr int PartBytes(int bits) { return kBlockColumns / Parts(bits); }
// The column of the block that is byte `byte` of part `part`.
constexpr int ColumnOf(int bits, int part, int byte) {
  if (bits == 2) return 4 * byte + part;
  return bits == 4 ? 2 * byte + part : 16 * part + byte;
}

// A matrix, and where its codes may be read.
struct Weights {
  int bits = 0;
  size_t rows = 0, cols = 0;
  size_t groups = 0;                // of a row
  size_t group_blocks = 0;          // blocks of a group, 1 or more
  const uint8_t* codes = nullptr;   // rows of code_bytes: least significant bit first, or trits
  size_t code_bytes = 0;            // CodeBytes
  const uint16_t* scale = nullptr;  // IEEE half [rows, groups]
  // Zeros: IEEE half [rows, groups]; or integers of `bits` bits, packed as codes, in rows of
  // packed_bytes; or neither, which is 2^(bits - 1) throughout: of trits 1.
  const uint16_t* half_zero = nullptr;
  const uint8_t* packed_zero = nullptr;
  size_t packed_bytes = 0;
};

// A row of x for gemv. A vector of the level has `lanes` groups of 4 lanes, each of a block; a step
// is lanes * Parts / 2 blocks.
struct ActivationRow {
  size_t blocks = 0;          // a multiple of kBlockMultiple
  const int8_t* a = nullptr;  // [step][part][block of the step][PartBytes]
  // d and A of a block, 4 times each, at QuadOf(block).
  const float* scale = nullptr;
  const float* sum = nullptr;
};
// Where in quads of floats a block's are. 2 bits: a step's blocks of even number, then its others.
constexpr size_t QuadOf(int bits, size_t lanes, size_t block) {
  if (bits != 2) return block;
  const size_t step = block / (2 * lanes), i = block % (2 * lanes);
  return (2 * step + i % 2) * lanes + i / 2;
}

// y [4]: of rows `row` .. + 3; those from weights.rows on are undefined.
using GemvFn = void (*)(const Weights& weights, size_t row, const ActivationRow& x, float* y);
// Blocks [first, first + count) of rows `row` .. + 31 (undefined from weights.rows on) as bytes
// u [block][8][32 rows][4]; `first` and `count` multiples of kBlockMultiple, blocks up to the last
// column rounded up to that. What lies behind the last column is undefined.
using DecodeFn = void (*)(const Weights& weights, size_t row, size_t first, size_t count,
                          uint8_t* u);
// Groups [first, first + count) of rows `row` .. + 31 as floats: scale and zero [count][32]. Zeros
// behind the last group.
using ScalesFn = void (*)(const Weights& weights, size_t row, size_t first, size_t count,
                          float* scale, float* zero);

struct MultiplyArgs {
  const uint8_t* u;          // [blocks][8][32 rows][4]
  const int8_t* panel;       // [blocks][8][rows of x][4]
  const float* panel_scale;  // d [blocks][rows of x]
  const float* panel_sum;    // A, the same
  const float* scale;        // [groups][32 rows], from the group of the first block on
  const float* zero;         // the same
  size_t blocks;             // a multiple of kBlockMultiple, as the first block's number is
  size_t into_group;         // blocks of its group before the first block
  size_t group_blocks;
  float* totals;  // [P][rows of x][32 rows]: added to
};
using MultiplyFn = void (*)(const MultiplyArgs& args);

struct MatmulKernels {
  int bits;
  size_t lanes;    // see ActivationRow
  int panel_rows;  // most rows of x that `multiply` takes
  GemvFn gemv;
  DecodeFn decode;
  ScalesFn scales;
  MultiplyFn multiply[kMaxPanelRows];  // by rows of x, less one
};

// bits: kMinBits to kMaxBits.
const MatmulKernels& FindMatmulKernels(Isa isa, int bits);

// The one list of kernels, per level by width: it drives dispatch, tests and benchmarks.
struct MatmulTable {
  MatmulKernels kernels[kNumWidths];
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

}  // namespace tq::grouped
