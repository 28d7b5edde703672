// Products with packed matrices: work over rows of tiles, then the output transform.
#include "codec/packed_matmul.h"

#include <algorithm>
#include <span>
#include <vector>

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
// Fragments of 16 rows decoded together, and rows of x they meet, at most: 64 KiB of
// operands and 256 KiB of sums stay in L2, and x is read from beyond it once per 64 rows.
constexpr uint64_t kMaxFragments = 4;
constexpr uint64_t kBatchRows = 516;

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

// 16 rows of a row of tiles.
struct Fragment {
  const SegmentWork* work;
  uint64_t tile_row, index;

  uint64_t row() const {
    return work->segment->row_begin + tile_row * work->shape.rows + index * kFragmentRows;
  }
};

// Up to kMaxFragments fragments of a segment against a batch of rows of x.
class FragmentProduct {
 public:
  FragmentProduct(const Product& product, uint64_t batch_rows, uint64_t max_fragments)
      : product_(product),
        batch_rows_(batch_rows),
        decoded_(max_fragments * kDecodedLines),
        partial_(max_fragments * batch_rows * kPartialLines),
        totals_(product.parts > 1 ? max_fragments * batch_rows * kFragmentRows : 0) {}

  void Run(std::span<const Fragment> fragments, uint64_t x_begin, uint64_t x_end) {
    const SegmentWork& work = *fragments[0].work;
    const uint64_t part_tiles = kMaxSumColumns / work.shape.columns;
    for (uint64_t part = 0; part < product_.parts; ++part) {
      const uint64_t first = part * part_tiles;
      SumPart(fragments, first, std::min(first + part_tiles, work.tiles_across), x_begin, x_end);
      for (size_t f = 0; f < fragments.size(); ++f) {
        const uint64_t row = fragments[f].row();
        const uint64_t count = std::min<uint64_t>(kFragmentRows, work.segment->row_end - row);
        for (uint64_t i = 0; i < x_end - x_begin; ++i) {
          int64_t* totals =
              totals_.empty() ? nullptr : totals_.data() + (f * batch_rows_ + i) * kFragmentRows;
          FinishRows(product_, work, x_begin + i, part, row, Partial(f, i), count, totals);
        }
      }
    }
  }

 private:
  // [2][8][2] int32 per row of x.
  static constexpr uint64_t kPartialLines = 2 * kFragmentRows * sizeof(int32_t) / sizeof(CacheLine);
  static constexpr uint64_t kDecodedLines =
      kDecodeColumns * trellis::kMaxDecodedBytesPerColumn / sizeof(CacheLine);

  int32_t* Partial(size_t fragment, uint64_t i) {
    return reinterpret_cast<int32_t*>(partial_.data() +
                                      (fragment * batch_rows_ + i) * kPartialLines);
  }
  uint8_t* Decoded(size_t fragment) {
    return reinterpret_cast<uint8_t*>(decoded_.data() + fragment * kDecodedLines);
  }

  // Sums over tiles [first, last). A panel of x comes from memory once for all fragments.
  void SumPart(std::span<const Fragment> fragments, uint64_t first, uint64_t last, uint64_t x_begin,
               uint64_t x_end) {
    const SegmentWork& work = *fragments[0].work;
    const auto panel_rows = static_cast<uint64_t>(product_.input.panel_rows());
    const uint64_t step = kDecodeColumns / work.shape.columns;
    const uint64_t groups = work.GroupsPerTile();
    const uint64_t group_bytes = GroupBytes(work.operand->form);
    for (size_t f = 0; f < fragments.size(); ++f) {
      std::fill_n(Partial(f, 0), (x_end - x_begin) * 2 * kFragmentRows, 0);
    }
    for (uint64_t tile = first; tile < last; tile += step) {
      const uint64_t tiles = std::min(step, last - tile);
      for (size_t f = 0; f < fragments.size(); ++f) {
        work.kernels->decode(work.TileRow(fragments[f].tile_row) + tile * work.shape.bytes(), tiles,
                             static_cast<int>(fragments[f].index), Decoded(f));
      }
      for (uint64_t x_row = x_begin; x_row < x_end; x_row += panel_rows) {
        const uint64_t rows = std::min(panel_rows, product_.input.n() - x_row);
        const uint8_t* panel = work.operand->bytes.data() + x_row * work.operand->row_bytes +
                               tile * groups * rows * group_bytes;
        for (size_t f = 0; f < fragments.size(); ++f) {
          work.kernels->multiply[rows - 1](Decoded(f), panel, tiles * groups,
                                           Partial(f, x_row - x_begin));
        }
      }
    }
  }

  const Product& product_;
  const uint64_t batch_rows_;
  std::vector<CacheLine> decoded_, partial_;
  std::vector<int64_t> totals_;
};

// The segments of a matrix as kernels see them, and their rows of tiles and fragments in order.
class WorkList {
 public:
  explicit WorkList(const Product& product) {
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
      tile_rows_[count_] = CeilDiv<uint64_t>(segment.row_end - segment.row_begin, work.shape.rows);
      fragments_[count_] = tile_rows_[count_] * (work.shape.rows / kFragmentRows);
      ++count_;
    }
  }

  uint64_t tile_rows() const { return tile_rows_[0] + tile_rows_[1]; }
  uint64_t fragments() const { return fragments_[0] + fragments_[1]; }

  Fragment TileRowAt(uint64_t i) const {
    return i < tile_rows_[0] ? Fragment{&work_[0], i, 0}
                             : Fragment{&work_[1], i - tile_rows_[0], 0};
  }
  // Takes up to `most` fragments of one segment from [next, end), leaving out those that are
  // padding, and moves `next` on.
  uint64_t Take(uint64_t& next, uint64_t end, uint64_t most, Fragment* fragments) const {
    uint64_t count = 0;
    for (; count < most && next < end; ++next) {
      const Fragment fragment = FragmentAt(next);
      if (count > 0 && fragment.work != fragments[0].work) break;
      if (fragment.row() < fragment.work->segment->row_end) fragments[count++] = fragment;
    }
    return count;
  }

 private:
  static constexpr size_t kMaxSegments = 2;

  Fragment FragmentAt(uint64_t i) const {
    const size_t s = i < fragments_[0] ? 0 : 1;
    const uint64_t local = i - (s == 0 ? 0 : fragments_[0]);
    const uint64_t per_tile_row = work_[s].shape.rows / kFragmentRows;
    return {&work_[s], local / per_tile_row, local % per_tile_row};
  }

  SegmentWork work_[kMaxSegments];
  uint64_t tile_rows_[kMaxSegments] = {}, fragments_[kMaxSegments] = {};
  size_t count_ = 0;
};

void GemvProduct(const Product& product, Executor& executor) {
  const WorkList list(product);
  const uint64_t item_weights = product.matrix.cols * kFragmentRows;
  executor.ParallelFor(list.tile_rows(), std::max<uint64_t>(1, kGrainWeights / item_weights),
                       [&](size_t begin, size_t end, size_t) {
                         for (size_t i = begin; i < end; ++i) {
                           const Fragment at = list.TileRowAt(i);
                           GemvTileRow(product, *at.work, at.tile_row);
                         }
                       });
}

void BatchProduct(const Product& product, Executor& executor) {
  const WorkList list(product);
  const uint64_t n = product.input.n();
  const auto panel_rows = static_cast<uint64_t>(product.input.panel_rows());
  const uint64_t batch = std::min(n, kBatchRows / panel_rows * panel_rows);
  // Few rows of x stay in the cache by themselves; else fragments share their passage
  // through it, as long as every thread has work.
  const uint64_t shares = CeilDiv<uint64_t>(list.fragments(), 2 * executor.threads());
  const uint64_t together = n <= panel_rows ? 1 : std::min<uint64_t>(kMaxFragments, shares);
  const uint64_t enough = kGrainWeights / (product.matrix.cols * kFragmentRows * n);
  const auto body = [&](size_t begin, size_t end, size_t) {
    FragmentProduct fragments_product(product, batch, together);
    Fragment fragments[kMaxFragments];
    for (uint64_t next = begin; next < end;) {
      const uint64_t count = list.Take(next, end, together, fragments);
      for (uint64_t x = 0; count > 0 && x < n; x += batch) {
        fragments_product.Run({fragments, count}, x, std::min(n, x + batch));
      }
    }
  };
  executor.ParallelFor(list.fragments(), std::max(together, enough), body);
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
  if (input.n() == 1) {
    GemvProduct(product, executor);
  } else {
    BatchProduct(product, executor);
  }
  if (matrix.out_block != 1) TransformOutput(matrix, kernels, input.n(), executor, y);
}

}  // namespace tq
