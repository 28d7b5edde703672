// Targets of the Viterbi search (viterbi.h) in fixed point: for every device, the same bits.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/trellis/trellis_code.h"

namespace tq::viterbi {

// Whether the costs of a code are squared differences.
constexpr bool SquaresDifferences(trellis::Code code) { return code.values == 1 && code.bits >= 6; }
inline constexpr int kDifferenceBits = 4;  // fractional bits of a difference

// int32 words, each a pair of int16, per step of a target and per state of a table.
constexpr int Words(int values) { return values == 4 ? 2 : 1; }
constexpr int CostBits(int values) { return values == 4 ? 5 : 6; }
// Targets are clamped to this many decoded units: beyond the largest decoded value, and
// small enough for int16 arithmetic.
constexpr float TargetLimit(int values) { return values == 4 ? 1000.0f : 640.0f; }

// Two int16 in one word, the first in the low half, as pmaddwd multiplies them.
constexpr int32_t Pair(int low, int high) {
  return static_cast<int32_t>(static_cast<uint32_t>(low & 0xFFFF) |
                              static_cast<uint32_t>(high & 0xFFFF) << 16);
}

// Shift of the table's values. For V = 2 and 4 the one that gives their product with
// themselves, A^2 + B^2 and |v|^2 = 2 (|v|^2 / 2), the cost's fractional bits.
constexpr int TableShift(trellis::Code code) {
  if (SquaresDifferences(code)) return kDifferenceBits;
  return code.values == 1 ? code.bits : code.values == 2 ? 3 : 2;
}

// To the nearest integer, the even one of two, for |x| < 2^22: what is left of x in the low bits
// of 1.5 * 2^23.
constexpr int RoundToInt(float x) {
  constexpr float kShifter = 12582912.0f;
  return std::bit_cast<int32_t>(x + kShifter) - std::bit_cast<int32_t>(kShifter);
}

constexpr float ClampTarget(float x, float limit) {
  if (!(x == x)) return 0;
  return x < -limit ? -limit : x > limit ? limit : x;
}

// One step's V target values (decoded units) as Words(V) words. NaN counts as 0.
constexpr void QuantizeTarget(trellis::Code code, const float* values, int32_t* words) {
  const float limit = TargetLimit(code.values);
  if (SquaresDifferences(code)) {
    words[0] = Pair(RoundToInt(ClampTarget(values[0], limit) * (1 << kDifferenceBits)), 0);
    return;
  }
  // Fractional bits: as many as complete the table's, rounded so that the cost's low k
  // bits are zero. The unit is a power of two, so that scaling is exact.
  const int bits = CostBits(code.values) - TableShift(code);
  const int zeros = code.bits > TableShift(code) ? code.bits - TableShift(code) : 0;
  const auto unit = static_cast<float>(1 << (bits - zeros));
  const auto negated = [&](float y) { return -RoundToInt(y * unit) * (1 << zeros); };
  const float x0 = ClampTarget(values[0], limit);
  if (code.values == 1) {
    words[0] = Pair(negated(x0), 2 << CostBits(1));
    return;
  }
  const float x1 = ClampTarget(values[1], limit);
  if (code.values == 2) {
    words[0] = Pair(negated(x0 + x1), negated(x0 - x1));
    return;
  }
  const float x2 = ClampTarget(values[2], limit), x3 = ClampTarget(values[3], limit);
  const float a = (x0 + x1) / 2, b = (x0 - x1) / 2;
  const float c = (x2 + x3) / 2, d = (x2 - x3) / 2;
  words[0] = Pair(negated(a + c), negated(b + d));
  words[1] = Pair(negated(a - c), negated(b - d));
}

}  // namespace tq::viterbi
