// The plain twin of the Viterbi search: 64-bit costs, one tile, one state at a time.
#include <algorithm>

#include "kernels/viterbi/viterbi.h"

namespace tq::viterbi::reference {
namespace {

constexpr int64_t kForbidden = int64_t{1} << 60;

int64_t Dot(int32_t a, int32_t b) {
  return static_cast<int64_t>(static_cast<int16_t>(a)) * static_cast<int16_t>(b) +
         static_cast<int64_t>(a >> 16) * (b >> 16);
}

class Search {
 public:
  Search(const Args& args, int tile)
      : args_(args),
        overlaps_(1u << (args.code.state_bits - args.code.bits)),
        targets_(args.targets + size_t{1} * tile * args.steps * Words(args.code.values)),
        best_(reinterpret_cast<int64_t*>(args.scratch)),
        next_(best_ + overlaps_),
        winners_(args.scratch + 2 * sizeof(int64_t) * overlaps_) {}

  // Steps first + count - 1 down to first (modulo the circle); `best_` holds the costs
  // after the last of them, and then those before the first.
  void Run(int first, int count) {
    const int k = args_.code.bits, high = args_.code.state_bits - k;
    const int words = Words(args_.code.values);
    for (int i = count - 1; i >= 0; --i) {
      const int step = (first + i + args_.steps) % args_.steps;
      const int32_t* target = targets_ + step * words;
      uint8_t* winners = winners_ + size_t{1} * i * overlaps_;
      for (uint32_t q = 0; q < overlaps_; ++q) {
        int64_t least = INT64_MAX;
        const int32_t* table = args_.table + TableIndex(args_.code, q, 0);
        for (uint32_t j = 0; j < 1u << k; ++j, table += words * kTableLanes) {
          int64_t cost = best_[(j << high | q) >> k];
          for (int w = 0; w < words; ++w) {
            cost += CostOf(table[w * kTableLanes], target[w]);
          }
          if (cost < least) {
            least = cost;
            winners[q] = static_cast<uint8_t>(j);
          }
        }
        next_[q] = least;
      }
      std::swap(best_, next_);
    }
  }

  // What a word of the table costs against its word of the target.
  int64_t CostOf(int32_t word, int32_t target) const {
    if (SquaresDifferences(args_.code)) {
      const int64_t difference = static_cast<int16_t>(word) - static_cast<int16_t>(target);
      return difference * difference;
    }
    return Dot(word, target) + (args_.code.values > 1 ? Dot(word, word) : 0);
  }

  // Follows the winners of `count` steps from overlap q; gives the overlap after them.
  uint32_t Follow(uint32_t q, int count, uint16_t* states) const {
    for (int i = 0; i < count; ++i) {
      const uint32_t j = winners_[size_t{1} * i * overlaps_ + q];
      const uint32_t state = j << (args_.code.state_bits - args_.code.bits) | q;
      if (states != nullptr) states[i] = static_cast<uint16_t>(state);
      q = state >> args_.code.bits;
    }
    return q;
  }

  uint32_t FreeOverlap() {
    std::fill(best_, best_ + overlaps_, 0);
    Run(-args_.reach, 2 * args_.reach);
    const auto q = static_cast<uint32_t>(std::min_element(best_, best_ + overlaps_) - best_);
    return Follow(q, args_.reach, nullptr);
  }

  void FixedPath(uint32_t overlap, uint16_t* states) {
    std::fill(best_, best_ + overlaps_, kForbidden);
    best_[overlap] = 0;
    Run(0, args_.steps);
    Follow(overlap, args_.steps, states);
  }

 private:
  const Args& args_;
  uint32_t overlaps_;
  const int32_t* targets_;
  int64_t *best_, *next_;
  uint8_t* winners_;
};

}  // namespace

void FindPaths(const Args& args) {
  for (int tile = 0; tile < args.tiles; ++tile) {
    Search search(args, tile);
    search.FixedPath(search.FreeOverlap(), args.states + size_t{1} * tile * args.steps);
  }
}

}  // namespace tq::viterbi::reference
