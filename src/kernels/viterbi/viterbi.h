// Viterbi search: the path of states of a trellis code (kernels/trellis) that is
// nearest to given targets.
//
// A step n in state s costs |x_n - c(s)|^2 / 2 - |x_n|^2 / 2 = |c(s)|^2 / 2 - x_n . c(s).
// The hash bytes make that product short. With A = u0 + u2 - 255, B = u1 + u3 - 255 and
// v_i = 2 u_i - 255:
//
//   V = 1: c^2 / 2 - x c                            (c^2 / 2 as 2 floor(c^2 / 4))
//   V = 2: A^2 + B^2 - A (x0 + x1) - B (x0 - x1)
//   V = 4: |v|^2 / 2 - v . (H x / 2)                (H: signs of DecodeState)
//
//   V = 1, k >= 6: (x - c)^2, by its difference: see below
//
// All in 32-bit integers, exact but for the targets (x, x0 +- x1, H x / 2), which are
// rounded to fixed point: two products of int16 per lane and instruction, and the norm of
// A, B or v as their product with themselves. Costs carry CostBits fractional bits, the low
// k of them zero: there the search keeps which of the 2^k successors won. One minimum finds
// both, ties go to the lowest state, and every level gives the same path.
//
// Magnitudes, for |x| <= TargetLimit: a step costs at most 2^25.2 and at least -2^25 (V = 4:
// |v|^2 / 2 <= 130 050, |v . H x / 2| <= 255 * 2 |x| <= 1 020 000, times 2^5; V = 1, 2: less).
// Any two states are joined by ceil(16 / k) <= 8 steps, so costs of one step differ by less
// than 2^29.2; they are brought back to zero every 16 steps, in which they grow by less
// than 2^29.2. Forbidden states start at 2^30, above every allowed one, and are gone after 8
// steps. Nothing reaches 2^31.
//
// V = 1 with k >= 6 has errors of a few decoded units, too fine for costs whose low k bits are
// taken. There a target keeps 4 fractional bits, the cost of a step is the square of its
// difference to 16 c, exactly, and no winner is kept: the search keeps the costs of all steps,
// and the way back looks for the best successor again. A step costs at most (16 * (510 +
// 640))^2 = 3.4e8, and any two states are joined by ceil(16 / 6) = 3 steps, so costs differ by
// at most 1.02e9. From every step's the cost of overlap 0 one step before is taken. Forbidden
// states start at 2^30, above every allowed one, and are gone after 3 steps, at most 2^30 +
// 1.02e9 = 2.09e9 < 2^31.
//
// Time runs backwards: s_n = s_{n+1} << k | oldest bits, so best[q], q the low L - k bits
// of a state, expands to 2^k neighbouring states of the step before. The circle is closed
// by two searches, as in QTIP (Tseng et al., NeurIPS 2024): a free one over 2 * reach steps
// round step 0 finds the bits that overlap there, the second is made with them fixed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"
#include "kernels/trellis/trellis_code.h"
#include "kernels/viterbi/target.h"

namespace tq::viterbi {

// States of a table are grouped in the order of the search: 16 neighbours q of the low
// L - k bits, then the k high bits j, then the words.
inline constexpr int kTableLanes = 16;
constexpr size_t TableIndex(trellis::Code code, uint32_t state, int word) {
  const uint32_t j = state >> (code.state_bits - code.bits);
  const uint32_t q = state & ((1u << (code.state_bits - code.bits)) - 1);
  const size_t group = size_t{q / kTableLanes} << code.bits | j;
  return (group * Words(code.values) + word) * kTableLanes + q % kTableLanes;
}
constexpr size_t TableSize(trellis::Code code) {
  return (size_t{1} << code.state_bits) * Words(code.values);
}
// table: int32 [TableSize(code)].
void FillTable(trellis::Code code, int32_t* table);

struct Args {
  trellis::Code code;
  int steps;               // of the circle; at least 32
  int reach;               // half the steps of the free search; at most steps / 2
  const int32_t* table;    // FillTable
  const int32_t* targets;  // [tiles, steps, Words]
  int tiles;
  uint16_t* states;  // [tiles, steps]: the result
  uint8_t* scratch;  // ScratchBytes(code, steps, isa), aligned to 64
};

// Tiles that a level searches side by side; other numbers work, a multiple is fastest.
int BatchTiles(trellis::Code code, Isa isa);
size_t ScratchBytes(trellis::Code code, int steps, Isa isa);
void FindPaths(const Args& args, Isa isa);

// The levels. A batch of a level shares its table loads.
inline constexpr int kReferenceBatch = 1;
inline constexpr int kAvx2Batch = 2;
inline constexpr int kAvx512Batch = 4;

namespace reference {
void FindPaths(const Args& args);
}
#if TQ_X86
namespace avx2 {
void FindPaths(const Args& args);
}
namespace avx2vnni {
void FindPaths(const Args& args);
}
namespace avx512 {
void FindPaths(const Args& args);
}
#endif

// Scratch of the vector levels, per tile of a batch, but for squared differences, which keep
// steps + 1 rows of costs: two arrays of costs, with a gap of
// kCostLanes for each of the 2^k values of the top bits, and the winners of every step.
inline constexpr int kCostLanes = 16;
constexpr size_t TileCosts(trellis::Code code) {
  return (size_t{1} << (code.state_bits - code.bits)) + (size_t{kCostLanes} << code.bits);
}
// Winners per byte: 2, 4, 4 or 8 bits each for k = 2, 3, 4, 5.
constexpr int WinnersPerByte(int bits) { return bits == 2 ? 4 : bits == 5 ? 1 : 2; }
constexpr size_t WinnerBytes(trellis::Code code) {
  return (size_t{1} << (code.state_bits - code.bits)) / WinnersPerByte(code.bits);
}

}  // namespace tq::viterbi
