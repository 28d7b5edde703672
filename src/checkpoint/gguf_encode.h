// Floats to ggml's block formats: the other direction of gguf_blocks.h, for the types that we
// write. Deterministic, and the same on every instruction set that rounds IEEE floats.
//   F32, F16, BF16: to nearest even.
//   Q8_0  32 in 34: d, 32 signed bytes;                                    w = d q
//   Q5_0  32 in 22: d, 32 high bits, 16 x (low nibble: value i, high: value i + 16);
//                                                                          w = d (q - 16)
//   Q6_K 256 in 210: as in gguf_blocks.h;                                  w = (d scale) (q - 32)
//   Q4_K 256 in 144: d, dmin, 12 bytes of 8 scales and 8 minima of 6 bits, 128 bytes of which
//        each 32 hold two runs of 32 values, low nibbles and high ones;
//                                                        w = (d scale) q - (dmin minimum)
// Scales minimise the squared error: candidates, and the least-squares fit to what each of them
// rounds to.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "checkpoint/gguf_blocks.h"

namespace tq {

// ggml types that we write, by their numbers in a file.
enum class GgufEncoding : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ5_0 = 6,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30,
};

// Values and bytes of a block.
GgufBlocks BlocksOf(GgufEncoding type);

// Encodes `blocks` blocks of finite values. A magnitude that the type does not hold (F16 and all
// that have scales in half precision: above 65504; BF16: above 3.3895e38) is an error naming the
// element, and then nothing is promised about `out`.
Status EncodeBlocks(GgufEncoding type, const float* in, uint64_t blocks, uint8_t* out);

}  // namespace tq
