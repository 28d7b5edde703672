// Rates of trellis-coded matrices: which codes make them, and what error they leave.
//
// Between two native rates some rows of a matrix are coded at the lower one and the rest at the
// next; the split lies at a multiple of kSegmentRowMultiple rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "codec/packed_matrix.h"

namespace tq {

// The native code `index` (trellis::kNativeCodes), and `index` + 1 for a share `fraction` of the
// rows.
struct RatePosition {
  size_t index = 0;
  double fraction = 0;
};

// One number for the same: index + fraction.
inline constexpr double kLargestPosition =
    static_cast<double>(std::size(trellis::kNativeCodes)) - 1;
RatePosition PositionAt(double x);
// The position of a rate, clamped to [LowestRate(), HighestRate()].
RatePosition PositionOfRate(double rate);
double LowestRate();
double HighestRate();

// The rates that the allocation chooses from: steps of a quarter bit up to 4, then what the codes
// give.
std::span<const double> AllocationRates();

// Which rows get the higher rate: the last, or (a vocabulary's frequent tokens) the first.
enum class HigherRows { kLast, kFirst };

// What changes the native codes for a whole model.
struct CodeVariant {
  bool v1 = false;           // one value per step at 2 bits
  bool twelve_bits = false;  // short states: ten times faster, a little worse
};

// The segments of a matrix. `phase` in [0, 1) shifts the rounding of the split: 0.5 is to the
// nearest.
std::vector<Segment> SplitRows(uint64_t rows, RatePosition position, double phase,
                               HigherRows higher, CodeVariant variant);

// How much a relative error of embedding and head weighs in the KL against the same error
// of the decoder. It does not grow with the vocabulary: a token meets its own row. Measured at
// 2.0 bits, L = 12, KL with embeddings of 1.56 / 1.69 / 2.06 / 2.63 bits: SmolLM2-135M
// 1.308 / 1.264 / 1.360 / 1.630; with 1.63 / 2.06 bits: llama-30m .450 / .411.
inline constexpr double kVocabularyShare = 0.3;

// The part of a vocabulary's loss that falls to the first share `f` of its rows.
double FrequencyShare(double f);

// Expected squared error of a position, relative to the power of the weights. The higher code is
// taken to carry as much of the loss as its share of rows; a vocabulary's frequent first rows
// (kFirst) carry more.
double ExpectedError(RatePosition position, HigherRows higher);

}  // namespace tq
