// ggml's block formats: sizes and exact dequantisation. A block holds `values` weights of one
// row in `bytes` bytes; d, m and D, M are IEEE half precision, q the code of a value, v its
// place in the block.
//
//   Q4_0    32 in  18: d, nibbles                          w = d (q - 8)
//   Q4_1    32 in  20: d, m, nibbles                       w = d q + m
//   Q5_0    32 in  22: d, fifth bits, nibbles              w = d (q - 16)
//   Q5_1    32 in  24: d, m, fifth bits, nibbles           w = d q + m
//   Q8_0    32 in  34: d, signed bytes                     w = d q
//   IQ4_NL  32 in  18: d, nibbles                          w = d K[q]
//           16 bytes of nibbles: low ones are v = 0..15, high ones 16..31;
//           4 bytes of fifth bits: bit v of a little-endian number; K: 16 fixed levels
//
//   Q2_K   256 in  84: scales, pairs, D, M                 w = (D s) q - (M t)
//           16 scale bytes, one for 16 values: s low nibble, t high
//   Q3_K   256 in 110: top bits, pairs, scales, D          w = (D (s - 32)) (q - 4)
//           12 scale bytes, s of 6 bits for 16 values
//   Q4_K   256 in 144: D, M, scales, nibbles               w = (D s) q - (M t)
//   Q5_K   256 in 176: D, M, scales, top bits, nibbles     w = (D s) q - (M t)
//           12 scale bytes, s and t of 6 bits for 32 values
//   Q6_K   256 in 210: nibbles, pairs, scales, D           w = (D s) (q - 32)
//           16 signed scale bytes, one for 16 values
//   IQ4_XS 256 in 136: D, scale tops, scales, nibbles      w = (D (s - 32)) K[q]
//           s of 6 bits for 32 values; their nibbles as in IQ4_NL
//   TQ1_0  256 in  54: trits, D                            w = D (q - 1)
//   TQ2_0  256 in  66: pairs, D                            w = D (q - 1)
//
// F32, F16 and BF16 are blocks of one value. Where bits of 256 values lie is written beside
// the decoders.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "checkpoint/gguf.h"

namespace tq {

struct GgufBlocks {
  uint64_t values = 0;
  uint64_t bytes = 0;
};
// Sizes of a type that we read; nothing for others.
std::optional<GgufBlocks> GgufBlockFormat(uint32_t type);
// "F32, F16, Q4_0, ...": the types that we read.
std::string GgufTypesRead();

// The first block with a code that no encoder writes, though a decoder would read something:
// the fourth value of TQ2_0's pairs, and bytes of TQ1_0 that are no trits. All codes of the
// other types have a meaning.
std::optional<uint64_t> FirstUnsoundBlock(GgufType type, const uint8_t* in, uint64_t blocks);

// Dequantises `blocks` blocks to blocks * values floats, in the order of operations written
// above, each rounded to float: bit-identical to the reference decoder of PyPI `gguf`. A D, d,
// M or m that is not finite makes every value of its block not finite.
void DequantizeBlocks(GgufType type, const uint8_t* in, uint64_t blocks, float* out);

}  // namespace tq
