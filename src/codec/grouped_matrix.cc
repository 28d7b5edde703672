#include "codec/grouped_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "base/checked.h"
#include "kernels/gemm/gemm_f32.h"
#include "kernels/gemm/grouped_codes.h"

namespace tq {
namespace {

// Format 1 has kHalf zeros and no order; format 2 says which.
constexpr int32_t kPlainFormat = 1, kFormat = 2, kCode = 2;
constexpr size_t kPlainFields = 6, kFields = 8;
constexpr uint32_t kMinBits = 2, kMaxBits = 8, kMaxGroupSize = 65536;
constexpr uint64_t kMaxSide = std::numeric_limits<int32_t>::max();

// A group that is narrow but far from 0 needs a great zero point, which must fit fp16 with
// room to spare: the step is at least this part of the greatest magnitude, which is half
// the spacing of fp16 numbers there. Also covers constant groups.
constexpr double kStepPerMagnitude = 1.0 / 32768;

// rows, cols, bits and group_size within the limits, so that no size computed from them
// overflows (2^31 * 2^31 halves still fit 64 bits).
Status CheckSizes(const GroupedLayout& layout) {
  if (layout.rows < 1 || layout.rows > kMaxSide) {
    return InvalidArgument("grouped matrix: rows = {}, must be 1 to {}", layout.rows, kMaxSide);
  }
  if (layout.cols < 1 || layout.cols > kMaxSide) {
    return InvalidArgument("grouped matrix: cols = {}, must be 1 to {}", layout.cols, kMaxSide);
  }
  if (layout.bits < kMinBits || layout.bits > kMaxBits) {
    return InvalidArgument("grouped matrix: bits = {}, must be {} to {}", layout.bits, kMinBits,
                           kMaxBits);
  }
  if (layout.group_size < 1 || layout.group_size > kMaxGroupSize) {
    return InvalidArgument("grouped matrix: group_size = {}, must be 1 to {}", layout.group_size,
                           kMaxGroupSize);
  }
  return OkStatus();
}

Status CheckTensor(std::string_view name, const Tensor& tensor, DType dtype, const Shape& shape) {
  if (tensor.dtype() != dtype || tensor.shape() != shape) {
    return InvalidArgument("grouped matrix: {} is {} {}, the layout implies {} {}", name,
                           DTypeName(tensor.dtype()), ShapeToString(tensor.shape()),
                           DTypeName(dtype), ShapeToString(shape));
  }
  return OkStatus();
}

Status CheckFinite(std::string_view name, const Tensor& tensor, uint64_t groups) {
  const uint16_t* halves = tensor.as<uint16_t>();
  for (uint64_t i = 0; i < tensor.num_elements(); ++i) {
    if ((halves[i] & 0x7C00) == 0x7C00) {
      return DataLoss("grouped matrix: {} of row {} group {} is not finite (0x{:04x})", name,
                      i / groups, i % groups, halves[i]);
    }
  }
  return OkStatus();
}

Status CheckAbsent(std::string_view name, const Tensor& tensor) {
  if (tensor.data() == nullptr) return OkStatus();
  return InvalidArgument("grouped matrix: {} is {} {}, the layout has none", name,
                         DTypeName(tensor.dtype()), ShapeToString(tensor.shape()));
}

Status CheckZeros(const GroupedLayout& layout, const Tensor& zero) {
  switch (layout.zeros) {
    case ZeroKind::kHalf:
      TQ_RETURN_IF_ERROR(CheckTensor("zero", zero, DType::kF16, {layout.rows, layout.groups()}));
      return CheckFinite("zero", zero, layout.groups());
    case ZeroKind::kPacked:
      return CheckTensor("zero", zero, DType::kU8, {layout.rows, layout.packed_zero_bytes()});
    case ZeroKind::kSymmetric:
      return CheckAbsent("zero", zero);
  }
  return InvalidArgument("grouped matrix: zeros = {}, known are 0 to 2",
                         static_cast<int>(layout.zeros));
}

Status CheckOrder(const GroupedLayout& layout, const Tensor& order) {
  if (!layout.ordered) return CheckAbsent("order", order);
  TQ_RETURN_IF_ERROR(CheckTensor("order", order, DType::kI32, {layout.cols}));
  std::vector<bool> seen(layout.cols);
  const int32_t* columns = order.as<int32_t>();
  for (uint64_t i = 0; i < layout.cols; ++i) {
    if (columns[i] < 0 || static_cast<uint64_t>(columns[i]) >= layout.cols) {
      return DataLoss("grouped matrix: order[{}] = {}, must be 0 to {}", i, columns[i],
                      layout.cols - 1);
    }
    if (seen[static_cast<size_t>(columns[i])]) {
      return DataLoss("grouped matrix: order[{}] = {}, which is there twice", i, columns[i]);
    }
    seen[static_cast<size_t>(columns[i])] = true;
  }
  return OkStatus();
}

// The least half not below `value`, which is positive and at most 65504.
uint16_t HalfAtLeast(double value) {
  uint16_t half = FloatToHalf(static_cast<float>(value));
  while (static_cast<double>(HalfToFloat(half)) < value) ++half;
  return half;
}

// What is wrong with a group, if anything.
enum class Problem { kNone, kNotFinite, kTooLarge };

// Scale, zero and codes of one group; `codes` are added at bit `bit` of a zeroed row.
Problem QuantizeGroup(const float* w, uint64_t count, uint32_t bits, uint64_t bit, uint16_t* scale,
                      uint16_t* zero, uint8_t* codes) {
  double min = static_cast<double>(w[0]), max = min;
  for (uint64_t i = 0; i < count; ++i) {
    if (!std::isfinite(w[i])) return Problem::kNotFinite;
    min = std::min(min, static_cast<double>(w[i]));
    max = std::max(max, static_cast<double>(w[i]));
  }
  const double levels = (1u << bits) - 1;
  const double magnitude = std::max(std::abs(min), std::abs(max));
  const double step = std::max((max - min) / levels, magnitude * kStepPerMagnitude);
  if (step > 65504) return Problem::kTooLarge;
  if (step == 0) {
    *scale = *zero = 0;  // all zeros, and codes 0
    return Problem::kNone;
  }
  // Rounded up, so that the levels always span the group.
  *scale = HalfAtLeast(step);
  const auto s = static_cast<double>(HalfToFloat(*scale));
  *zero = FloatToHalf(static_cast<float>(-min / s));
  const auto z = static_cast<double>(HalfToFloat(*zero));
  for (uint64_t i = 0; i < count; ++i, bit += bits) {
    const double level = std::nearbyint(static_cast<double>(w[i]) / s + z);
    const auto q = static_cast<uint32_t>(std::clamp(level, 0.0, levels)) << (bit % 8);
    codes[bit / 8] |= static_cast<uint8_t>(q);
    if (q >> 8 != 0) codes[bit / 8 + 1] |= static_cast<uint8_t>(q >> 8);
  }
  return Problem::kNone;
}

// Describes the first bad weight of a row for which QuantizeGroup failed.
Status BadRow(const float* w, uint64_t row, uint64_t cols, uint32_t group_size) {
  for (uint64_t c = 0; c < cols; ++c) {
    if (!std::isfinite(w[c])) {
      return DataLoss("weight at row {} column {} is not finite ({})", row, c, w[c]);
    }
  }
  const auto largest =
      std::max_element(w, w + cols, [](float a, float b) { return std::abs(a) < std::abs(b); });
  const auto column = static_cast<uint64_t>(largest - w);
  return InvalidArgument(
      "weights at row {} group {} are too large for an fp16 scale (limit 65504 per step): column "
      "{} "
      "is {}",
      row, column / group_size, column, *largest);
}

// The code at place `i` of a row.
uint32_t CodeAt(const uint8_t* codes, uint64_t i, uint32_t bits) {
  const uint64_t bit = i * bits;
  const uint32_t shift = bit % 8;
  uint32_t value = codes[bit / 8] >> shift;
  if (shift + bits > 8) value |= static_cast<uint32_t>(codes[bit / 8 + 1]) << (8 - shift);
  return value & ((1u << bits) - 1);
}

// The zeros of a row as halves, which hold all integers up to 255: `zeros` [groups], or where the
// matrix has them.
const uint16_t* ZerosOf(const GroupedMatrix& m, uint64_t row, uint16_t* zeros) {
  if (m.zeros == ZeroKind::kHalf) return m.zero.as<uint16_t>() + row * m.groups();
  const uint8_t* packed =
      m.zeros == ZeroKind::kPacked ? m.zero.data() + row * m.packed_zero_bytes() : nullptr;
  for (uint64_t g = 0; g < m.groups(); ++g) {
    const uint32_t zero = packed == nullptr ? 1u << (m.bits - 1) : CodeAt(packed, g, m.bits);
    zeros[g] = FloatToHalf(static_cast<float>(zero));
  }
  return zeros;
}

}  // namespace

uint64_t GroupedMatrix::num_bytes() const {
  uint64_t bytes = codes.num_bytes() + scale.num_bytes();
  if (zeros != ZeroKind::kSymmetric) bytes += zero.num_bytes();
  if (ordered) bytes += order.num_bytes();
  return bytes;
}

std::vector<int32_t> LayoutToInts(const GroupedLayout& layout) {
  const bool plain = layout.zeros == ZeroKind::kHalf && !layout.ordered;
  std::vector<int32_t> ints = {
      plain ? kPlainFormat : kFormat,    kCode,
      static_cast<int32_t>(layout.rows), static_cast<int32_t>(layout.cols),
      static_cast<int32_t>(layout.bits), static_cast<int32_t>(layout.group_size)};
  if (!plain) {
    ints.push_back(static_cast<int32_t>(layout.zeros));
    ints.push_back(layout.ordered ? 1 : 0);
  }
  return ints;
}

StatusOr<GroupedLayout> GroupedLayoutFromTensor(const Tensor& layout) {
  // Format 1 is shorter; which it is stands in the first field.
  int32_t fields[kFields] = {};
  const bool plain = layout.shape() == Shape{kPlainFields};
  TQ_RETURN_IF_ERROR(CheckTensor("layout", layout, DType::kI32, {plain ? kPlainFields : kFields}));
  // The bytes may come from a map at any alignment.
  __builtin_memcpy(fields, layout.data(), layout.num_bytes());
  if (fields[0] != kPlainFormat && fields[0] != kFormat) {
    return Unimplemented("grouped matrix: format = {}, known are {} and {}", fields[0],
                         kPlainFormat, kFormat);
  }
  if (plain != (fields[0] == kPlainFormat)) {
    return InvalidArgument("grouped matrix: format = {}, but layout has {} fields", fields[0],
                           layout.num_elements());
  }
  if (fields[1] != kCode) {
    return InvalidArgument("grouped matrix: code = {}, must be {}", fields[1], kCode);
  }
  constexpr std::string_view kNames[] = {"", "", "rows", "cols", "bits", "group_size"};
  for (size_t i = 2; i < kPlainFields; ++i) {
    if (fields[i] < 1) {
      return InvalidArgument("grouped matrix: {} = {}, must be positive", kNames[i], fields[i]);
    }
  }
  if (fields[6] < 0 || fields[6] > static_cast<int32_t>(ZeroKind::kSymmetric)) {
    return InvalidArgument("grouped matrix: zeros = {}, known are 0 to 2", fields[6]);
  }
  if (fields[7] != 0 && fields[7] != 1) {
    return InvalidArgument("grouped matrix: ordered = {}, must be 0 or 1", fields[7]);
  }
  GroupedLayout result;
  result.rows = static_cast<uint64_t>(fields[2]);
  result.cols = static_cast<uint64_t>(fields[3]);
  result.bits = static_cast<uint32_t>(fields[4]);
  result.group_size = static_cast<uint32_t>(fields[5]);
  result.zeros = static_cast<ZeroKind>(fields[6]);
  result.ordered = fields[7] == 1;
  TQ_RETURN_IF_ERROR(CheckSizes(result));
  return result;
}

StatusOr<GroupedMatrix> MakeGroupedMatrix(const GroupedLayout& layout, GroupedTensors tensors) {
  TQ_RETURN_IF_ERROR(CheckSizes(layout));
  const uint64_t rows = layout.rows, groups = layout.groups();
  TQ_RETURN_IF_ERROR(CheckTensor("codes", tensors.codes, DType::kU8, {rows, layout.code_bytes()}));
  TQ_RETURN_IF_ERROR(CheckTensor("scale", tensors.scale, DType::kF16, {rows, groups}));
  TQ_RETURN_IF_ERROR(CheckFinite("scale", tensors.scale, groups));
  TQ_RETURN_IF_ERROR(CheckZeros(layout, tensors.zero));
  TQ_RETURN_IF_ERROR(CheckOrder(layout, tensors.order));
  return GroupedMatrix{layout, std::move(tensors)};
}

StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t bits, uint32_t group_size, Executor& executor) {
  GroupedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.bits = bits;
  matrix.group_size = group_size;
  TQ_RETURN_IF_ERROR(CheckSizes(matrix));
  const uint64_t groups = matrix.groups(), bytes = matrix.code_bytes();
  TQ_ASSIGN_OR_RETURN(matrix.codes, Tensor::Zeros(DType::kU8, {rows, bytes}));
  TQ_ASSIGN_OR_RETURN(matrix.scale, Tensor::Zeros(DType::kF16, {rows, groups}));
  TQ_ASSIGN_OR_RETURN(matrix.zero, Tensor::Zeros(DType::kF16, {rows, groups}));
  uint8_t* codes = matrix.codes.mutable_data();
  auto* scales = matrix.scale.mutable_as<uint16_t>();
  auto* zeros = matrix.zero.mutable_as<uint16_t>();
  std::atomic<uint64_t> bad_row{rows};  // the first, whatever the threads do
  executor.ParallelFor(rows, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t row = begin; row < end; ++row) {
      for (uint64_t g = 0; g < groups; ++g) {
        const uint64_t column = g * group_size;
        const uint64_t count = std::min<uint64_t>(group_size, cols - column);
        const Problem problem =
            QuantizeGroup(weights + row * cols + column, count, bits, column * bits,
                          scales + row * groups + g, zeros + row * groups + g, codes + row * bytes);
        if (problem == Problem::kNone) continue;
        uint64_t first = bad_row;
        while (row < first && !bad_row.compare_exchange_weak(first, row)) {
        }
        return;
      }
    }
  });
  if (bad_row < rows) return BadRow(weights + bad_row * cols, bad_row, cols, group_size);
  return matrix;
}

void DecodeRows(const GroupedMatrix& matrix, uint64_t begin, uint64_t end, float* out) {
  const uint64_t bytes = matrix.code_bytes();
  std::vector<uint16_t> zeros(matrix.zeros == ZeroKind::kHalf ? 0 : matrix.groups());
  std::vector<float> stored(matrix.ordered ? matrix.cols : 0);
  for (uint64_t row = begin; row < end; ++row, out += matrix.cols) {
    const gemm::GroupedRow codes = {matrix.codes.data() + row * bytes,
                                    bytes,
                                    matrix.scale.as<uint16_t>() + row * matrix.groups(),
                                    ZerosOf(matrix, row, zeros.data()),
                                    matrix.cols,
                                    matrix.group_size,
                                    static_cast<int>(matrix.bits)};
    gemm::DecodeGroupedRow(codes, matrix.ordered ? stored.data() : out);
    const int32_t* order = matrix.order.as<int32_t>();
    for (uint64_t i = 0; i < stored.size(); ++i) out[order[i]] = stored[i];
  }
}

void GroupedMatmul(const GroupedMatrix& matrix, const float* x, uint64_t n, Executor& executor,
                   float* y) {
  // Decoded rows of a block stay in the second-level cache (48 x 1536 floats are 288 KiB);
  // 48 is the panel of the product.
  constexpr uint64_t kBlockRows = 48;
  executor.ParallelFor(CeilDiv(matrix.rows, kBlockRows), 1, [&](size_t begin, size_t end, size_t) {
    std::vector<float> rows(kBlockRows * matrix.cols);
    for (size_t block = begin; block < end; ++block) {
      const uint64_t first = block * kBlockRows;
      const uint64_t last = std::min(matrix.rows, first + kBlockRows);
      DecodeRows(matrix, first, last, rows.data());
      gemm::MatmulNt({n, last - first, matrix.cols, x, matrix.cols, rows.data(), matrix.cols,
                      y + first, matrix.rows, false});
    }
  });
}

}  // namespace tq
