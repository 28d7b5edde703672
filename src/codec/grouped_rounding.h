// Rounding weights to grouped matrices: the grid of values that a group can have, and matrices put
// together from grids and codes.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>

#include "base/status.h"
#include "codec/grouped_matrix.h"
#include "device/executor.h"

namespace tq {

// The values scale * (q - zero), q = 0 .. levels.
struct GroupGrid {
  float scale = 0;  // an fp16 number, not negative
  float zero = 0;   // as the matrix's kind of zeros has them
  uint32_t levels = 0;

  uint32_t NearestCode(double value) const {
    if (scale == 0) return static_cast<uint32_t>(zero);
    // Halves to even, as rint rounds unless told otherwise.
    const double level = std::rint(value / static_cast<double>(scale) + static_cast<double>(zero));
    // Written so that NaN is 0 too.
    return level > 0 ? static_cast<uint32_t>(level < levels ? level : levels) : 0;
  }
  float Value(uint32_t q) const { return scale * (static_cast<float>(q) - zero); }
  float Nearest(double value) const { return Value(NearestCode(value)); }
};

// The grid of a group whose values are within [min, max]. Steps are rounded up to fp16.
//   kHalf: min..max over 2^bits levels; the step is at least 2^-15 of the greatest magnitude, so
//     that the zero fits fp16 (it matters only for groups that are nearly constant).
//   kPacked: the same of min(min, 0)..max(max, 0), with the zero rounded to an integer (Frantar et
//     al., arXiv 2210.17323; Lin et al., arXiv 2306.00978).
//   kSymmetric: -a..a of the greatest magnitude a over 2^bits levels about the code 2^(bits - 1),
//   of
//     which the highest is a step short of a.
// Nothing if min or max is not finite or the step is above 65504.
std::optional<GroupGrid> MakeGrid(double min, double max, uint32_t bits, ZeroKind zeros);
// That of values [count]; count > 0.
std::optional<GroupGrid> MakeGrid(std::span<const float> values, uint32_t bits, ZeroKind zeros);

// A matrix with all codes 0, to be filled by the functions below, and by its order if it has one.
// Errors as of CheckGroupedLayout.
StatusOr<GroupedMatrix> EmptyGroupedMatrix(const GroupedLayout& layout);
// Sets the grid of a group, and the code at place i of a row. Each is set once; rows may be set by
// different threads.
void SetGrid(GroupedMatrix& matrix, uint64_t row, uint64_t group, const GroupGrid& grid);
void SetCode(GroupedMatrix& matrix, uint64_t row, uint64_t i, uint32_t q);

// Rounds W (float [rows, cols]) to nearest; the layout must have no order. With kHalf zeros an
// error is at most half a step, plus 2^-11 of the magnitude at the ends of the range. Weights that
// are not finite, or a step above 65504, are errors naming row and column.
StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, const GroupedLayout& layout,
                                          Executor& executor);
// The same with kHalf zeros.
StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t bits, uint32_t group_size, Executor& executor);
// Ternary codes by BitNet b1.58's rule (arXiv 2402.17764, section 2) for each group of W, float
// [rows, cols]: scale = mean |w|, as a half and at least 2^-24, so that zeros have one; code = 1 +
// w / scale, rounded to nearest (halves to even) within -1..1. Weights that are not finite, or a
// mean above 65504, are errors naming row and column or group. The same for any number of threads.
StatusOr<GroupedMatrix> QuantizeToTernary(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t group_size, Executor& executor);
// What a row [cols] becomes by QuantizeToNearest; `rounded` may be `w`. False if a group has no
// grid.
bool RoundRowToNearest(const GroupedLayout& layout, const float* w, float* rounded);

// Why a row `w` [cols] of a matrix has a group without a grid.
Status CannotRound(const float* w, uint64_t row, uint64_t cols, uint32_t group_size);

// The lowest of rows that threads found to be bad.
class FirstRow {
 public:
  explicit FirstRow(uint64_t rows) : none_(rows), row_(rows) {}
  void Note(uint64_t row) {
    uint64_t first = row_.load();
    while (row < first && !row_.compare_exchange_weak(first, row)) {
    }
  }
  bool found() const { return row_.load() < none_; }
  uint64_t row() const { return row_.load(); }

 private:
  uint64_t none_;
  std::atomic<uint64_t> row_;
};

}  // namespace tq
