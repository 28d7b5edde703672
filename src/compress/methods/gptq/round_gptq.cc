#include "compress/methods/gptq/round_gptq.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <span>

#include "base/checked.h"
#include "codec/grouped_rounding.h"
#include "compress/feedback.h"

namespace tq {
namespace {

// Share of the mean diagonal that is added to H (the paper, section 3.3).
constexpr double kDamping = 0.01;
// Columns of a block of feedback where a row is one group: inside a block every column updates the
// others one by one.
constexpr uint64_t kRowBlock = 64;
// Rows that are rounded together: enough for products, small against a layer's.
constexpr uint64_t kRows = 32;

std::vector<int32_t> OrderOf(const Tensor& h, ColumnOrder order) {
  const uint64_t cols = h.shape()[0];
  std::vector<int32_t> columns(cols);
  std::iota(columns.begin(), columns.end(), 0);
  if (order == ColumnOrder::kAsStored) return columns;
  const float* a = h.as<float>();
  std::ranges::stable_sort(columns, std::ranges::greater{},
                           [&](int32_t c) { return a[static_cast<uint64_t>(c) * (cols + 1)]; });
  return columns;
}

// H [n, n] with padding: its diagonal is the mean of H's, so that the damping is H's.
StatusOr<Tensor> Rearranged(const Tensor& h, const std::vector<int32_t>& order, uint64_t n,
                            Executor& executor) {
  const uint64_t cols = order.size();
  const float* a = h.as<float>();
  double mean = 0;
  for (uint64_t j = 0; j < cols; ++j) mean += a[j * (cols + 1)] / static_cast<double>(cols);
  TQ_ASSIGN_OR_RETURN(Tensor result, Tensor::Zeros(DType::kF32, {n, n}));
  float* out = result.mutable_as<float>();
  for (uint64_t p = 0; p < n - cols; ++p) out[p * (n + 1)] = static_cast<float>(mean);
  executor.ParallelFor(cols, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      const float* from = a + static_cast<uint64_t>(order[i]) * cols;
      float* row = out + (n - 1 - i) * n;
      for (uint64_t j = 0; j < cols; ++j) row[n - 1 - j] = from[order[j]];
    }
  });
  return result;
}

// Rounds the blocks of some rows, in the manner of BlockRounder.
class GptqRounder {
 public:
  // `grids`: of each row, or none where groups find theirs.
  GptqRounder(const GptqInput& input, GroupedMatrix& matrix, uint64_t first_row, uint64_t rows,
              std::span<const GroupGrid> grids, FirstRow& bad)
      : input_(input),
        matrix_(matrix),
        first_row_(first_row),
        rows_(rows),
        grids_(grids),
        bad_(bad) {}

  void operator()(uint64_t column_block, const float* target, float* decoded) {
    const uint64_t block = input_.block(), place = column_block * block;
    const uint64_t padding = input_.factor().n() - input_.cols();  // less than a block
    const uint64_t skipped = column_block == 0 ? padding : 0;
    for (uint64_t r = 0; r < rows_; ++r) {
      RoundRow(r, place, skipped, target + r * block, decoded + r * block);
    }
  }

 private:
  // Place t of the block, from the last to `skipped`, is the column that is rounded i-th with
  // i = n - 1 - place - t.
  void RoundRow(uint64_t r, uint64_t place, uint64_t skipped, const float* target,
                float* decoded) const {
    const uint64_t block = input_.block(), n = input_.factor().n(), row = first_row_ + r;
    std::fill_n(decoded, block, 0.0f);
    const uint64_t first = n - place - block;  // i of the block's last place
    GroupGrid grid;
    if (!grids_.empty()) {
      grid = grids_[r];
    } else {
      const auto found = MakeGrid({target + skipped, block - skipped}, matrix_.bits, matrix_.zeros);
      if (!found) return bad_.Note(row);
      grid = *found;
      SetGrid(matrix_, row, first / matrix_.group_size, grid);
    }
    // carried[u] = sum over the rounded places t > u of e_t C_tu.
    std::array<float, Feedback::kSuperBlock> carried{};
    for (uint64_t t = block; t-- > skipped;) {
      const float* c = input_.factor().lower() + (place + t) * n + place;
      const float wanted = target[t] + carried[t] / c[t];
      const uint32_t q = grid.NearestCode(static_cast<double>(wanted));
      SetCode(matrix_, row, n - 1 - place - t, q);
      decoded[t] = grid.Value(q);
      const float e = target[t] - decoded[t];
      for (uint64_t u = 0; u < t; ++u) carried[u] += e * c[u];
    }
  }

  const GptqInput& input_;
  GroupedMatrix& matrix_;
  uint64_t first_row_, rows_;
  std::span<const GroupGrid> grids_;
  FirstRow& bad_;
};

// The grids of rows w [rows, cols] that are one group each, set in the matrix.
std::vector<GroupGrid> RowGrids(const float* w, uint64_t first_row, uint64_t rows,
                                GroupedMatrix& matrix, FirstRow& bad) {
  std::vector<GroupGrid> grids(rows);
  for (uint64_t r = 0; r < rows; ++r) {
    const auto grid =
        MakeGrid({w + (first_row + r) * matrix.cols, matrix.cols}, matrix.bits, matrix.zeros);
    if (grid) {
      grids[r] = *grid;
      SetGrid(matrix, first_row + r, 0, *grid);
    } else {
      bad.Note(first_row + r);
    }
  }
  return grids;
}

}  // namespace

StatusOr<GptqInput> GptqInput::Create(std::string_view name, const Tensor& h, uint32_t group_size,
                                      ColumnOrder order, Executor& executor,
                                      const DenseDevice* device) {
  const uint64_t cols = h.shape()[0];
  uint64_t block = kRowBlock;
  if (group_size < cols) {
    if (group_size == 0 || Feedback::kSuperBlock % group_size != 0) {
      return InvalidArgument(
          "gptq: groups of {} columns; {} must be a multiple of that, or a row "
          "one group",
          group_size, Feedback::kSuperBlock);
    }
    block = group_size;
  }
  std::vector<int32_t> columns = OrderOf(h, order);
  TQ_ASSIGN_OR_RETURN(Tensor rearranged, Rearranged(h, columns, RoundUp(cols, block), executor));
  TQ_ASSIGN_OR_RETURN(HessianFactor factor, HessianFactor::Create(name, std::move(rearranged),
                                                                  kDamping, executor, device));
  return GptqInput(std::move(columns), std::move(factor), block);
}

StatusOr<GroupedMatrix> RoundGptq(const GptqInput& input, const GroupedLayout& layout,
                                  const float* w, Executor& executor) {
  TQ_CHECK(layout.cols == input.cols());
  const uint64_t cols = layout.cols, n = input.factor().n();
  const bool whole_rows = layout.groups() == 1;
  TQ_CHECK(whole_rows || layout.group_size == input.block());
  TQ_ASSIGN_OR_RETURN(GroupedMatrix matrix, EmptyGroupedMatrix(layout));
  const std::vector<int32_t>& order = input.order();
  if (layout.ordered) std::copy(order.begin(), order.end(), matrix.order.mutable_as<int32_t>());
  const Feedback feedback(&input.factor(), n, input.block());
  FirstRow bad(layout.rows);
  executor.ParallelFor(CeilDiv(layout.rows, kRows), 1, [&](size_t begin, size_t end, size_t) {
    std::vector<float> rows(kRows * n);
    for (size_t piece = begin; piece < end; ++piece) {
      const uint64_t first = piece * kRows, count = std::min(kRows, layout.rows - first);
      std::fill(rows.begin(), rows.end(), 0.0f);
      for (uint64_t r = 0; r < count; ++r) {
        for (uint64_t i = 0; i < cols; ++i) {
          rows[r * n + n - 1 - i] = w[(first + r) * cols + static_cast<uint64_t>(order[i])];
        }
      }
      std::vector<GroupGrid> grids;
      if (whole_rows) grids = RowGrids(w, first, count, matrix, bad);
      GptqRounder rounder(input, matrix, first, count, grids, bad);
      feedback.Round(rows.data(), count, std::ref(rounder));
    }
  });
  if (bad.found()) {
    return CannotRound(w + bad.row() * cols, bad.row(), cols, layout.group_size);
  }
  return matrix;
}

}  // namespace tq
