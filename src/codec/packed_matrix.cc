#include "codec/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "codec/rotation.h"
#include "codec/tile_map.h"

namespace tq {
namespace {

using trellis::Code;
using trellis::TileShape;

// Positions in `X.layout`.
enum Field { kFormat, kCodeId, kStateBits, kRows, kCols, kOutBlock, kInBlock, kSegments, kHeader };
constexpr int kPerSegment = 4;  // row_end, V, k, bits of the scale
constexpr int32_t kFormatNow = 1;
constexpr int32_t kHashSum = 1;

Status CheckScale(const Tensor& scale, uint64_t count, std::string_view name) {
  if (scale.dtype() != DType::kF16 || scale.shape() != Shape{count}) {
    return InvalidArgument("{}: {} {}, expected F16 [{}]", name, DTypeName(scale.dtype()),
                           ShapeToString(scale.shape()), count);
  }
  const uint16_t* halves = scale.as<uint16_t>();
  for (uint64_t i = 0; i < count; ++i) {
    if ((halves[i] & 0x7C00) == 0x7C00) {
      return DataLoss("{}: value {} at index {} is not finite", name, HalfToFloat(halves[i]), i);
    }
  }
  return OkStatus();
}

// A block order from a layout: usable, and dividing the dimension.
Status CheckBlock(int32_t block, uint64_t dimension, std::string_view name) {
  if (block < 1 || !IsHadamardOrder(block)) {
    return InvalidArgument("layout: {} {} is not an order m * 2^k, m in 1, 12, 20, 28, 36", name,
                           block);
  }
  if (dimension % block != 0) {
    return InvalidArgument("layout: {} {} does not divide {}", name, block, dimension);
  }
  return OkStatus();
}

// Bytes of a segment, or nothing on overflow.
std::optional<uint64_t> CheckedSegmentBytes(const Segment& segment, uint64_t cols) {
  const auto tiles = CheckedMul(TileRows(segment), TileColumns(segment.code, cols));
  if (!tiles) return std::nullopt;
  return CheckedMul<uint64_t>(*tiles, trellis::ShapeOf(segment.code).bytes());
}

// Reads segment `index` of a layout; `matrix` holds rows, cols and the segments before.
StatusOr<Segment> ParseSegment(const PackedMatrix& matrix, const int32_t* fields, int index,
                               int count, int32_t state_bits) {
  Segment segment;
  segment.row_begin = index == 0 ? 0 : matrix.segments.back().row_end;
  const int32_t row_end = fields[0];
  if (row_end < 0 || static_cast<uint64_t>(row_end) <= segment.row_begin ||
      static_cast<uint64_t>(row_end) > matrix.rows) {
    return InvalidArgument("layout: row_end {} of segment {} is outside {}..{}", row_end, index,
                           segment.row_begin + 1, matrix.rows);
  }
  segment.row_end = row_end;
  if (index == count - 1 && segment.row_end != matrix.rows) {
    return InvalidArgument("layout: the last row_end is {}, rows {}", row_end, matrix.rows);
  }
  if (index < count - 1 && segment.row_end % kSegmentRowMultiple != 0) {
    return InvalidArgument("layout: row_end {} of segment {} is not a multiple of {}", row_end,
                           index, kSegmentRowMultiple);
  }
  segment.code = {fields[1], fields[2], state_bits};
  if (!trellis::IsSupported(segment.code)) {
    return Unimplemented("layout: segment {} has V = {}, k = {}: no such trellis code", index,
                         fields[1], fields[2]);
  }
  segment.scale = std::bit_cast<float>(fields[3]);
  if (!std::isfinite(segment.scale) || segment.scale <= 0) {
    return DataLoss("layout: scale {} of segment {} is not a positive finite number", segment.scale,
                    index);
  }
  if (index > 0) {
    const Segment& before = matrix.segments.back();
    segment.byte_offset = before.byte_offset + SegmentBytes(before, matrix.cols);
  }
  return segment;
}

// The int32 fields of a layout, its length and the fields before the segments checked.
StatusOr<const int32_t*> CheckHeader(const Tensor& layout) {
  if (layout.dtype() != DType::kI32 || layout.shape().size() != 1 || layout.shape()[0] < kHeader) {
    return InvalidArgument("layout: {} {}, expected I32 [n], n at least {}",
                           DTypeName(layout.dtype()), ShapeToString(layout.shape()),
                           static_cast<int>(kHeader));
  }
  const int32_t* fields = layout.as<int32_t>();
  if (fields[kFormat] != kFormatNow) {
    return Unimplemented("layout: format {}, this version reads {}", fields[kFormat], kFormatNow);
  }
  if (fields[kCodeId] != kHashSum) {
    return Unimplemented("layout: code {}, this version reads {} (hash-sum trellis)",
                         fields[kCodeId], kHashSum);
  }
  if (fields[kStateBits] != 16 && fields[kStateBits] != 12) {
    return Unimplemented("layout: {} state bits, this version reads 12 and 16", fields[kStateBits]);
  }
  if (fields[kRows] < 1 || fields[kCols] < 1) {
    return InvalidArgument("layout: shape [{}, {}], each must be at least 1", fields[kRows],
                           fields[kCols]);
  }
  if (fields[kSegments] < 1 || fields[kSegments] > static_cast<int>(kMaxSegments)) {
    return InvalidArgument("layout: {} segments, the limit is {}", fields[kSegments], kMaxSegments);
  }
  const uint64_t expected = LayoutSize(static_cast<size_t>(fields[kSegments]));
  if (layout.shape()[0] != expected) {
    return InvalidArgument("layout: {} numbers, {} segments take {}", layout.shape()[0],
                           fields[kSegments], expected);
  }
  return fields;
}

// Decodes rows [begin, end), which lie in one segment, of W'.
void DecodeSegmentRows(const PackedMatrix& matrix, const Segment& segment, uint64_t begin,
                       uint64_t end, float* out) {
  const TileMap& map = TileMapOf(segment.code);
  const TileShape& shape = map.shape;
  const uint64_t tile_columns = TileColumns(segment.code, matrix.cols);
  const uint8_t* tiles = matrix.codes.data() + segment.byte_offset;
  for (uint64_t row = begin; row < end; ++row, out += matrix.cols) {
    const uint64_t inside = row - segment.row_begin;
    const uint8_t* tile = tiles + inside / shape.rows * tile_columns * shape.bytes();
    for (uint64_t column = 0; column < matrix.cols; column += shape.columns) {
      const int width = static_cast<int>(std::min<uint64_t>(shape.columns, matrix.cols - column));
      DecodeTileRow(map, tile, static_cast<int>(inside % shape.rows), width, segment.scale,
                    out + column);
      tile += shape.bytes();
    }
  }
}

// Row r of W' becomes row r of W' Hin diag(si).
void FinishRow(const InputTransform& input, uint64_t cols, float* row) {
  // (W' Hin)[r, :] = Hin^T W'[r, :] as a column vector.
  BlockHadamard(row, cols, input.in_block, HadamardSide::kTransposed);
  const uint16_t* in_scale = input.in_scale.as<uint16_t>();
  for (uint64_t c = 0; c < cols; ++c) row[c] *= HalfToFloat(in_scale[c]);
}

}  // namespace

uint64_t PackedMatrix::num_bytes() const {
  return codes.num_bytes() + out_scale.num_bytes() + sizeof(int32_t) * LayoutSize(segments.size());
}

uint64_t TileRows(const Segment& segment) {
  return CeilDiv<uint64_t>(segment.row_end - segment.row_begin,
                           trellis::ShapeOf(segment.code).rows);
}

uint64_t TileColumns(Code code, uint64_t cols) {
  return CeilDiv<uint64_t>(cols, trellis::ShapeOf(code).columns);
}

uint64_t SegmentBytes(const Segment& segment, uint64_t cols) {
  return TileRows(segment) * TileColumns(segment.code, cols) *
         trellis::ShapeOf(segment.code).bytes();
}

std::vector<Segment> MakeSegments(uint64_t rows, uint64_t cols, Code first, Code second,
                                  uint64_t split) {
  split = std::min(rows, RoundUp(split, kSegmentRowMultiple));
  std::vector<Segment> segments;
  if (split > 0) segments.push_back({0, split, first, 1, 0});
  if (split < rows) {
    const uint64_t offset = segments.empty() ? 0 : SegmentBytes(segments[0], cols);
    segments.push_back({split, rows, second, 1, offset});
  }
  return segments;
}

uint64_t LayoutSize(size_t segments) { return kHeader + kPerSegment * segments; }

std::vector<int32_t> LayoutToInts(const PackedMatrix& matrix) {
  std::vector<int32_t> fields = {kFormatNow,
                                 kHashSum,
                                 matrix.segments[0].code.state_bits,
                                 static_cast<int32_t>(matrix.rows),
                                 static_cast<int32_t>(matrix.cols),
                                 static_cast<int32_t>(matrix.out_block),
                                 static_cast<int32_t>(matrix.input->in_block),
                                 static_cast<int32_t>(matrix.segments.size())};
  for (const Segment& segment : matrix.segments) {
    fields.push_back(static_cast<int32_t>(segment.row_end));
    fields.push_back(segment.code.values);
    fields.push_back(segment.code.bits);
    fields.push_back(std::bit_cast<int32_t>(segment.scale));
  }
  return fields;
}

StatusOr<PackedMatrix> PackedMatrixFromTensors(const Tensor& layout, Tensor codes, Tensor out_scale,
                                               std::shared_ptr<const InputTransform> input) {
  TQ_ASSIGN_OR_RETURN(const int32_t* fields, CheckHeader(layout));
  PackedMatrix matrix;
  matrix.rows = fields[kRows];
  matrix.cols = fields[kCols];
  TQ_RETURN_IF_ERROR(CheckBlock(fields[kOutBlock], matrix.rows, "out_block"));
  TQ_RETURN_IF_ERROR(CheckBlock(fields[kInBlock], matrix.cols, "in_block"));
  matrix.out_block = fields[kOutBlock];
  if (input == nullptr) return InvalidArgument("in_scale is absent");
  if (input->in_block != static_cast<uint32_t>(fields[kInBlock])) {
    return InvalidArgument("layout: in_block {}, its input group has {}", fields[kInBlock],
                           input->in_block);
  }
  TQ_RETURN_IF_ERROR(CheckScale(input->in_scale, matrix.cols, "in_scale"));
  TQ_RETURN_IF_ERROR(CheckScale(out_scale, matrix.rows, "out_scale"));

  uint64_t bytes = 0;
  for (int i = 0; i < fields[kSegments]; ++i) {
    TQ_ASSIGN_OR_RETURN(Segment segment, ParseSegment(matrix, fields + kHeader + kPerSegment * i, i,
                                                      fields[kSegments], fields[kStateBits]));
    const auto size = CheckedSegmentBytes(segment, matrix.cols);
    const auto sum = size ? CheckedAdd(bytes, *size) : std::nullopt;
    if (!sum) return InvalidArgument("layout: the size of segment {} overflows", i);
    bytes = *sum;
    matrix.segments.push_back(segment);
  }
  if (codes.dtype() != DType::kU8 || codes.shape() != Shape{bytes}) {
    return InvalidArgument("codes: {} {}, the layout implies U8 [{}]", DTypeName(codes.dtype()),
                           ShapeToString(codes.shape()), bytes);
  }
  matrix.codes = std::move(codes);
  matrix.out_scale = std::move(out_scale);
  matrix.input = std::move(input);
  return matrix;
}

void DecodeRotatedRows(const PackedMatrix& matrix, uint64_t begin, uint64_t end, float* out) {
  TQ_CHECK(begin <= end && end <= matrix.rows);
  for (const Segment& segment : matrix.segments) {
    const uint64_t from = std::max(begin, segment.row_begin);
    const uint64_t to = std::min(end, segment.row_end);
    if (from < to) {
      DecodeSegmentRows(matrix, segment, from, to, out + (from - begin) * matrix.cols);
    }
  }
}

void DecodeRow(const PackedMatrix& matrix, uint64_t row, float* out) {
  TQ_CHECK(matrix.out_block == 1);
  DecodeRotatedRows(matrix, row, row + 1, out);
  FinishRow(*matrix.input, matrix.cols, out);
  const float out_scale = HalfToFloat(matrix.out_scale.as<uint16_t>()[row]);
  for (uint64_t c = 0; c < matrix.cols; ++c) out[c] *= out_scale;
}

void DecodeDenseRows(const PackedMatrix& matrix, uint64_t begin, uint64_t end, Executor& executor,
                     float* out) {
  const uint64_t cols = matrix.cols, block = matrix.out_block;
  TQ_CHECK(begin <= end && end <= matrix.rows && begin % block == 0 && end % block == 0);
  executor.ParallelFor((end - begin) / block, 1, [&](size_t from, size_t to, size_t) {
    std::vector<float> column(block);
    for (size_t i = from; i < to; ++i) {
      const uint64_t first = begin + i * block;
      float* rows = out + i * block * cols;
      DecodeRotatedRows(matrix, first, first + block, rows);
      for (uint64_t r = 0; r < block; ++r) FinishRow(*matrix.input, cols, rows + r * cols);
      for (uint64_t c = 0; block > 1 && c < cols; ++c) {
        for (uint64_t r = 0; r < block; ++r) column[r] = rows[r * cols + c];
        BlockHadamard(column.data(), block, matrix.out_block, HadamardSide::kTransposed);
        for (uint64_t r = 0; r < block; ++r) rows[r * cols + c] = column[r];
      }
      for (uint64_t r = 0; r < block; ++r) {
        const float out_scale = HalfToFloat(matrix.out_scale.as<uint16_t>()[first + r]);
        for (uint64_t c = 0; c < cols; ++c) rows[r * cols + c] *= out_scale;
      }
    }
  });
}

void DecodeDense(const PackedMatrix& matrix, Executor& executor, float* out) {
  DecodeDenseRows(matrix, 0, matrix.rows, executor, out);
}

}  // namespace tq
