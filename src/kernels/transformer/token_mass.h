// Probabilities of tokens as integers, for the processor and for devices: their sums, and so what
// is drawn, do not depend on the order of additions.
#pragma once

#include <cstdint>

namespace tq::transformer {

// Of a weight relative to the largest, from 0 to 1, in units of 2^-40, rounded down: 2^23 tokens
// add up to 2^63 at most, and those lost below a unit to 1e-5 of the largest.
constexpr uint64_t MassOf(float weight) {
  return static_cast<uint64_t>(static_cast<int64_t>(weight * 0x1p40f));
}

// The least mass that is `top_p`, above 0 and below 1, of `total`, at least 1.
constexpr uint64_t TopPMass(float top_p, uint64_t total) {
  const double exact = static_cast<double>(top_p) * static_cast<double>(total);
  const auto whole = static_cast<uint64_t>(exact);
  return whole + (static_cast<double>(whole) < exact ? 1 : 0);
}

// Where a draw falls among masses one behind the other: `uniform`, from [0, 1), times `total`,
// rounded down. All bits of `uniform` count, whatever the total.
constexpr uint64_t DrawnMass(double uniform, uint64_t total) {
  const auto fraction = static_cast<uint64_t>(uniform * 0x1p64);
  return static_cast<uint64_t>(static_cast<unsigned __int128>(fraction) * total >> 64);
}

}  // namespace tq::transformer
