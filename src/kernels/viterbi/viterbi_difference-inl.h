// The vector form of the Viterbi search for codes that square differences (viterbi.h): V = 1
// at k >= 6. Included by viterbi-inl.h, which says what a level defines before.
//
// There are few overlaps with many successors each, so the costs of all steps are kept
// instead of winners (0.25 to 1 MiB a tile at L = 16); those along the one path that counts are
// found again on the way back, at most 2^k states a step beside the 2^L of the search.
//
// No include guard on purpose: each instruction set gets its own copy.

// A batch of kTiles tiles of one code.
template <int kBits, int kTiles>
class DifferenceSearch {
 public:
  DifferenceSearch(const Args& args, int first_tile)
      : args_(args),
        high_(args.code.state_bits - kBits),
        costs_(reinterpret_cast<int32_t*>(args.scratch)) {
    for (int t = 0; t < kTiles; ++t) {
      targets_[t] = args.targets + size_t(first_tile + t) * args.steps;
    }
  }

  void FindPaths(uint16_t* states) {
    const int reach = args_.reach, steps = args_.steps;
    uint32_t overlap[kTiles];
    for (int t = 0; t < kTiles; ++t) Start(t, 2 * reach, 0);
    Run(-reach, 2 * reach);
    for (int t = 0; t < kTiles; ++t) overlap[t] = Follow(t, Lowest(t), -reach, reach, nullptr);
    for (int t = 0; t < kTiles; ++t) {
      Start(t, steps, kForbidden);
      Row(steps, t)[overlap[t]] = 0;
    }
    Run(0, steps);
    for (int t = 0; t < kTiles; ++t) {
      Follow(t, overlap[t], 0, steps, states + size_t(t) * steps);
    }
  }

 private:
  static constexpr int kSuccessors = 1 << kBits;

  int overlaps() const { return 1 << high_; }
  // Costs of tile t, by overlap, from row i of a search to its end, less what overlap 0 costs
  // from row i + 1 on. One row more than steps: the end itself.
  int32_t* Row(int i, int t) const { return costs_ + (size_t(i * kTiles + t) << high_); }
  int StepOf(int first, int i) const { return first + i < 0 ? first + i + args_.steps : first + i; }
  // The table's word of successor 0 of an overlap; the next ones follow kTableLanes apart.
  const int32_t* WordsOf(int q) const {
    return args_.table + (q / kTableLanes * kTableLanes << kBits) + q % kTableLanes;
  }

  void Start(int t, int row, int32_t cost) {
    for (int q = 0; q < overlaps(); q += kLanes) Store(Row(row, t) + q, Set1(cost));
  }

  // Steps first + count - 1 down to first, modulo the circle.
  void Run(int first, int count) {
    for (int i = count - 1; i >= 0; --i) Step(StepOf(first, i), i);
  }

  void Step(int step, int row) {
    const int high = high_;
    const int32_t* after[kTiles];
    int32_t* before[kTiles];
    Vec target[kTiles], base[kTiles];
    for (int t = 0; t < kTiles; ++t) {
      after[t] = Row(row + 1, t);
      before[t] = Row(row, t);
      target[t] = Set1(targets_[t][step]);
      base[t] = Set1(after[t][0]);
    }
    for (int q = 0; q < 1 << high; q += kLanes) {
      const int32_t* words = WordsOf(q);
      Vec least[kTiles];
      for (int t = 0; t < kTiles; ++t) least[t] = Set1(INT32_MAX);
#pragma GCC unroll 4
      for (int j = 0; j < kSuccessors; ++j) {
        // The same for all lanes: they differ in the low k bits of q only.
        const int successor = (j << high | q) >> kBits;
        const Vec word = Load(words + j * kTableLanes);
        for (int t = 0; t < kTiles; ++t) {
          const Vec difference = Sub16(word, target[t]);
          least[t] = Min(least[t], Dot(Set1(after[t][successor]), difference, difference));
        }
      }
      for (int t = 0; t < kTiles; ++t) Store(before[t] + q, Sub(least[t], base[t]));
    }
  }

  // The overlap of least cost at the end of a search, the lowest of equals.
  uint32_t Lowest(int t) const {
    const int32_t* costs = Row(0, t);
    int lowest = 0;
    for (int q = 1; q < overlaps(); ++q) lowest = costs[q] < costs[lowest] ? q : lowest;
    return uint32_t(lowest);
  }

  // Follows the best path from overlap q over the first `count` rows of the last search, which
  // began at step `first`; gives the overlap after them.
  uint32_t Follow(int t, uint32_t q, int first, int count, uint16_t* states) const {
    for (int i = 0; i < count; ++i) {
      const int32_t* after = Row(i + 1, t);
      const int32_t* words = WordsOf(int(q));
      const int32_t least = Row(i, t)[q] + after[0];
      const int target = int16_t(targets_[t][StepOf(first, i)]);
      // The lowest of those that are best; one is.
      uint32_t state = q;
      for (int j = 0; j < kSuccessors; ++j) {
        const int difference = int16_t(words[j * kTableLanes]) - target;
        state = uint32_t(j) << high_ | q;
        if (after[state >> kBits] + difference * difference == least) break;
      }
      if (states != nullptr) states[i] = uint16_t(state);
      q = state >> kBits;
    }
    return q;
  }

  const Args& args_;
  const int high_;  // L - k: bits of an overlap
  const int32_t* targets_[kTiles];
  int32_t* costs_;  // [steps + 1, kTiles, overlaps]
};
