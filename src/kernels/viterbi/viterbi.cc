// Tables and dispatch of the Viterbi search.
#include "kernels/viterbi/viterbi.h"

#include "kernels/viterbi/target.h"

namespace tq::viterbi {
namespace {

using trellis::Code;

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
