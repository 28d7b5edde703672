#include "codec/grouped_matrix.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/bit_fields.h"
#include "base/checked.h"
#include "kernels/gemm/gemm_f32.h"
#include "kernels/gemm/grouped_codes.h"
#include "kernels/grouped_matmul/grouped_matmul.h"
#include "kernels/ternary_matmul/packing.h"

namespace tq {
namespace {

// Format 1 has kHalf zeros and no order; format 2 says which.
constexpr int32_t kPlainFormat = 1, kFormat = 2, kCode = 2;
constexpr size_t kPlainFields = 6, kFields = 8;
// Ternary codes have a code and a format of their own.
constexpr int32_t kTernaryFormat = 1, kTernaryCode = 3;
constexpr size_t kTernaryFields = 5;
constexpr uint32_t kMinBits = 2, kMaxBits = 8, kMaxGroupSize = 65536;
constexpr uint64_t kMaxSide = std::numeric_limits<int32_t>::max();

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

// Bytes and scales as QuantizeToTernary makes them.
Status CheckTernary(const GroupedLayout& layout, const GroupedTensors& tensors) {
  const uint8_t* codes = tensors.codes.data();
  const uint64_t count = tensors.codes.num_bytes();
  const uint64_t bad = ternary::FindNoCode(ternary::Packing::kBase3, codes, count);
  if (bad < count) {
    return DataLoss(
        "grouped matrix: byte {} of row {} is 0x{:02x}, which is not five ternary codes",
        bad % layout.code_bytes(), bad / layout.code_bytes(), codes[bad]);
  }
  const uint16_t* scales = tensors.scale.as<uint16_t>();
  for (uint64_t i = 0; i < tensors.scale.num_elements(); ++i) {
    if (const float scale = HalfToFloat(scales[i]); scale <= 0) {
      return DataLoss("grouped matrix: scale of row {} group {} is {}, must be above 0",
                      i / layout.groups(), i % layout.groups(), scale);
    }
  }
  return OkStatus();
}

// The zeros of a row as halves, which hold all integers up to 255: `zeros` [groups], or where the
// matrix has them.
const uint16_t* ZerosOf(const GroupedMatrix& m, uint64_t row, uint16_t* zeros) {
  if (m.zeros == ZeroKind::kHalf) return m.zero.as<uint16_t>() + row * m.groups();
  const uint8_t* packed =
      m.zeros == ZeroKind::kPacked ? m.zero.data() + row * m.packed_zero_bytes() : nullptr;
  for (uint64_t g = 0; g < m.groups(); ++g) {
    const uint32_t zero = packed == nullptr ? 1u << (m.bits - 1) : FieldAt(packed, g, m.bits);
    zeros[g] = FloatToHalf(static_cast<float>(zero));
  }
  return zeros;
}

Status CheckPositive(std::string_view name, int32_t value) {
  if (value >= 1) return OkStatus();
  return InvalidArgument("grouped matrix: {} = {}, must be positive", name, value);
}

StatusOr<GroupedLayout> TernaryLayoutFromTensor(const Tensor& layout) {
  int32_t fields[kTernaryFields] = {};
  TQ_RETURN_IF_ERROR(CheckTensor("layout", layout, DType::kI32, {kTernaryFields}));
  __builtin_memcpy(fields, layout.data(), sizeof(fields));
  if (fields[0] != kTernaryFormat) {
    return Unimplemented("grouped matrix: format of ternary codes = {}, known is {}", fields[0],
                         kTernaryFormat);
  }
  constexpr std::string_view kNames[] = {"", "", "rows", "cols", "group_size"};
  for (size_t i = 2; i < kTernaryFields; ++i) {
    TQ_RETURN_IF_ERROR(CheckPositive(kNames[i], fields[i]));
  }
  GroupedLayout result;
  result.rows = static_cast<uint64_t>(fields[2]);
  result.cols = static_cast<uint64_t>(fields[3]);
  result.bits = kTernaryBits;
  result.group_size = static_cast<uint32_t>(fields[4]);
  result.zeros = ZeroKind::kSymmetric;
  TQ_RETURN_IF_ERROR(CheckGroupedLayout(result));
  return result;
}

bool IsTernary(const Tensor& layout) {
  int32_t fields[2] = {};
  if (layout.dtype() != DType::kI32 || layout.num_bytes() < sizeof(fields)) return false;
  __builtin_memcpy(fields, layout.data(), sizeof(fields));
  return fields[1] == kTernaryCode;
}

}  // namespace

Status CheckGroupedLayout(const GroupedLayout& layout) {
  if (layout.rows < 1 || layout.rows > kMaxSide) {
    return InvalidArgument("grouped matrix: rows = {}, must be 1 to {}", layout.rows, kMaxSide);
  }
  if (layout.cols < 1 || layout.cols > kMaxSide) {
    return InvalidArgument("grouped matrix: cols = {}, must be 1 to {}", layout.cols, kMaxSide);
  }
  if (layout.ternary()) {
    if (layout.zeros != ZeroKind::kSymmetric || layout.ordered) {
      return InvalidArgument(
          "grouped matrix: bits = {} are ternary codes, which have no zeros and no order of "
          "columns",
          layout.bits);
    }
  } else if (layout.bits < kMinBits || layout.bits > kMaxBits) {
    return InvalidArgument("grouped matrix: bits = {}, must be {} to {}", layout.bits, kMinBits,
                           kMaxBits);
  }
  if (layout.group_size < 1 || layout.group_size > kMaxGroupSize) {
    return InvalidArgument("grouped matrix: group_size = {}, must be 1 to {}", layout.group_size,
                           kMaxGroupSize);
  }
  return OkStatus();
}

uint64_t GroupedMatrix::num_bytes() const {
  uint64_t bytes = codes.num_bytes() + scale.num_bytes();
  if (zeros != ZeroKind::kSymmetric) bytes += zero.num_bytes();
  if (ordered) bytes += order.num_bytes();
  return bytes;
}

std::vector<int32_t> LayoutToInts(const GroupedLayout& layout) {
  if (layout.ternary()) {
    return {kTernaryFormat, kTernaryCode, static_cast<int32_t>(layout.rows),
            static_cast<int32_t>(layout.cols), static_cast<int32_t>(layout.group_size)};
  }
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
  if (IsTernary(layout)) return TernaryLayoutFromTensor(layout);
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
    TQ_RETURN_IF_ERROR(CheckPositive(kNames[i], fields[i]));
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
  if (result.ternary()) {
    return InvalidArgument("grouped matrix: bits = {}, must be {} to {}", result.bits, kMinBits,
                           kMaxBits);
  }
  TQ_RETURN_IF_ERROR(CheckGroupedLayout(result));
  return result;
}

StatusOr<GroupedMatrix> MakeGroupedMatrix(const GroupedLayout& layout, GroupedTensors tensors) {
  TQ_RETURN_IF_ERROR(CheckGroupedLayout(layout));
  const uint64_t rows = layout.rows, groups = layout.groups();
  TQ_RETURN_IF_ERROR(CheckTensor("codes", tensors.codes, DType::kU8, {rows, layout.code_bytes()}));
  TQ_RETURN_IF_ERROR(CheckTensor("scale", tensors.scale, DType::kF16, {rows, groups}));
  TQ_RETURN_IF_ERROR(CheckFinite("scale", tensors.scale, groups));
  TQ_RETURN_IF_ERROR(CheckZeros(layout, tensors.zero));
  TQ_RETURN_IF_ERROR(CheckOrder(layout, tensors.order));
  if (layout.ternary()) TQ_RETURN_IF_ERROR(CheckTernary(layout, tensors));
  return GroupedMatrix{layout, std::move(tensors)};
}

void DecodeRows(const GroupedMatrix& matrix, uint64_t begin, uint64_t end, float* out) {
  const uint64_t bytes = matrix.code_bytes();
  std::vector<uint16_t> zeros(matrix.zeros == ZeroKind::kHalf ? 0 : matrix.groups());
  std::vector<float> stored(matrix.ordered ? matrix.cols : 0);
  std::vector<uint8_t> trits(matrix.ternary() ? matrix.cols : 0);  // of a row
  for (uint64_t row = begin; row < end; ++row, out += matrix.cols) {
    gemm::GroupedRow codes = {matrix.codes.data() + row * bytes,
                              bytes,
                              matrix.scale.as<uint16_t>() + row * matrix.groups(),
                              ZerosOf(matrix, row, zeros.data()),
                              matrix.cols,
                              matrix.group_size,
                              static_cast<int>(matrix.bits)};
    if (matrix.ternary()) {
      grouped::UnpackTrits(codes.codes, matrix.cols, trits.data());
      codes.codes = trits.data();
      codes.code_bytes = matrix.cols;
      codes.bits = 8;
    }
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
