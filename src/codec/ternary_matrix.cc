#include "codec/ternary_matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "base/checked.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace tq {
namespace {

using ternary::kMaxTileColumns;
using ternary::kTileBytes;
using ternary::kTileRows;
using ternary::Packing;
using ternary::TileColumns;

// With columns up to kMaxColumns no size computed from both overflows.
constexpr uint64_t kMaxRows = std::numeric_limits<int32_t>::max();
// The mean magnitude counts as this at least, so that matrices of zeros have a scale.
constexpr double kSmallestMean = 1e-5;

uint64_t TilesAcross(const TernaryMatrix& matrix) {
  return CeilDiv<uint64_t>(matrix.cols, TileColumns(matrix.packing));
}

Status CheckSizes(uint64_t rows, uint64_t cols) {
  if (rows < 1 || rows > kMaxRows) {
    return InvalidArgument("ternary matrix: rows = {}, must be 1 to {}", rows, kMaxRows);
  }
  if (cols < 1 || cols > ternary::kMaxColumns) {
    return InvalidArgument("ternary matrix: cols = {}, must be 1 to {}", cols,
                           ternary::kMaxColumns);
  }
  return OkStatus();
}

bool IsScale(float scale) { return std::isfinite(scale) && scale > 0; }

Status CheckScales(const std::vector<float>& scales, uint64_t rows) {
  if (scales.size() != 1 && scales.size() != rows) {
    return InvalidArgument("ternary matrix: {} scales, must be 1 or {}, one per row", scales.size(),
                           rows);
  }
  for (size_t i = 0; i < scales.size(); ++i) {
    if (!IsScale(scales[i])) {
      return DataLoss("ternary matrix: scale {} at index {} is not a positive finite number",
                      scales[i], i);
    }
  }
  return OkStatus();
}

// rows and cols of a tensor that must be of rank 2.
Status CheckRank2(std::string_view name, const TensorView& tensor, DType dtype) {
  if (tensor.dtype != dtype || tensor.shape.size() != 2) {
    return InvalidArgument("ternary matrix: {} is {} {}, expected {} of rank 2", name,
                           DTypeName(tensor.dtype), ShapeToString(tensor.shape), DTypeName(dtype));
  }
  return OkStatus();
}

// Packs what `fill(row, column, count, out)` says that `count` trits of a row from a column on are.
template <class Fill>
StatusOr<TernaryMatrix> Pack(Packing packing, uint64_t rows, uint64_t cols,
                             std::vector<float> scales, Executor& executor, const Fill& fill) {
  TernaryMatrix matrix{rows, cols, packing, {}, std::move(scales)};
  TQ_ASSIGN_OR_RETURN(matrix.codes, Tensor::Zeros(DType::kU8, {TernaryBytes(packing, rows, cols)}));
  const uint64_t across = TilesAcross(matrix), columns = TileColumns(packing);
  uint8_t* codes = matrix.codes.mutable_data();
  executor.ParallelFor(
      CeilDiv<uint64_t>(rows, kTileRows), 1, [&](size_t begin, size_t end, size_t) {
        for (uint64_t tile = begin * across; tile < end * across; ++tile) {
          const uint64_t row = tile / across * kTileRows, column = tile % across * columns;
          const auto height = static_cast<int>(std::min<uint64_t>(kTileRows, rows - row));
          const auto width = static_cast<int>(std::min<uint64_t>(columns, cols - column));
          int8_t trits[kTileRows * kMaxTileColumns];
          for (int r = 0; r < height; ++r) {
            fill(row + r, column, width, trits + r * static_cast<int>(columns));
          }
          ternary::PackTile(packing, trits, columns, height, width, codes + tile * kTileBytes);
        }
      });
  return matrix;
}

// The mean magnitude, added up row by row in double.
StatusOr<double> MeanMagnitude(const float* weights, uint64_t rows, uint64_t cols,
                               Executor& executor) {
  std::vector<double> sums(rows);
  executor.ParallelFor(rows, CeilDiv<uint64_t>(32768, cols), [&](size_t begin, size_t end, size_t) {
    for (uint64_t row = begin; row < end; ++row) {
      const float* w = weights + row * cols;
      for (uint64_t c = 0; c < cols; ++c) sums[row] += std::fabs(static_cast<double>(w[c]));
    }
  });
  double sum = 0;
  for (uint64_t row = 0; row < rows; ++row) {
    if (!std::isfinite(sums[row])) {
      const float* w = weights + row * cols;
      const auto column = std::find_if_not(w, w + cols, [](float v) { return std::isfinite(v); });
      return DataLoss("ternary matrix: weight {} at row {} column {} is not finite", *column, row,
                      column - w);
    }
    sum += sums[row];
  }
  return sum / static_cast<double>(rows) / static_cast<double>(cols);
}

}  // namespace

uint64_t TernaryBytes(Packing packing, uint64_t rows, uint64_t cols) {
  return CeilDiv<uint64_t>(rows, kTileRows) * CeilDiv<uint64_t>(cols, TileColumns(packing)) *
         kTileBytes;
}

StatusOr<TernaryMatrix> TernaryMatrixFromCodes(Packing packing, uint64_t rows, uint64_t cols,
                                               Tensor codes, std::vector<float> scales) {
  TQ_RETURN_IF_ERROR(CheckSizes(rows, cols));
  TQ_RETURN_IF_ERROR(CheckScales(scales, rows));
  const uint64_t bytes = TernaryBytes(packing, rows, cols);
  if (codes.dtype() != DType::kU8 || codes.shape() != Shape{bytes}) {
    return InvalidArgument("ternary matrix: codes are {} {}, {} x {} weights take U8 [{}]",
                           DTypeName(codes.dtype()), ShapeToString(codes.shape()), rows, cols,
                           bytes);
  }
  const uint64_t bad = ternary::FindNoCode(packing, codes.data(), bytes);
  if (bad != bytes) {
    return DataLoss("ternary matrix: byte 0x{:02x} at offset {} is no code of {} weights",
                    codes.data()[bad], bad, ternary::TileGroups(packing));
  }
  return TernaryMatrix{rows, cols, packing, std::move(codes), std::move(scales)};
}

StatusOr<TernaryMatrix> PackTernaryMatrix(Packing packing, const TensorView& trits,
                                          std::vector<float> scales, Executor& executor) {
  TQ_RETURN_IF_ERROR(CheckRank2("trits", trits, DType::kI8));
  const uint64_t rows = trits.shape[0], cols = trits.shape[1];
  TQ_RETURN_IF_ERROR(CheckSizes(rows, cols));
  TQ_RETURN_IF_ERROR(CheckScales(scales, rows));
  const auto* values = trits.as<int8_t>();
  const auto* bad =
      std::find_if(values, values + rows * cols, [](int8_t t) { return t < -1 || t > 1; });
  if (bad != values + rows * cols) {
    const auto at = static_cast<uint64_t>(bad - values);
    return DataLoss("ternary matrix: weight {} at row {} column {} is not -1, 0 or 1", *bad,
                    at / cols, at % cols);
  }
  return Pack(packing, rows, cols, std::move(scales), executor,
              [&](uint64_t row, uint64_t column, int count, int8_t* out) {
                std::copy_n(values + row * cols + column, count, out);
              });
}

StatusOr<TernaryMatrix> TernaryMatrixFromBitNet(Packing packing, const TensorView& weight,
                                                float weight_scale, WeightScale meaning,
                                                Executor& executor) {
  TQ_RETURN_IF_ERROR(CheckRank2("weight", weight, DType::kU8));
  const uint64_t quarter = weight.shape[0], cols = weight.shape[1];
  const auto rows = CheckedMul<uint64_t>(quarter, 4);
  if (!rows) return InvalidArgument("ternary matrix: 4 * {} rows overflow", quarter);
  TQ_RETURN_IF_ERROR(CheckSizes(*rows, cols));
  if (!IsScale(weight_scale)) {
    return DataLoss("ternary matrix: weight_scale {} is not a positive finite number",
                    weight_scale);
  }
  const float scale = meaning == WeightScale::kDivides ? 1 / weight_scale : weight_scale;
  if (!IsScale(scale)) {
    return DataLoss("ternary matrix: weight_scale {} divides, and its inverse {} is not finite",
                    weight_scale, scale);
  }
  // The same four fields of 2 bits as a code of ours, in another order of rows.
  const uint64_t bad = ternary::FindNoCode(Packing::k2Bits, weight.data, quarter * cols);
  if (bad != quarter * cols) {
    int field = 0;
    while ((weight.data[bad] >> 2 * field & 3) != 3) ++field;
    return DataLoss("ternary matrix: weight holds 3 at row {} column {} (byte 0x{:02x})",
                    field * quarter + bad / cols, bad % cols, weight.data[bad]);
  }
  return Pack(packing, *rows, cols, {scale}, executor,
              [&](uint64_t row, uint64_t column, int count, int8_t* out) {
                const uint8_t* bytes = weight.data + row % quarter * cols + column;
                const auto shift = static_cast<int>(2 * (row / quarter));
                for (int i = 0; i < count; ++i) {
                  out[i] = static_cast<int8_t>((bytes[i] >> shift & 3) - 1);
                }
              });
}

StatusOr<TernaryMatrix> TernaryMatrixFromFloats(Packing packing, const float* weights,
                                                uint64_t rows, uint64_t cols, Executor& executor) {
  TQ_RETURN_IF_ERROR(CheckSizes(rows, cols));
  TQ_ASSIGN_OR_RETURN(const double mean, MeanMagnitude(weights, rows, cols, executor));
  const auto scale = static_cast<float>(std::max(mean, kSmallestMean));
  return Pack(packing, rows, cols, {scale}, executor,
              [&](uint64_t row, uint64_t column, int count, int8_t* out) {
                const float* w = weights + row * cols + column;
                for (int i = 0; i < count; ++i) {
                  out[i] =
                      static_cast<int8_t>(std::clamp(std::nearbyint(w[i] / scale), -1.0f, 1.0f));
                }
              });
}

void DecodeRows(const TernaryMatrix& matrix, uint64_t begin, uint64_t end, float* out) {
  TQ_CHECK(begin <= end && end <= matrix.rows);
  const uint64_t across = TilesAcross(matrix), columns = TileColumns(matrix.packing);
  for (uint64_t tile_row = begin / kTileRows; tile_row * kTileRows < end; ++tile_row) {
    const uint64_t first = tile_row * kTileRows;
    for (uint64_t t = 0; t < across; ++t) {
      int8_t trits[kTileRows * kMaxTileColumns];
      ternary::UnpackTile(matrix.packing,
                          matrix.codes.data() + (tile_row * across + t) * kTileBytes, trits);
      const uint64_t width = std::min(columns, matrix.cols - t * columns);
      for (uint64_t row = std::max(begin, first); row < std::min(end, first + kTileRows); ++row) {
        const int8_t* from = trits + (row - first) * columns;
        float* to = out + (row - begin) * matrix.cols + t * columns;
        for (uint64_t c = 0; c < width; ++c)
          to[c] = matrix.scale(row) * static_cast<float>(from[c]);
      }
    }
  }
}

}  // namespace tq
