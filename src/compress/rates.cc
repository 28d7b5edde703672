#include "compress/rates.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/checked.h"

namespace tq {
namespace {

using trellis::Code;

// Byte-pair vocabularies are in the order of their merges: frequent tokens first. The first
// share f of the rows carries about f^kFrequencyPower of the loss. llama-30m at 2.0 bits,
// KL .451 with 2.5 bits for all rows, .429 with 3 for the first half and 2 for the rest
// (the same bytes); .443 with 3 for the first quarter, .449 with 4 for an eighth.
constexpr double kFrequencyPower = 0.25;

// Relative squared error of the native codes on Gaussian values, in the order of
// trellis::kNativeCodes (up to 4 bits the design's: 256-value tail-biting streams, best scale;
// above, bench_codec).
constexpr double kCodeError[] = {.526,  .379,  .269,   .138,    .0711,   .0368,
                                 .0174, .0045, .00116, .000305, .0000221};
constexpr size_t kNumCodes = std::size(kCodeError);
static_assert(kNumCodes == std::size(trellis::kNativeCodes));

constexpr double kAllocationRates[] = {0.5,  0.75, 1,    1.25, 1.5,  1.75, 2, 2.25, 2.5,
                                       2.75, 3,    3.25, 3.5,  3.75, 4,    5, 6,    8};

Code NativeCode(size_t index, CodeVariant variant) {
  Code code = trellis::kNativeCodes[index];
  if (variant.v1 && code == Code{2, 4}) code = {1, 2};
  if (variant.twelve_bits) code.state_bits = 12;
  return code;
}

}  // namespace

RatePosition PositionAt(double x) {
  const size_t index = std::min(static_cast<size_t>(std::max(x, 0.0)), kNumCodes - 1);
  return {index, index + 1 < kNumCodes ? x - static_cast<double>(index) : 0.0};
}

RatePosition PositionOfRate(double rate) {
  size_t index = 0;
  while (index + 1 < kNumCodes && trellis::kNativeCodes[index + 1].rate() <= rate) ++index;
  if (index + 1 == kNumCodes) return {index, 0};
  const double low = trellis::kNativeCodes[index].rate();
  const double step = trellis::kNativeCodes[index + 1].rate() - low;
  return {index, std::max(0.0, (rate - low) / step)};
}

double LowestRate() { return trellis::kNativeCodes[0].rate(); }
double HighestRate() { return trellis::kNativeCodes[kNumCodes - 1].rate(); }

std::span<const double> AllocationRates() { return kAllocationRates; }

std::vector<Segment> SplitRows(uint64_t rows, RatePosition position, double phase,
                               HigherRows higher, CodeVariant variant) {
  const uint64_t units = CeilDiv(rows, kSegmentRowMultiple);
  uint64_t high = 0;
  if (position.fraction > 0) {
    high = std::min(units,
                    static_cast<uint64_t>(position.fraction * static_cast<double>(units) + phase));
  }
  const bool first = higher == HigherRows::kFirst;
  const uint64_t split = std::min(rows, (first ? high : units - high) * kSegmentRowMultiple);
  std::vector<Segment> segments;
  const auto add = [&](uint64_t begin, uint64_t end, size_t index) {
    if (begin == end) return;
    Segment segment;
    segment.row_begin = begin;
    segment.row_end = end;
    segment.code = NativeCode(index, variant);
    segments.push_back(segment);
  };
  add(0, split, position.index + (first ? 1 : 0));
  add(split, rows, position.index + (first ? 0 : 1));
  return segments;
}

double FrequencyShare(double f) { return std::pow(f, kFrequencyPower); }

double ExpectedError(RatePosition p, HigherRows higher) {
  if (p.fraction <= 0) return kCodeError[p.index];
  const double share = higher == HigherRows::kFirst ? FrequencyShare(p.fraction) : p.fraction;
  return (1 - share) * kCodeError[p.index] + share * kCodeError[p.index + 1];
}

}  // namespace tq
