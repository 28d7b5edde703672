// Which rate every matrix gets under one budget of bytes: the multiple-choice knapsack.
//
// Pure: no model is touched. Losses are predictions that add up over matrices, in any unit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace tq {

// A rate that a matrix may have.
struct RateChoice {
  double rate = 0;  // bits per weight
  uint64_t bytes = 0;
  double loss = 0;
};

// What gets one rate: a matrix or a slice of one. `choices` rise in rate and in bytes; a higher
// rate may have the higher loss all the same, and is then never chosen.
struct AllocationItem {
  std::string name;
  std::vector<RateChoice> choices;
};

struct Allocation {
  std::vector<size_t> choice;  // by item
  uint64_t bytes = 0;
  double loss = 0;
  // No allocation within the budget has less loss than this (the linear relaxation).
  double loss_bound = 0;
};

// The least loss within `budget` bytes: along the convex hulls, then by exchanges, from there
// and from the best single rate for all; so never worse than that one. ResourceExhausted,
// naming the smallest possible size, when nothing fits; InvalidArgument when an item has no
// choice, or choices that do not rise, or a loss that is negative or not finite.
StatusOr<Allocation> Allocate(std::span<const AllocationItem> items, uint64_t budget);

}  // namespace tq
