#include "compress/allocate.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

namespace tq {
namespace {

using Items = std::span<const AllocationItem>;

Status CheckItems(Items items) {
  uint64_t largest = 0;
  for (const AllocationItem& item : items) {
    if (item.choices.empty()) return InvalidArgument("{}: no rate is left to choose", item.name);
    for (size_t i = 0; i < item.choices.size(); ++i) {
      const RateChoice& c = item.choices[i];
      if (!(c.loss >= 0 && std::isfinite(c.loss))) {
        return InvalidArgument("{}: loss {} at {} bits", item.name, c.loss, c.rate);
      }
      if (i > 0 && (c.rate <= item.choices[i - 1].rate || c.bytes <= item.choices[i - 1].bytes)) {
        return InvalidArgument("{}: rates and sizes do not rise at {} bits", item.name, c.rate);
      }
    }
    // Differences of sizes are signed below.
    const uint64_t left = static_cast<uint64_t>(INT64_MAX) - largest;
    if (item.choices.back().bytes > left) {
      return InvalidArgument("{}: sizes add up to 2^63 bytes or more", item.name);
    }
    largest += item.choices.back().bytes;
  }
  return OkStatus();
}

Allocation Evaluate(Items items, std::vector<size_t> choice) {
  Allocation result;
  for (size_t i = 0; i < items.size(); ++i) {
    result.bytes += items[i].choices[choice[i]].bytes;
    result.loss += items[i].choices[choice[i]].loss;
  }
  result.choice = std::move(choice);
  return result;
}

// A change of one item's choice: what it costs in bytes, and what it adds to the loss.
struct Move {
  size_t item, to;
  int64_t bytes;
  double loss;
  double gain_per_byte() const { return -loss / static_cast<double>(bytes); }
};

Move MoveOf(Items items, size_t item, size_t from, size_t to) {
  const RateChoice &a = items[item].choices[from], &b = items[item].choices[to];
  return {item, to, static_cast<int64_t>(b.bytes - a.bytes), b.loss - a.loss};
}

// The steps along the lower convex hull of an item's losses over bytes, steepest first.
std::vector<Move> HullMoves(Items items, size_t item) {
  std::vector<Move> hull;
  size_t at = 0;
  while (true) {
    std::optional<Move> best;
    for (size_t to = at + 1; to < items[item].choices.size(); ++to) {
      const Move move = MoveOf(items, item, at, to);
      // Of equally steep steps the longest.
      if (move.loss < 0 && (!best || move.gain_per_byte() >= best->gain_per_byte())) best = move;
    }
    if (!best) return hull;
    hull.push_back(*best);
    at = best->to;
  }
}

// Fills the budget along the hulls. The bound is the relaxation's loss: the first step that does
// not fit is taken in part.
Allocation FillAlongHulls(Items items, uint64_t budget) {
  std::vector<Move> moves;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::vector<Move> hull = HullMoves(items, i);
    moves.insert(moves.end(), hull.begin(), hull.end());
  }
  // Stable: an item's steps, ever less steep, stay in order.
  std::stable_sort(moves.begin(), moves.end(), [](const Move& a, const Move& b) {
    return a.gain_per_byte() > b.gain_per_byte();
  });
  Allocation result = Evaluate(items, std::vector<size_t>(items.size(), 0));
  std::vector<bool> full(items.size(), false);
  std::optional<double> relaxed;
  for (const Move& move : moves) {
    if (full[move.item]) continue;
    const uint64_t left = budget - result.bytes;
    if (static_cast<uint64_t>(move.bytes) > left) {
      full[move.item] = true;
      if (!relaxed) relaxed = result.loss - move.gain_per_byte() * static_cast<double>(left);
      continue;
    }
    result.choice[move.item] = move.to;
    result.bytes += static_cast<uint64_t>(move.bytes);
    result.loss += move.loss;
  }
  const double bound = relaxed.value_or(result.loss);
  result = Evaluate(items, std::move(result.choice));
  result.loss_bound = bound;
  return result;
}

// One step of the exchange. Candidates: a single move that fits, and a move that does not fit
// together with one of another item that frees the bytes it lacks.
class Exchange {
 public:
  Exchange(Items items, const Allocation& now, uint64_t budget)
      : items_(items), slack_(budget - now.bytes) {
    for (size_t i = 0; i < items.size(); ++i) {
      for (size_t to = 0; to < items[i].choices.size(); ++to) {
        if (to == now.choice[i]) continue;
        const Move move = MoveOf(items, i, now.choice[i], to);
        (move.bytes < 0 ? smaller_ : larger_).push_back(move);
      }
    }
    // From most to least bytes freed, with the two cheapest of different items so far.
    std::sort(smaller_.begin(), smaller_.end(),
              [](const Move& a, const Move& b) { return a.bytes < b.bytes; });
    Cheapest cheapest;
    for (const Move& move : smaller_) {
      cheapest.Add(move);
      cheapest_.push_back(cheapest);
    }
  }

  // Applies the candidate of the largest gain to `now`; false if none gains.
  bool Improve(Allocation& now) const {
    // Sums of a few hundred losses: differences below this are rounding.
    double best = -1e-12 * now.loss;
    const Move *first = nullptr, *second = nullptr;
    for (const Move& move : smaller_) {
      if (move.loss < best) best = move.loss, first = &move, second = nullptr;
    }
    for (const Move& move : larger_) {
      if (move.loss >= best) continue;
      const int64_t lacking = move.bytes - static_cast<int64_t>(slack_);
      if (lacking <= 0) {
        best = move.loss, first = &move, second = nullptr;
        continue;
      }
      const Move* partner = PartnerOf(move, lacking);
      if (partner == nullptr || move.loss + partner->loss >= best) continue;
      best = move.loss + partner->loss;
      first = &move;
      second = partner;
    }
    if (first == nullptr) return false;
    now.choice[first->item] = first->to;
    if (second != nullptr) now.choice[second->item] = second->to;
    now = Evaluate(items_, std::move(now.choice));
    return true;
  }

 private:
  // The cheapest move, and the cheapest of another item.
  struct Cheapest {
    const Move* one = nullptr;
    const Move* other = nullptr;
    void Add(const Move& move) {
      if (one == nullptr || move.loss < one->loss) {
        if (one != nullptr && one->item != move.item) other = one;
        one = &move;
      } else if (move.item != one->item && (other == nullptr || move.loss < other->loss)) {
        other = &move;
      }
    }
  };

  // The cheapest way of another item to free `lacking` bytes.
  const Move* PartnerOf(const Move& move, int64_t lacking) const {
    const auto end = std::partition_point(smaller_.begin(), smaller_.end(),
                                          [&](const Move& m) { return m.bytes <= -lacking; });
    if (end == smaller_.begin()) return nullptr;
    const Cheapest& c = cheapest_[static_cast<size_t>(end - smaller_.begin()) - 1];
    return c.one->item != move.item ? c.one : c.other;
  }

  Items items_;
  uint64_t slack_;
  std::vector<Move> smaller_, larger_;
  std::vector<Cheapest> cheapest_;  // [i]: of smaller_[0..i]
};

Allocation ExchangeToTheEnd(Items items, Allocation now, uint64_t budget) {
  while (Exchange(items, now, budget).Improve(now)) {
  }
  return now;
}

// The best of: the same rate for all, where every item has it, within the budget.
std::optional<Allocation> BestSingleRate(Items items, uint64_t budget) {
  std::optional<Allocation> best;
  for (const RateChoice& wanted : items.front().choices) {
    std::vector<size_t> choice;
    for (const AllocationItem& item : items) {
      const auto found = std::find_if(item.choices.begin(), item.choices.end(),
                                      [&](const RateChoice& c) { return c.rate == wanted.rate; });
      if (found == item.choices.end()) break;
      choice.push_back(static_cast<size_t>(found - item.choices.begin()));
    }
    if (choice.size() < items.size()) continue;
    Allocation single = Evaluate(items, std::move(choice));
    if (single.bytes <= budget && (!best || single.loss < best->loss)) best = std::move(single);
  }
  return best;
}

}  // namespace

StatusOr<Allocation> Allocate(Items items, uint64_t budget) {
  TQ_RETURN_IF_ERROR(CheckItems(items));
  if (items.empty()) return Allocation{};
  const Allocation smallest = Evaluate(items, std::vector<size_t>(items.size(), 0));
  if (smallest.bytes > budget) {
    return ResourceExhausted("budget: {} bytes is too few; the smallest possible is {}", budget,
                             smallest.bytes);
  }
  Allocation filled = FillAlongHulls(items, budget);
  const double bound = filled.loss_bound;
  Allocation best = ExchangeToTheEnd(items, std::move(filled), budget);
  if (std::optional<Allocation> single = BestSingleRate(items, budget)) {
    Allocation other = ExchangeToTheEnd(items, *std::move(single), budget);
    if (other.loss < best.loss) best = std::move(other);
  }
  best.loss_bound = bound;
  return best;
}

}  // namespace tq
