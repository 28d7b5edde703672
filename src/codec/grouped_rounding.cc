#include "codec/grouped_rounding.h"

#include <algorithm>
#include <utility>

#include "base/bit_fields.h"
#include "kernels/grouped_matmul/trits.h"

namespace tq {
namespace {

// A group that is narrow but far from 0 needs a great zero point, which must fit fp16 with
// room to spare: the step is at least this part of the greatest magnitude, which is half
// the spacing of fp16 numbers there. Also covers constant groups.
constexpr double kStepPerMagnitude = 1.0 / 32768;
constexpr double kLargestHalf = 65504;

// The least half not below `value`, which is positive and at most 65504.
uint16_t HalfAtLeast(double value) {
  uint16_t half = FloatToHalf(static_cast<float>(value));
  while (static_cast<double>(HalfToFloat(half)) < value) ++half;
  return half;
}

// Calls visit(first column, number of columns, group) for the groups of a row.
template <typename Visit>
bool ForEachGroup(const GroupedLayout& layout, const Visit& visit) {
  for (uint64_t g = 0; g < layout.groups(); ++g) {
    const uint64_t first = g * layout.group_size;
    if (!visit(first, std::min<uint64_t>(layout.group_size, layout.cols - first), g)) return false;
  }
  return true;
}

double MeanMagnitude(std::span<const float> w) {
  double sum = 0;
  for (const float value : w) sum += static_cast<double>(std::abs(value));
  return sum / static_cast<double>(w.size());
}

// A group's scale and codes by QuantizeToTernary; false if it has no scale.
bool RoundToTernary(std::span<const float> w, uint16_t* scale, uint8_t* codes) {
  const double mean = MeanMagnitude(w);
  if (!(mean <= kLargestHalf)) return false;  // NaN too
  *scale = std::max<uint16_t>(FloatToHalf(static_cast<float>(mean)), 1);
  const double step = static_cast<double>(HalfToFloat(*scale));
  for (size_t i = 0; i < w.size(); ++i) {
    const double trit = std::rint(static_cast<double>(w[i]) / step);
    codes[i] = static_cast<uint8_t>(1 + std::clamp(trit, -1.0, 1.0));
  }
  return true;
}

Status CheckFinite(const float* w, uint64_t row, uint64_t cols) {
  for (uint64_t c = 0; c < cols; ++c) {
    if (!std::isfinite(w[c])) {
      return DataLoss("weight at row {} column {} is not finite ({})", row, c, w[c]);
    }
  }
  return OkStatus();
}

// Why a row `w` has a group without a ternary scale.
Status CannotRoundToTernary(const GroupedLayout& layout, const float* w, uint64_t row) {
  TQ_RETURN_IF_ERROR(CheckFinite(w, row, layout.cols));
  Status status = OkStatus();
  ForEachGroup(layout, [&](uint64_t first, uint64_t count, uint64_t g) {
    const double mean = MeanMagnitude({w + first, count});
    if (mean <= kLargestHalf) return true;
    status = InvalidArgument(
        "weights at row {} group {} are too large for an fp16 scale: their mean magnitude is {} "
        "(limit 65504)",
        row, g, mean);
    return false;
  });
  return status;
}

}  // namespace

std::optional<GroupGrid> MakeGrid(double min, double max, uint32_t bits, ZeroKind zeros) {
  if (!std::isfinite(min) || !std::isfinite(max)) return std::nullopt;
  GroupGrid grid;
  grid.levels = (1u << bits) - 1;
  const double levels = grid.levels;
  if (zeros == ZeroKind::kPacked) {
    min = std::min(min, 0.0);
    max = std::max(max, 0.0);
  }
  const double magnitude = std::max(std::abs(min), std::abs(max));
  double step = (max - min) / levels;
  if (zeros == ZeroKind::kSymmetric) step = 2 * magnitude / levels;
  step = std::max(step, magnitude * kStepPerMagnitude);
  if (step > kLargestHalf) return std::nullopt;
  // Rounded up, so that the levels always span the group.
  if (step > 0) grid.scale = HalfToFloat(HalfAtLeast(step));
  if (zeros == ZeroKind::kSymmetric) {
    grid.zero = static_cast<float>(1u << (bits - 1));
  } else if (grid.scale > 0) {
    const double zero = -min / static_cast<double>(grid.scale);
    grid.zero = zeros == ZeroKind::kHalf
                    ? HalfToFloat(FloatToHalf(static_cast<float>(zero)))
                    : static_cast<float>(std::clamp(std::rint(zero), 0.0, levels));
  }
  return grid;
}

std::optional<GroupGrid> MakeGrid(std::span<const float> values, uint32_t bits, ZeroKind zeros) {
  float min = values[0], max = values[0];
  bool finite = true;
  for (const float value : values) {
    finite &= std::isfinite(value);  // comparisons would pass over NaN
    min = std::min(min, value);
    max = std::max(max, value);
  }
  if (!finite) return std::nullopt;
  return MakeGrid(static_cast<double>(min), static_cast<double>(max), bits, zeros);
}

StatusOr<GroupedMatrix> EmptyGroupedMatrix(const GroupedLayout& layout) {
  TQ_RETURN_IF_ERROR(CheckGroupedLayout(layout));
  GroupedMatrix matrix{layout, {}};
  const uint64_t rows = layout.rows;
  TQ_ASSIGN_OR_RETURN(matrix.codes, Tensor::Zeros(DType::kU8, {rows, layout.code_bytes()}));
  TQ_ASSIGN_OR_RETURN(matrix.scale, Tensor::Zeros(DType::kF16, {rows, layout.groups()}));
  if (layout.zeros == ZeroKind::kHalf) {
    TQ_ASSIGN_OR_RETURN(matrix.zero, Tensor::Zeros(DType::kF16, {rows, layout.groups()}));
  } else if (layout.zeros == ZeroKind::kPacked) {
    TQ_ASSIGN_OR_RETURN(matrix.zero, Tensor::Zeros(DType::kU8, {rows, layout.packed_zero_bytes()}));
  }
  if (layout.ordered) {
    TQ_ASSIGN_OR_RETURN(matrix.order, Tensor::Zeros(DType::kI32, {layout.cols}));
  }
  return matrix;
}

void SetGrid(GroupedMatrix& m, uint64_t row, uint64_t group, const GroupGrid& grid) {
  const uint64_t at = row * m.groups() + group;
  m.scale.mutable_as<uint16_t>()[at] = FloatToHalf(grid.scale);
  if (m.zeros == ZeroKind::kHalf) {
    m.zero.mutable_as<uint16_t>()[at] = FloatToHalf(grid.zero);
  } else if (m.zeros == ZeroKind::kPacked) {
    PutField(m.zero.mutable_data() + row * m.packed_zero_bytes(), group, m.bits,
             static_cast<uint32_t>(grid.zero));
  }
}

void SetCode(GroupedMatrix& m, uint64_t row, uint64_t i, uint32_t q) {
  PutField(m.codes.mutable_data() + row * m.code_bytes(), i, m.bits, q);
}

StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, const GroupedLayout& layout,
                                          Executor& executor) {
  TQ_CHECK(!layout.ordered);
  TQ_ASSIGN_OR_RETURN(GroupedMatrix matrix, EmptyGroupedMatrix(layout));
  TQ_CHECK(!layout.ternary());
  FirstRow bad(layout.rows);
  executor.ParallelFor(layout.rows, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t row = begin; row < end; ++row) {
      const float* w = weights + row * layout.cols;
      const bool good = ForEachGroup(layout, [&](uint64_t first, uint64_t count, uint64_t g) {
        const auto grid = MakeGrid({w + first, count}, layout.bits, layout.zeros);
        if (!grid) return false;
        SetGrid(matrix, row, g, *grid);
        for (uint64_t i = first; i < first + count; ++i) {
          SetCode(matrix, row, i, grid->NearestCode(static_cast<double>(w[i])));
        }
        return true;
      });
      if (!good) bad.Note(row);
    }
  });
  if (bad.found()) {
    return CannotRound(weights + bad.row() * layout.cols, bad.row(), layout.cols,
                       layout.group_size);
  }
  return matrix;
}

StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t bits, uint32_t group_size, Executor& executor) {
  GroupedLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.bits = bits;
  layout.group_size = group_size;
  return QuantizeToNearest(weights, layout, executor);
}

StatusOr<GroupedMatrix> QuantizeToTernary(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t group_size, Executor& executor) {
  GroupedLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.bits = kTernaryBits;
  layout.group_size = group_size;
  layout.zeros = ZeroKind::kSymmetric;
  TQ_ASSIGN_OR_RETURN(GroupedMatrix matrix, EmptyGroupedMatrix(layout));
  auto* scales = matrix.scale.mutable_as<uint16_t>();
  uint8_t* bytes = matrix.codes.mutable_data();
  FirstRow bad(rows);
  executor.ParallelFor(rows, 16, [&](size_t begin, size_t end, size_t) {
    std::vector<uint8_t> codes(cols);
    for (uint64_t row = begin; row < end; ++row) {
      const float* w = weights + row * cols;
      const bool good = ForEachGroup(layout, [&](uint64_t first, uint64_t count, uint64_t g) {
        return RoundToTernary({w + first, count}, scales + row * layout.groups() + g,
                              codes.data() + first);
      });
      if (!good) bad.Note(row);
      grouped::PackTrits(codes.data(), cols, bytes + row * layout.code_bytes());
    }
  });
  if (bad.found()) {
    return CannotRoundToTernary(layout, weights + bad.row() * cols, bad.row());
  }
  return matrix;
}

bool RoundRowToNearest(const GroupedLayout& layout, const float* w, float* rounded) {
  return ForEachGroup(layout, [&](uint64_t first, uint64_t count, uint64_t) {
    const auto grid = MakeGrid({w + first, count}, layout.bits, layout.zeros);
    if (!grid) return false;
    for (uint64_t i = first; i < first + count; ++i) {
      rounded[i] = grid->Nearest(static_cast<double>(w[i]));
    }
    return true;
  });
}

Status CannotRound(const float* w, uint64_t row, uint64_t cols, uint32_t group_size) {
  TQ_RETURN_IF_ERROR(CheckFinite(w, row, cols));
  const auto largest =
      std::max_element(w, w + cols, [](float a, float b) { return std::abs(a) < std::abs(b); });
  const auto column = static_cast<uint64_t>(largest - w);
  return InvalidArgument(
      "weights at row {} group {} are too large for an fp16 scale (limit 65504 per step): column "
      "{} is {}",
      row, column / group_size, column, *largest);
}

}  // namespace tq
