// The vector form of the Viterbi search, shared by the instruction sets. A file includes
// it inside its own namespace and an anonymous one, after defining
//
//   Vec (int32 lanes), kLanes (8 or 16), kBatch (tiles side by side),
//   Load, Store, Set1, Iota, Add, Sub, Sub16, Min, And, Or, ShiftLeft<n>, ShiftRight,
//   Select(mask, a, b) = (a & ~mask) | (b & mask),
//   Dot(sum, a, b): sum + the two products of int16 in each lane,
//   Expand<k>(p): lane i gets p[i >> k],
//   StoreBytes(p, x): the low bytes of the lanes.
//
// No include guard on purpose: each instruction set gets its own copy.

// Costs above every allowed one, and below overflow over the 16 steps before they are
// brought back.
constexpr int32_t kForbidden = 1 << 30;
constexpr int kRebaseEvery = 16;

// The inner loops must keep their vectors in registers.
#define TQ_INLINE inline __attribute__((always_inline))

// How the costs of kTiles tiles are laid out.
template <int kBits, int kTiles>
struct CostLayout {
  int overlaps;   // 2^(L - k)
  int top_shift;  // L - 2k

  // Where the cost of overlap q of tile t stands: 16 neighbours of each tile in turn, and
  // a gap between the 2^k runs that one vector of states reads, which would otherwise
  // compete for the same cache sets.
  TQ_INLINE int At(int q, int t) const {
    const int gap = top_shift >= 4 ? (q >> top_shift) * kCostLanes * kTiles : 0;
    return (q / kCostLanes * kTiles + t) * kCostLanes + q % kCostLanes + gap;
  }

  // The low k bits of the cost of overlap q: the top k bits of q, which are the winning
  // j if a state above q is chosen.
  TQ_INLINE Vec TopBits(int q) const {
    // The same for kLanes neighbours, but for k = 5 at L = 12.
    if (kBits < 5 || top_shift >= 4) return Set1(q >> top_shift);
    return ShiftRight(Add(Set1(q), Iota()), top_shift);
  }
};

// A batch of kTiles tiles of one code.
template <int kValues, int kBits, int kTiles>
class Search {
 public:
  explicit Search(const Args& args, int first_tile)
      : args_(args),
        layout_{1 << (args.code.state_bits - kBits), args.code.state_bits - 2 * kBits} {
    const size_t costs = kTiles * TileCosts(args.code);
    best_ = reinterpret_cast<int32_t*>(args.scratch);
    next_ = best_ + costs;
    uint8_t* winners = reinterpret_cast<uint8_t*>(next_ + costs);
    for (int t = 0; t < kTiles; ++t) {
      targets_[t] = args.targets + size_t(first_tile + t) * args.steps * kWords;
      winners_[t] = winners + t * WinnerBytes(args.code) * args.steps;
    }
  }

  void FindPaths(uint16_t* states) {
    uint32_t overlap[kTiles];
    for (int t = 0; t < kTiles; ++t) Start(t, 0);
    Run(0, args_.reach, false);
    Run(-args_.reach, args_.reach, true);
    for (int t = 0; t < kTiles; ++t) overlap[t] = Follow(t, Lowest(t), args_.reach, nullptr);
    for (int t = 0; t < kTiles; ++t) {
      Start(t, kForbidden);
      best_[layout_.At(overlap[t], t)] -= kForbidden;
    }
    Run(0, args_.steps, true);
    for (int t = 0; t < kTiles; ++t) {
      Follow(t, overlap[t], args_.steps, states + size_t(t) * args_.steps);
    }
  }

 private:
  static constexpr int kWords = Words(kValues);
  static constexpr int kPerByte = WinnersPerByte(kBits);
  static constexpr int kWinnerBits = 8 / kPerByte;
  static constexpr int kWinners = 1 << kBits;

  void Start(int t, int32_t cost) {
    for (int q = 0; q < layout_.overlaps; q += kLanes) {
      Store(best_ + layout_.At(q, t), Or(Set1(cost), layout_.TopBits(q)));
    }
  }

  // Steps first + count - 1 down to first, modulo the circle.
  void Run(int first, int count, bool keep_winners) {
    for (int i = count - 1; i >= 0; --i) {
      const int step = first + i < 0 ? first + i + args_.steps : first + i;
      if (keep_winners) {
        Step<true>(step, i);
      } else {
        Step<false>(step, i);
      }
      int32_t* swap = best_;
      best_ = next_;
      next_ = swap;
      // Not sooner: by then no overlap is forbidden any more.
      if ((count - i) % kRebaseEvery == 0 || i == 0) Rebase();
    }
  }

  template <bool kKeep>
  void Step(int step, int row) {
    // Copies: the stores below might change members, as far as the compiler knows.
    const CostLayout<kBits, kTiles> layout = layout_;
    const int32_t* best = best_;
    int32_t* next = next_;
    const int32_t* table = args_.table;
    Vec target[kTiles][kWords];
    uint8_t* winners[kTiles];
    for (int t = 0; t < kTiles; ++t) {
      for (int w = 0; w < kWords; ++w) target[t][w] = Set1(targets_[t][step * kWords + w]);
      winners[t] = winners_[t] + size_t(row) * (layout.overlaps / kPerByte);
    }
    for (int q = 0; q < layout.overlaps; q += kPerByte * kLanes) {
      Vec packed[kTiles];
#pragma GCC unroll 4
      for (int part = 0; part < kPerByte; ++part) {
        const int at = q + part * kLanes;
        const Vec mask = Set1(kWinners - 1);
        Vec least[kTiles];
        LeastCosts(layout, table, best, at, target, least);
        const Vec top = layout.TopBits(at);
        int32_t* to = next + layout.At(at, 0);
        for (int t = 0; t < kTiles; ++t) {
          Store(to + t * kCostLanes, Select(mask, least[t], top));
          if (!kKeep) continue;
          if (part == 0) {
            packed[t] = And(mask, least[t]);
          } else {
            const int shift = part * kWinnerBits;
            const Vec place = Set1((kWinners - 1) << shift);
            packed[t] = Select(place, packed[t], ShiftLeft(least[t], shift));
          }
        }
      }
      for (int t = 0; kKeep && t < kTiles; ++t) StoreBytes(winners[t] + q / kPerByte, packed[t]);
    }
  }

  // The least cost, winner in its low bits, over the 2^k states above each of kLanes
  // overlaps from q on.
  static TQ_INLINE void LeastCosts(const CostLayout<kBits, kTiles>& layout, const int32_t* table,
                                   const int32_t* best, int q, const Vec (*target)[kWords],
                                   Vec* least) {
    table += size_t(q / kTableLanes) * kWinners * kWords * kTableLanes + q % kTableLanes;
    const int below = q >> kBits;
    const int32_t* from = best + layout.At(below, 0);
    Costs(table, from, target, least);
    // The next j's costs are a constant further on, but for k = 5 at L = 12, where a run
    // is shorter than a vector.
    const size_t run = size_t(kTiles) * ((1 << layout.top_shift) + kCostLanes);
#pragma GCC unroll 4
    for (int j = 1; j < kWinners; ++j) {
      table += kWords * kTableLanes;
      if constexpr (kBits < 5) {
        from += run;
      } else {
        from = best + layout.At((j << layout.top_shift) + below, 0);
      }
      Vec cost[kTiles];
      Costs(table, from, target, cost);
      for (int t = 0; t < kTiles; ++t) least[t] = Min(least[t], cost[t]);
    }
  }

  // Costs of kLanes neighbouring states: `best` is their successors' cost, tile 0.
  static TQ_INLINE void Costs(const int32_t* table, const int32_t* best,
                              const Vec (*target)[kWords], Vec* cost) {
    Vec word[kWords], norm = Set1(0);
    for (int w = 0; w < kWords; ++w) {
      word[w] = Load(table + w * kTableLanes);
      if constexpr (kValues > 1) norm = Dot(norm, word[w], word[w]);
    }
    for (int t = 0; t < kTiles; ++t) {
      cost[t] = Expand<kBits>(best + t * kCostLanes);
      if constexpr (kValues > 1) cost[t] = Add(cost[t], norm);
      for (int w = 0; w < kWords; ++w) cost[t] = Dot(cost[t], word[w], target[t][w]);
    }
  }

  // Subtracts the cost of overlap 0 from all; the low bits stay.
  void Rebase() {
    for (int t = 0; t < kTiles; ++t) {
      const Vec base = Set1(best_[layout_.At(0, t)] & -kWinners);
      for (int q = 0; q < layout_.overlaps; q += kLanes) {
        int32_t* costs = best_ + layout_.At(q, t);
        Store(costs, Sub(Load(costs), base));
      }
    }
  }

  // The overlap of least cost, the lowest of equals (their low bits rise with q).
  uint32_t Lowest(int t) const {
    int lowest = 0;
    for (int q = 1; q < layout_.overlaps; ++q) {
      if (best_[layout_.At(q, t)] < best_[layout_.At(lowest, t)]) lowest = q;
    }
    return lowest;
  }

  uint32_t Follow(int t, uint32_t q, int count, uint16_t* states) const {
    for (int i = 0; i < count; ++i) {
      const uint8_t* row = winners_[t] + size_t(i) * (layout_.overlaps / kPerByte);
      const uint32_t group = q / (kPerByte * kLanes), part = q / kLanes % kPerByte;
      const uint32_t byte = row[group * kLanes + q % kLanes];
      const uint32_t j = byte >> (part * kWinnerBits) & (kWinners - 1);
      const uint32_t state = j << (args_.code.state_bits - kBits) | q;
      if (states != nullptr) states[i] = uint16_t(state);
      q = state >> kBits;
    }
    return q;
  }

  const Args& args_;
  const CostLayout<kBits, kTiles> layout_;
  const int32_t* targets_[kTiles];
  int32_t *best_, *next_;  // costs of the step before (in time: after), and of this one
  uint8_t* winners_[kTiles];
};

#include "kernels/viterbi/viterbi_difference-inl.h"

template <typename Batch, typename Single>
void FindPathsBy(const Args& args) {
  int tile = 0;
  for (; tile + kBatch <= args.tiles; tile += kBatch) {
    Batch(args, tile).FindPaths(args.states + size_t(tile) * args.steps);
  }
  for (; tile < args.tiles; ++tile) {
    Single(args, tile).FindPaths(args.states + size_t(tile) * args.steps);
  }
}

template <int kValues, int kBits>
void FindPathsOf(const Args& args) {
  if constexpr (SquaresDifferences({kValues, kBits})) {
    FindPathsBy<DifferenceSearch<kBits, kBatch>, DifferenceSearch<kBits, 1>>(args);
  } else {
    FindPathsBy<Search<kValues, kBits, kBatch>, Search<kValues, kBits, 1>>(args);
  }
}

inline void FindPathsHere(const Args& args) {
  switch (args.code.values * 8 + args.code.bits) {
    case 8 + 2:
      return FindPathsOf<1, 2>(args);
    case 8 + 3:
      return FindPathsOf<1, 3>(args);
    case 8 + 4:
      return FindPathsOf<1, 4>(args);
    case 8 + 5:
      return FindPathsOf<1, 5>(args);
    case 8 + 6:
      return FindPathsOf<1, 6>(args);
    case 8 + 8:
      return FindPathsOf<1, 8>(args);
    case 16 + 2:
      return FindPathsOf<2, 2>(args);
    case 16 + 3:
      return FindPathsOf<2, 3>(args);
    case 16 + 4:
      return FindPathsOf<2, 4>(args);
    case 16 + 5:
      return FindPathsOf<2, 5>(args);
    case 32 + 2:
      return FindPathsOf<4, 2>(args);
    case 32 + 3:
      return FindPathsOf<4, 3>(args);
  }
}

#undef TQ_INLINE
