#include "compress/methods/awq/awq_coder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/checked.h"
#include "codec/grouped_rounding.h"
#include "kernels/gemm/gemm_f32.h"

namespace tq {
namespace {

// Ranges that are tried: 1 - i / kClipSteps of the greatest magnitude (the authors' code).
constexpr int kClipSteps = 20, kClipsTried = 10;
constexpr uint64_t kRows = 64;  // that are rounded together

// A group of some rows, w [rows, count] with a distance of `stride`.
struct RowsOfGroup {
  const float* w = nullptr;
  uint64_t rows = 0, count = 0, stride = 0;
};

// The grid of a row's group with its range cut to a share of its greatest magnitude.
std::optional<GroupGrid> ClippedGrid(const GroupedLayout& layout, std::span<const float> w,
                                     double share) {
  const auto [min, max] = std::ranges::minmax(w);
  const double limit = share * static_cast<double>(std::max(std::abs(min), std::abs(max)));
  return MakeGrid(std::max<double>(min, -limit), std::min<double>(max, limit), layout.bits,
                  layout.zeros);
}

// Of every row the grid that loses least by h, the group's part of the Hessian with rows that are
// `h_stride` apart. The first of those with the same loss, so the whole range where nothing helps.
std::vector<GroupGrid> SearchGrids(const GroupedLayout& layout, const RowsOfGroup& group,
                                   const float* h, uint64_t h_stride) {
  std::vector<GroupGrid> best(group.rows);
  std::vector<double> least(group.rows, std::numeric_limits<double>::infinity());
  std::vector<GroupGrid> grids(group.rows);
  std::vector<float> errors(group.rows * group.count), product(group.rows * group.count);
  for (int step = 0; step < kClipsTried; ++step) {
    const double share = 1 - static_cast<double>(step) / kClipSteps;
    for (uint64_t r = 0; r < group.rows; ++r) {
      const float* w = group.w + r * group.stride;
      // The whole range has a grid, so a part of it has.
      grids[r] = *ClippedGrid(layout, {w, group.count}, share);
      for (uint64_t j = 0; j < group.count; ++j) {
        errors[r * group.count + j] = w[j] - grids[r].Nearest(static_cast<double>(w[j]));
      }
    }
    gemm::MatmulNt({.n = group.rows,
                    .m = group.count,
                    .k = group.count,
                    .a = errors.data(),
                    .lda = group.count,
                    .b = h,
                    .ldb = h_stride,
                    .c = product.data(),
                    .ldc = group.count});
    for (uint64_t r = 0; r < group.rows; ++r) {
      double loss = 0;
      for (uint64_t j = r * group.count; j < (r + 1) * group.count; ++j) {
        loss += static_cast<double>(errors[j]) * product[j];
      }
      if (loss < least[r]) {
        least[r] = loss;
        best[r] = grids[r];
      }
    }
  }
  return best;
}

}  // namespace

bool ClipsRanges(std::string_view matrix) {
  return !matrix.ends_with(".q_proj") && !matrix.ends_with(".k_proj");
}

StatusOr<GroupedMatrix> RoundWithClipping(const GroupedLayout& layout, const Tensor& h,
                                          const float* w, Executor& executor) {
  TQ_CHECK(!layout.ordered && h.shape() == Shape({layout.cols, layout.cols}));
  const uint64_t cols = layout.cols;
  TQ_ASSIGN_OR_RETURN(GroupedMatrix matrix, EmptyGroupedMatrix(layout));
  FirstRow bad(layout.rows);
  executor.ParallelFor(CeilDiv(layout.rows, kRows), 1, [&](size_t begin, size_t end, size_t) {
    std::vector<float> rounded(cols);
    for (size_t piece = begin; piece < end; ++piece) {
      const uint64_t first = piece * kRows, count = std::min(kRows, layout.rows - first);
      bool good = true;
      for (uint64_t row = first; row < first + count; ++row) {
        if (RoundRowToNearest(layout, w + row * cols, rounded.data())) continue;
        bad.Note(row);
        good = false;
      }
      if (!good) continue;
      for (uint64_t g = 0; g < layout.groups(); ++g) {
        const uint64_t column = g * layout.group_size;
        const uint64_t width = std::min<uint64_t>(layout.group_size, cols - column);
        const std::vector<GroupGrid> grids =
            SearchGrids(layout, {w + first * cols + column, count, width, cols},
                        h.as<float>() + column * cols + column, cols);
        for (uint64_t r = 0; r < count; ++r) {
          const float* values = w + (first + r) * cols;
          SetGrid(matrix, first + r, g, grids[r]);
          for (uint64_t i = column; i < column + width; ++i) {
            SetCode(matrix, first + r, i, grids[r].NearestCode(static_cast<double>(values[i])));
          }
        }
      }
    }
  });
  if (bad.found()) {
    return CannotRound(w + bad.row() * cols, bad.row(), cols, layout.group_size);
  }
  return matrix;
}

StatusOr<GroupedMatrix> AwqCoder::Round(const PlannedMatrix& m, const float* w,
                                        Executor& executor) const {
  if (!ClipsRanges(m.name)) return QuantizeToNearest(w, m.layout, executor);
  return RoundWithClipping(m.layout, *hessian(), w, executor);
}

}  // namespace tq
