// Products with packed matrices: work over rows of tiles, then the output transform.
#include "codec/packed_matmul.h"

#include <algorithm>

#include "base/checked.h"
#include "base/status.h"
#include "codec/rotation.h"

namespace tq {
namespace {

using trellis::kFragmentRows;
using trellis::kMaxSumColumns;
using trellis::kMaxTileRows;
using trellis::MatmulKernels;
using trellis::TileShape;

// Weights below which a product is not worth waking threads for (about 1 us of work).
constexpr uint64_t kGrainWeights = 32768;
// Columns decoded at a time for many rows of x: 16 KiB of operands and a panel of 6 KiB
// stay in any L1 cache.
constexpr uint64_t kDecodeColumns = 512;
// Rows of x per decode, at most: 128 KiB of sums stay in L2.
constexpr uint64_t kBatchRows = 1024;

struct alignas(64) CacheLine {
  uint8_t bytes[64];
};

// What all items of a product share.
struct Product {
  const PackedMatrix& matrix;
  const RotatedInput& input;
  float* y;
  const trellis::ActivationKernels& activations;
  uint64_t parts;  // of kMaxSumColumns columns
};

// One segment's side of a product.
struct SegmentWork {
  const Segment* segment;
  const MatmulKernels* kernels;
  const RotatedInput::Operand* operand;
  TileShape shape;
  uint64_t tiles_across;
  const uint8_t* codes;

  const uint8_t* TileRow(uint64_t tile_row) const {
    return codes + tile_row * tiles_across * shape.bytes();
  }
  uint64_t GroupsPerTile() const {
    return static_cast<uint64_t>(shape.columns) / GroupColumns(segment->code.values, operand->form);
  }
};

// Writes `count` finished sums of row `row` on, with out_scale where no rotation follows.
void WriteRows(const Product& product, uint64_t x_row, uint64_t row, const float* values,
               uint64_t count) {
  float* y = product.y + x_row * product.matrix.rows + row;
  if (product.matrix.out_block == 1) {
    product.activations.scale_by_half(values, product.matrix.out_scale.as<uint16_t>() + row, count,
                                      y);
  } else {
    std::copy(values, values + count, y);
  }
}

// Turns partial sums of `count` rows into y. Sums over more than kMaxSumColumns columns
// are gathered in `totals` until the last part.
void FinishRows(const Product& product, const SegmentWork& work, uint64_t x_row, uint64_t part,
                uint64_t row, const int32_t* partial, uint64_t count, int64_t* totals) {
  const int32_t factor = trellis::SumFactor(work.segment->code.values);
  const int32_t bias = work.operand->bias[x_row * product.parts + part];
  const float scale = work.operand->scale[x_row] * work.segment->scale;
  float values[kMaxTileRows];
  if (product.parts == 1) {
    product.activations.finish(partial, count, factor, bias, scale, values);
  } else {
    for (uint64_t i = 0; i < count; ++i) {
      const uint32_t sum =
          static_cast<uint32_t>(partial[2 * i]) + static_cast<uint32_t>(partial[2 * i + 1]);
      const auto centred =
          static_cast<int32_t>(static_cast<uint32_t>(factor) * sum + static_cast<uint32_t>(bias));
      totals[i] = (part == 0 ? 0 : totals[i]) + centred;
      values[i] = static_cast<float>(totals[i]) * scale;
    }
    if (part + 1 < product.parts) return;
  }
  WriteRows(product, x_row, row, values, count);
}

// A row of tiles against one row of x.
void GemvTileRow(const Product& product, const SegmentWork& work, uint64_t tile_row) {
  alignas(64) int32_t partial[2 * kMaxTileRows];
  int64_t totals[kMaxTileRows];
  const uint64_t row = work.segment->row_begin + tile_row * work.shape.rows;
  const uint64_t count = std::min<uint64_t>(work.shape.rows, work.segment->row_end - row);
  const uint64_t tile_bytes = work.shape.bytes();
  const uint64_t part_tiles = kMaxSumColumns / work.shape.columns;
  const uint64_t tile_activations =
      work.GroupsPerTile() * static_cast<uint64_t>(GroupBytes(work.operand->form));
  for (uint64_t part = 0; part < product.parts; ++part) {
    const uint64_t first = part * part_tiles;
    const uint64_t tiles = std::min(part_tiles, work.tiles_across - first);
    work.kernels->gemv(work.TileRow(tile_row) + first * tile_bytes, tiles,
                       work.operand->bytes.data() + first * tile_activations, partial);
    FinishRows(product, work, 0, part, row, partial, count, totals);
  }
}

// 16 rows of a row of tiles against rows [x_begin, x_end) of x.
class FragmentProduct {
 public:
  FragmentProduct(const Product& product, uint64_t batch_rows)
      : product_(product),
        decoded_(kDecodeColumns * trellis::kMaxDecodedBytesPerColumn / sizeof(CacheLine)),
        partial_(batch_rows * kPartialLines),
        totals_(product.parts > 1 ? batch_rows * kFragmentRows : 0) {}

  void Run(const SegmentWork& work, uint64_t tile_row, int fragment, uint64_t x_begin,
           uint64_t x_end) {
    const uint64_t row = work.segment->row_begin + tile_row * work.shape.rows +
                         static_cast<uint64_t>(fragment) * kFragmentRows;
    if (row >= work.segment->row_end) return;
    const uint64_t count = std::min<uint64_t>(kFragmentRows, work.segment->row_end - row);
    const uint64_t part_tiles = kMaxSumColumns / work.shape.columns;
    for (uint64_t part = 0; part < product_.parts; ++part) {
      const uint64_t first = part * part_tiles;
      const uint64_t last = std::min(first + part_tiles, work.tiles_across);
      SumPart(work, tile_row, fragment, first, last, x_begin, x_end);
      for (uint64_t i = 0; i < x_end - x_begin; ++i) {
        int64_t* totals = totals_.empty() ? nullptr : totals_.data() + i * kFragmentRows;
        FinishRows(product_, work, x_begin + i, part, row, Partial(i), count, totals);
      }
    }
  }

 private:
  // [2][8][2] int32 per row of x.
  static constexpr uint64_t kPartialLines = 2 * kFragmentRows * sizeof(int32_t) / sizeof(CacheLine);

  int32_t* Partial(uint64_t i) {
    return reinterpret_cast<int32_t*>(partial_.data() + i * kPartialLines);
  }

  void SumPart(const SegmentWork& work, uint64_t tile_row, int fragment, uint64_t first,
               uint64_t last, uint64_t x_begin, uint64_t x_end) {
    const auto panel_rows = static_cast<uint64_t>(product_.input.panel_rows());
    const uint64_t step = kDecodeColumns / work.shape.columns;
    const uint64_t group_bytes = GroupBytes(work.operand->form);
    auto* decoded = reinterpret_cast<uint8_t*>(decoded_.data());
    std::fill_n(Partial(0), (x_end - x_begin) * 2 * kFragmentRows, 0);
    for (uint64_t tile = first; tile < last; tile += step) {
      const uint64_t tiles = std::min(step, last - tile);
      work.kernels->decode(work.TileRow(tile_row) + tile * work.shape.bytes(), tiles, fragment,
                           decoded);
      const uint64_t groups = work.GroupsPerTile();
      for (uint64_t x_row = x_begin; x_row < x_end; x_row += panel_rows) {
        const uint64_t rows = std::min(panel_rows, product_.input.n() - x_row);
        const uint8_t* panel = work.operand->bytes.data() + x_row * work.operand->row_bytes +
                               tile * groups * rows * group_bytes;
        work.kernels->multiply[rows - 1](decoded, panel, tiles * groups, Partial(x_row - x_begin));
      }
    }
  }

  const Product& product_;
  std::vector<CacheLine> decoded_, partial_;
  std::vector<int64_t> totals_;
};

// The segments of a matrix as kernels see them, and the items they are cut into.
class WorkList {
 public:
  // An item is `rows_per_item` rows, or a row of tiles when that is 0.
  WorkList(const Product& product, uint64_t rows_per_item) {
    for (const Segment& segment : product.matrix.segments) {
      TQ_CHECK(count_ < kMaxSegments);
      SegmentWork& work = work_[count_];
      work.segment = &segment;
      work.kernels = &trellis::FindMatmulKernels(product.input.isa(), segment.code);
      work.operand = product.input.FindOperand(segment.code);
      TQ_CHECK(work.operand != nullptr);  // the input was prepared for this code
      work.shape = trellis::ShapeOf(segment.code);
      work.tiles_across = CeilDiv<uint64_t>(product.matrix.cols, work.shape.columns);
      work.codes = product.matrix.codes.data() + segment.byte_offset;
      const uint64_t tile_rows =
          CeilDiv<uint64_t>(segment.row_end - segment.row_begin, work.shape.rows);
      per_tile_row_[count_] = rows_per_item == 0 ? 1 : work.shape.rows / rows_per_item;
      items_[count_] = tile_rows * per_tile_row_[count_];
      ++count_;
    }
  }

  uint64_t size() const { return items_[0] + items_[1]; }

  // Calls body(work, tile_row, index inside the row of tiles) for items [begin, end).
  template <class Body>
  void ForEach(uint64_t begin, uint64_t end, Body&& body) const {
    for (uint64_t item = begin; item < end; ++item) {
      const size_t s = item < items_[0] ? 0 : 1;
      const uint64_t local = s == 0 ? item : item - items_[0];
      body(work_[s], local / per_tile_row_[s], local % per_tile_row_[s]);
    }
  }

 private:
  static constexpr size_t kMaxSegments = 2;
  SegmentWork work_[kMaxSegments];
  uint64_t items_[kMaxSegments] = {}, per_tile_row_[kMaxSegments] = {};
  size_t count_ = 0;
};

void FastProduct(const Product& product, Executor& executor) {
  const uint64_t n = product.input.n(), cols = product.matrix.cols;
  if (n == 1) {
    const WorkList list(product, 0);
    const uint64_t item_weights = cols * kFragmentRows;
    executor.ParallelFor(list.size(), std::max<uint64_t>(1, kGrainWeights / item_weights),
                         [&](size_t begin, size_t end, size_t) {
                           list.ForEach(begin, end,
                                        [&](const SegmentWork& work, uint64_t tile_row, uint64_t) {
                                          GemvTileRow(product, work, tile_row);
                                        });
                         });
    return;
  }
  const auto panel_rows = static_cast<uint64_t>(product.input.panel_rows());
  const uint64_t batch = std::min(n, kBatchRows / panel_rows * panel_rows);
  const WorkList list(product, kFragmentRows);
  const uint64_t grain = std::max<uint64_t>(1, kGrainWeights / (cols * kFragmentRows * n));
  executor.ParallelFor(list.size(), grain, [&](size_t begin, size_t end, size_t) {
    FragmentProduct fragments(product, batch);
    list.ForEach(begin, end, [&](const SegmentWork& work, uint64_t tile_row, uint64_t fragment) {
      for (uint64_t x = 0; x < n; x += batch) {
        fragments.Run(work, tile_row, static_cast<int>(fragment), x, std::min(n, x + batch));
      }
    });
  });
}

// Decoded floats against float activations, a block of rows at a time, summed in double
// along the columns.
void ReferenceProduct(const PackedMatrix& matrix, const RotatedInput& input, Executor& executor,
                      float* y) {
  const uint64_t cols = matrix.cols;
  // 1 MiB of decoded floats, whole fragments where they fit.
  const uint64_t block = std::clamp<uint64_t>((uint64_t{1} << 18) / cols, 1, kFragmentRows);
  executor.ParallelFor(CeilDiv(matrix.rows, block), 1, [&](size_t begin, size_t end, size_t) {
    std::vector<float> decoded(block * cols);
    for (uint64_t b = begin; b < end; ++b) {
      const uint64_t row_begin = b * block, row_end = std::min(matrix.rows, row_begin + block);
      DecodeRotatedRows(matrix, row_begin, row_end, decoded.data());
      for (uint64_t i = 0; i < input.n(); ++i) {
        const float* x = input.rotated() + i * cols;
        for (uint64_t row = row_begin; row < row_end; ++row) {
          const float* w = decoded.data() + (row - row_begin) * cols;
          double sum = 0;
          for (uint64_t c = 0; c < cols; ++c) sum += static_cast<double>(w[c]) * x[c];
          y[i * matrix.rows + row] = static_cast<float>(sum);
        }
      }
    }
  });
}

// y = so * Hout^T y for rows of y.
void TransformOutput(const PackedMatrix& matrix, const trellis::ActivationKernels& kernels,
                     uint64_t n, Executor& executor, float* y) {
  const auto rows = [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) {
      float* row = y + i * matrix.rows;
      BlockHadamard(row, matrix.rows, matrix.out_block, HadamardSide::kTransposed);
      kernels.scale_by_half(row, matrix.out_scale.as<uint16_t>(), matrix.rows, row);
    }
  };
  if (n == 1) {
    rows(0, 1, 0);
  } else {
    executor.ParallelFor(n, std::max<uint64_t>(1, kGrainWeights / matrix.rows), rows);
  }
}

}  // namespace

void PackedMatmul(const PackedMatrix& matrix, const RotatedInput& input, MatmulPath path,
                  Executor& executor, float* y) {
  TQ_CHECK(input.cols() == matrix.cols);
  if (input.n() == 0 || matrix.rows == 0 || matrix.cols == 0) return;
  const trellis::ActivationKernels& kernels = trellis::FindActivationKernels(input.isa());
  if (path == MatmulPath::kReference) {
    TQ_CHECK(input.has_rotated());
    ReferenceProduct(matrix, input, executor, y);
    TransformOutput(matrix, kernels, input.n(), executor, y);
    return;
  }
  const Product product{matrix, input, y, kernels, CeilDiv<uint64_t>(matrix.cols, kMaxSumColumns)};
  FastProduct(product, executor);
  if (matrix.out_block != 1) TransformOutput(matrix, kernels, input.n(), executor, y);
}

}  // namespace tq
