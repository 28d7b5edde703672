// The vector form of the Viterbi search, shared by the instruction sets. A file includes
// it inside its own namespace and an anonymous one, after defining
//
//   Vec (int32 lanes), kLanes (8 or 16), kBatch (tiles side by side),
//   Load, Store, Set1, Iota, Add, Sub, Min, And, Or, ShiftLeft<n>, ShiftRight,
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

// A batch of kTiles tiles of one code.
template <int kValues, int kBits, int kTiles>
class Search {
 public:
  explicit Search(const Args& args, int first_tile)
      : args_(args),
        overlaps_(1 << (args.code.state_bits - kBits)),
        top_shift_(args.code.state_bits - 2 * kBits) {
    const size_t cost_bytes = sizeof(int32_t) * CostStride(args.code);
    const size_t winner_bytes = WinnerBytes(args.code) * args.steps;
    uint8_t* at = args.scratch;
    for (int t = 0; t < kTiles; ++t) {
      targets_[t] = args.targets + size_t(first_tile + t) * args.steps * kTargetWords;
      best_[t] = reinterpret_cast<int32_t*>(at);
      next_[t] = reinterpret_cast<int32_t*>(at + cost_bytes);
      at += 2 * cost_bytes;
    }
    for (int t = 0; t < kTiles; ++t, at += winner_bytes) winners_[t] = at;
  }

  void FindPaths(uint16_t* states) {
    uint32_t overlap[kTiles];
    for (int t = 0; t < kTiles; ++t) Start(t, 0);
    Run(0, args_.reach, false);
    Run(-args_.reach, args_.reach, true);
    for (int t = 0; t < kTiles; ++t) overlap[t] = Follow(t, Lowest(t), args_.reach, nullptr);
    for (int t = 0; t < kTiles; ++t) {
      Start(t, kForbidden);
      best_[t][overlap[t]] -= kForbidden;
    }
    Run(0, args_.steps, true);
    for (int t = 0; t < kTiles; ++t) {
      Follow(t, overlap[t], args_.steps, states + size_t(t) * args_.steps);
    }
  }

 private:
  static constexpr int kTargetWords = TargetWords(kValues);
  static constexpr int kTableWords = TableWords(kValues);
  static constexpr int kPerByte = WinnersPerByte(kBits);
  static constexpr int kWinnerBits = 8 / kPerByte;
  static constexpr int kWinners = 1 << kBits;

  // The low k bits of best[q]: the top k bits of q, which are the winning j if q's
  // state is chosen.
  Vec TopBits(int q) const {
    if (top_shift_ >= 4) return Set1(q >> top_shift_);  // the same for kLanes neighbours
    return ShiftRight(Add(Set1(q), Iota()), top_shift_);
  }

  void Start(int t, int32_t cost) {
    for (int q = 0; q < overlaps_; q += kLanes) {
      Store(best_[t] + q, Or(Set1(cost), TopBits(q)));
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
      for (int t = 0; t < kTiles; ++t) {
        int32_t* swap = best_[t];
        best_[t] = next_[t];
        next_[t] = swap;
      }
      if (i % kRebaseEvery == 0) Rebase();
    }
  }

  template <bool kKeep>
  void Step(int step, int row) {
    Vec target[kTiles][kTargetWords];
    for (int t = 0; t < kTiles; ++t) {
      for (int w = 0; w < kTargetWords; ++w) {
        target[t][w] = Set1(targets_[t][step * kTargetWords + w]);
      }
    }
    const Vec mask = Set1(kWinners - 1);
    const size_t row_at = size_t(row) * (overlaps_ / kPerByte);
    for (int q = 0; q < overlaps_; q += kPerByte * kLanes) {
      Vec packed[kTiles];
      for (int t = 0; t < kTiles; ++t) packed[t] = Set1(0);
      for (int part = 0; part < kPerByte; ++part) {
        const int at = q + part * kLanes;
        Vec least[kTiles];
        LeastCosts(at, target, least);
        const Vec top = TopBits(at);
        for (int t = 0; t < kTiles; ++t) {
          Store(next_[t] + at, Select(mask, least[t], top));
          if constexpr (kKeep) {
            const Vec winner = And(mask, least[t]);
            packed[t] = Or(packed[t], ShiftLeft(winner, part * kWinnerBits));
          }
        }
      }
      if constexpr (kKeep) {
        for (int t = 0; t < kTiles; ++t) {
          StoreBytes(winners_[t] + row_at + q / kPerByte, packed[t]);
        }
      }
    }
  }

  // The least cost, winner in its low bits, over the 2^k states above each of kLanes
  // overlaps from q on.
  inline void LeastCosts(int q, const Vec (*target)[kTargetWords], Vec* least) const {
    const int32_t* table = args_.table +
                           size_t(q / kTableLanes) * kWinners * kTableWords * kTableLanes +
                           q % kTableLanes;
    const int below = q >> kBits;
    TQ_UNROLL_WINNERS
    for (int j = 0; j < kWinners; ++j) {
      Vec word[kTableWords];
      for (int w = 0; w < kTableWords; ++w) word[w] = Load(table + w * kTableLanes);
      table += kTableWords * kTableLanes;
      const int from = (j << top_shift_) + below;
      for (int t = 0; t < kTiles; ++t) {
        Vec cost = Expand<kBits>(best_[t] + from);
        if constexpr (kValues > 1) cost = Add(cost, word[kTableWords - 1]);
        cost = Dot(cost, word[0], target[t][0]);
        if constexpr (kValues == 4) cost = Dot(cost, word[1], target[t][kTargetWords - 1]);
        least[t] = j == 0 ? cost : Min(least[t], cost);
      }
    }
  }

  // Subtracts the cost of overlap 0 from all; the low bits stay.
  void Rebase() {
    for (int t = 0; t < kTiles; ++t) {
      const Vec base = Set1(best_[t][0] & -kWinners);
      for (int q = 0; q < overlaps_; q += kLanes) {
        Store(best_[t] + q, Sub(Load(best_[t] + q), base));
      }
    }
  }

  // The overlap of least cost, the lowest of equals (their low bits rise with q).
  uint32_t Lowest(int t) const {
    int lowest = 0;
    for (int q = 1; q < overlaps_; ++q) {
      if (best_[t][q] < best_[t][lowest]) lowest = q;
    }
    return lowest;
  }

  uint32_t Follow(int t, uint32_t q, int count, uint16_t* states) const {
    for (int i = 0; i < count; ++i) {
      const uint8_t* row = winners_[t] + size_t(i) * (overlaps_ / kPerByte);
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
  const int overlaps_;   // 2^(L - k)
  const int top_shift_;  // L - 2k
  const int32_t* targets_[kTiles];
  int32_t *best_[kTiles], *next_[kTiles];
  uint8_t* winners_[kTiles];
};

template <int kValues, int kBits>
void FindPathsOf(const Args& args) {
  int tile = 0;
  for (; tile + kBatch <= args.tiles; tile += kBatch) {
    Search<kValues, kBits, kBatch>(args, tile).FindPaths(args.states + size_t(tile) * args.steps);
  }
  for (; tile < args.tiles; ++tile) {
    Search<kValues, kBits, 1>(args, tile).FindPaths(args.states + size_t(tile) * args.steps);
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
