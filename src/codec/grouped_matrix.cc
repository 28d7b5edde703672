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

constexpr int32_t kFormat = 1, kCode = 2;
constexpr uint32_t kMinBits = 2, kMaxBits = 8, kMaxGroupSize = 65536;
constexpr uint64_t kMaxSide = std::numeric_limits<int32_t>::max();

// A group that is narrow but far from 0 needs a great zero point, which must fit fp16 with
// room to spare: the step is at least this part of the greatest magnitude, which is half
// the spacing of fp16 numbers there. Also covers constant groups.
constexpr double kStepPerMagnitude = 1.0 / 32768;

uint64_t Groups(uint64_t cols, uint32_t group_size) { return CeilDiv<uint64_t>(cols, group_size); }
uint64_t CodeBytes(uint64_t cols, uint32_t bits) { return CeilDiv<uint64_t>(cols * bits, 8); }

// rows, cols, bits and group_size within the limits, so that no size computed from them
// overflows (2^31 * 2^31 halves still fit 64 bits).
Status CheckSizes(uint64_t rows, uint64_t cols, uint64_t bits, uint64_t group_size) {
  if (rows < 1 || rows > kMaxSide) {
    return InvalidArgument("grouped matrix: rows = {}, must be 1 to {}", rows, kMaxSide);
  }
  if (cols < 1 || cols > kMaxSide) {
    return InvalidArgument("grouped matrix: cols = {}, must be 1 to {}", cols, kMaxSide);
  }
  if (bits < kMinBits || bits > kMaxBits) {
    return InvalidArgument("grouped matrix: bits = {}, must be {} to {}", bits, kMinBits, kMaxBits);
  }
  if (group_size < 1 || group_size > kMaxGroupSize) {
    return InvalidArgument("grouped matrix: group_size = {}, must be 1 to {}", group_size,
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

gemm::GroupedRow RowOf(const GroupedMatrix& m, uint64_t row) {
  const uint64_t groups = Groups(m.cols, m.group_size), bytes = CodeBytes(m.cols, m.bits);
  return {m.codes.data() + row * bytes,
          bytes,
          m.scale.as<uint16_t>() + row * groups,
          m.zero.as<uint16_t>() + row * groups,
          m.cols,
          m.group_size,
          static_cast<int>(m.bits)};
}

}  // namespace

uint64_t GroupedMatrix::num_bytes() const {
  return codes.num_bytes() + scale.num_bytes() + zero.num_bytes();
}

std::vector<int32_t> LayoutToInts(const GroupedMatrix& matrix) {
  return {kFormat,
          kCode,
          static_cast<int32_t>(matrix.rows),
          static_cast<int32_t>(matrix.cols),
          static_cast<int32_t>(matrix.bits),
          static_cast<int32_t>(matrix.group_size)};
}

StatusOr<GroupedMatrix> GroupedMatrixFromTensors(const Tensor& layout, Tensor codes, Tensor scale,
                                                 Tensor zero) {
  TQ_RETURN_IF_ERROR(CheckTensor("layout", layout, DType::kI32, {6}));
  int32_t fields[6];
  // The bytes may come from a map at any alignment.
  __builtin_memcpy(fields, layout.data(), sizeof(fields));
  if (fields[0] != kFormat) {
    return Unimplemented("grouped matrix: format = {}, known is {}", fields[0], kFormat);
  }
  if (fields[1] != kCode) {
    return InvalidArgument("grouped matrix: code = {}, must be {}", fields[1], kCode);
  }
  constexpr std::string_view kNames[] = {"", "", "rows", "cols", "bits", "group_size"};
  for (int i = 2; i < 6; ++i) {
    if (fields[i] < 1) {
      return InvalidArgument("grouped matrix: {} = {}, must be positive", kNames[i], fields[i]);
    }
  }
  GroupedMatrix matrix;
  matrix.rows = static_cast<uint64_t>(fields[2]);
  matrix.cols = static_cast<uint64_t>(fields[3]);
  matrix.bits = static_cast<uint32_t>(fields[4]);
  matrix.group_size = static_cast<uint32_t>(fields[5]);
  TQ_RETURN_IF_ERROR(CheckSizes(matrix.rows, matrix.cols, matrix.bits, matrix.group_size));
  const uint64_t groups = Groups(matrix.cols, matrix.group_size);
  TQ_RETURN_IF_ERROR(
      CheckTensor("codes", codes, DType::kU8, {matrix.rows, CodeBytes(matrix.cols, matrix.bits)}));
  TQ_RETURN_IF_ERROR(CheckTensor("scale", scale, DType::kF16, {matrix.rows, groups}));
  TQ_RETURN_IF_ERROR(CheckTensor("zero", zero, DType::kF16, {matrix.rows, groups}));
  TQ_RETURN_IF_ERROR(CheckFinite("scale", scale, groups));
  TQ_RETURN_IF_ERROR(CheckFinite("zero", zero, groups));
  matrix.codes = std::move(codes);
  matrix.scale = std::move(scale);
  matrix.zero = std::move(zero);
  return matrix;
}

StatusOr<GroupedMatrix> QuantizeToNearest(const float* weights, uint64_t rows, uint64_t cols,
                                          uint32_t bits, uint32_t group_size, Executor& executor) {
  TQ_RETURN_IF_ERROR(CheckSizes(rows, cols, bits, group_size));
  const uint64_t groups = Groups(cols, group_size), bytes = CodeBytes(cols, bits);
  GroupedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.bits = bits;
  matrix.group_size = group_size;
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
  for (uint64_t row = begin; row < end; ++row, out += matrix.cols) {
    gemm::DecodeGroupedRow(RowOf(matrix, row), out);
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
