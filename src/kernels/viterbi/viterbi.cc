// Tables, targets and dispatch of the Viterbi search.
#include "kernels/viterbi/viterbi.h"

#include <algorithm>
#include <cmath>

namespace tq::viterbi {
namespace {

using trellis::Code;

// Two int16 in one word, the first in the low half, as pmaddwd multiplies them.
int32_t Pair(int low, int high) {
  return static_cast<int32_t>(static_cast<uint32_t>(low & 0xFFFF) |
                              static_cast<uint32_t>(high & 0xFFFF) << 16);
}

// Shift of the table's values. For V = 2 and 4 the one that gives their product with
// themselves, A^2 + B^2 and |v|^2 = 2 (|v|^2 / 2), the cost's fractional bits.
int TableShift(Code code) {
  if (SquaresDifferences(code)) return kDifferenceBits;
  return code.values == 1 ? code.bits : code.values == 2 ? 3 : 2;
}

// A level's search: tiles found together, and the function.
struct Search {
  int batch;
  void (*find_paths)(const Args& args);
  bool reference = false;  // other scratch
};

Search SearchOf(Isa isa) {
  switch (CommonIsa(isa)) {
#if TQ_X86
    case Isa::kAvx512:
      return {kAvx512Batch, avx512::FindPaths};
    case Isa::kAvx2Vnni:
      return {kAvx2Batch, avx2vnni::FindPaths};
    case Isa::kAvx2:
      return {kAvx2Batch, avx2::FindPaths};
#endif
    default:
      return {kReferenceBatch, reference::FindPaths, true};
  }
}

}  // namespace

void FillTable(Code code, int32_t* table) {
  const int shift = TableShift(code);
  for (uint32_t state = 0; state < 1u << code.state_bits; ++state) {
    const uint32_t h = state * trellis::kMultiplier;
    const int u0 = h & 255, u1 = (h >> 8) & 255, u2 = (h >> 16) & 255, u3 = h >> 24;
    const auto word = [&](int w) -> int32_t& { return table[TableIndex(code, state, w)]; };
    if (code.values == 1) {
      const int c = u0 + u1 + u2 + u3 - 510;
      word(0) = Pair(c << shift, SquaresDifferences(code) ? 0 : c * c / 4 - 32768);
    } else if (code.values == 2) {
      word(0) = Pair((u0 + u2 - 255) << shift, (u1 + u3 - 255) << shift);
    } else {
      const int v[4] = {2 * u0 - 255, 2 * u1 - 255, 2 * u2 - 255, 2 * u3 - 255};
      word(0) = Pair(v[0] << shift, v[1] << shift);
      word(1) = Pair(v[2] << shift, v[3] << shift);
    }
  }
}

void QuantizeTarget(Code code, const float* values, int32_t* words) {
  const float limit = TargetLimit(code.values);
  if (SquaresDifferences(code)) {
    const float x = std::isnan(values[0]) ? 0 : std::clamp(values[0], -limit, limit);
    words[0] = Pair(static_cast<int>(std::lrint(x * (1 << kDifferenceBits))), 0);
    return;
  }
  // Fractional bits: as many as complete the table's, rounded so that the cost's low k
  // bits are zero.
  const int bits = CostBits(code.values) - TableShift(code);
  const int zeros = std::max(0, code.bits - TableShift(code));
  const auto unit = static_cast<float>(1 << (bits - zeros));
  float x[4];
  for (int v = 0; v < code.values; ++v) {
    x[v] = std::isnan(values[v]) ? 0 : std::clamp(values[v], -limit, limit);
  }
  const auto negated = [&](float y) {
    return -static_cast<int>(std::lrint(y * unit)) * (1 << zeros);
  };
  if (code.values == 1) {
    words[0] = Pair(negated(x[0]), 2 << CostBits(1));
  } else if (code.values == 2) {
    words[0] = Pair(negated(x[0] + x[1]), negated(x[0] - x[1]));
  } else {
    const float a = (x[0] + x[1]) / 2, b = (x[0] - x[1]) / 2;
    const float c = (x[2] + x[3]) / 2, d = (x[2] - x[3]) / 2;
    words[0] = Pair(negated(a + c), negated(b + d));
    words[1] = Pair(negated(a - c), negated(b - d));
  }
}

int BatchTiles(Code, Isa isa) { return SearchOf(isa).batch; }

size_t ScratchBytes(Code code, int steps, Isa isa) {
  const Search search = SearchOf(isa);
  const size_t states = size_t{1} << (code.state_bits - code.bits);
  if (search.reference) return (2 * sizeof(int64_t) + steps) * states;
  if (SquaresDifferences(code)) return search.batch * sizeof(int32_t) * (steps + 1) * states;
  return search.batch * (2 * sizeof(int32_t) * TileCosts(code) + steps * WinnerBytes(code));
}

void FindPaths(const Args& args, Isa isa) { SearchOf(isa).find_paths(args); }

}  // namespace tq::viterbi
