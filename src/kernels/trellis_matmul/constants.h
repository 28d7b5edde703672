// Numbers that products of trellis codes share on every device (trellis_matmul.h says what they are
// of). Free of other headers, for compilers of device code.
#pragma once

#include <cstddef>

#include "kernels/trellis/trellis_code.h"

namespace tq::trellis {

// The largest integers of one row of x and of many.
inline constexpr int kMaxByteActivation = 127;
inline constexpr int kMaxActivation = 8159;

// Activations whose largest is below count as zero: far below, kMaxActivation / largest would
// overflow.
inline constexpr float kSmallestActivation = 0x1p-110f;

// The mean of what an activation is multiplied with, and the integer that stands for it: what
// 128 for every byte makes, so that signed bytes need none. Bytes that an activation meets.
constexpr double SumCentre(int values) { return 510.0 / values; }
constexpr int ByteCentre(int values) { return 512 / values; }
constexpr int BytesPerActivation(int values) { return 4 / values; }

// The codes with kernels: every supported (V, k) at both lengths of the state.
inline constexpr Code kMatmulCodes[] = {
    {4, 2, 16}, {4, 3, 16}, {2, 2, 16}, {2, 3, 16}, {2, 4, 16}, {2, 5, 16}, {1, 2, 16}, {1, 3, 16},
    {1, 4, 16}, {1, 5, 16}, {1, 6, 16}, {1, 8, 16}, {4, 2, 12}, {4, 3, 12}, {2, 2, 12}, {2, 3, 12},
    {2, 4, 12}, {2, 5, 12}, {1, 2, 12}, {1, 3, 12}, {1, 4, 12}, {1, 5, 12}, {1, 6, 12}, {1, 8, 12}};
inline constexpr size_t kNumMatmulCodes = sizeof(kMatmulCodes) / sizeof(kMatmulCodes[0]);

}  // namespace tq::trellis
