// ggml's block formats: sizes and exact dequantisation. A block holds `values` weights of
// one row in `bytes` bytes; all scales are IEEE half precision.
//   Q4_0  32 in 18: d, 16 x (low nibble: value i, high: value i + 16);  w = d (q - 8)
//   Q4_1  32 in 20: d, m, nibbles as above;                             w = d q + m
//   Q8_0  32 in 34: d, 32 signed bytes;                                 w = d q
//   Q6_K 256 in 210: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales
//        (one per 16 values), d;                                        w = (d scale) (q - 32)
#pragma once

#include <cstdint>
#include <optional>

#include "checkpoint/gguf.h"

namespace tq {

struct GgufBlocks {
  uint64_t values = 0;
  uint64_t bytes = 0;
};
// Sizes of a type that we read; nothing for others.
std::optional<GgufBlocks> GgufBlockFormat(uint32_t type);

// Dequantises `blocks` blocks to blocks * values floats, in the order of operations written
// above, each rounded to float: bit-identical to the reference decoder of PyPI `gguf`.
void DequantizeBlocks(GgufType type, const uint8_t* in, uint64_t blocks, float* out);

}  // namespace tq
