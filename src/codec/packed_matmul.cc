// Products with packed matrices: work over rows of tiles, then the output transform.
#include "codec/packed_matmul.h"

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "base/checked.h"
#include "base/status.h"
#include "codec/rotation.h"

namespace tq {
namespace {

using trellis::kFragmentRows;
using trellis::kMaxTileRows;
using trellis::MatmulKernels;
using trellis::TileShape;

// Weights below which a product is not worth waking threads for (about 1 us of work).
constexpr uint64_t kGrainWeights = 32768;
// Columns decoded at a time for many rows of x, all that a sum of words may cover: 16 KiB
// of operands and a panel of at most 12 KiB stay in any L1 cache.
constexpr uint64_t kDecodeColumns = trellis::kMaxWordColumns;
// Fragments of 16 rows decoded together, and rows of x they meet, at most: 128 KiB of
// operands and 252 KiB of sums stay in L2, and x is read from beyond it once per 128 rows.
constexpr uint64_t kMaxFragments = 8;
constexpr uint64_t kBatchRows = 252;

constexpr uint64_t kCacheLine = 64;

// What all items of a product share.
struct Product {
  const PackedMatrix& matrix;
  const RotatedInput& input;
  float* y;
  const trellis::ActivationKernels& activations;
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

// Applies out_scale to `count` rows of y from `row` on where no rotation follows.
void ScaleRows(const Product& product, float* y, uint64_t row, uint64_t count) {
  if (product.matrix.out_block != 1) return;
  product.activations.scale_by_half(y, product.matrix.out_scale.as<uint16_t>() + row, count, y);
}

// Turns sums of `count` rows from `row` on into y.
void FinishRows(const Product& product, const SegmentWork& work, uint64_t x_row, uint64_t row,
                const int64_t* sums, uint64_t count) {
  const double scale =
      static_cast<double>(work.operand->scale[x_row]) * static_cast<double>(work.segment->scale);
  float* y = product.y + x_row * product.matrix.rows + row;
  product.activations.finish(sums, count, work.operand->bias[x_row], scale, y);
  ScaleRows(product, y, row, count);
}

// A row of tiles against one row of x.
void GemvTileRow(const Product& product, const SegmentWork& work, uint64_t tile_row) {
  float sums[kMaxTileRows];
  const uint64_t row = work.segment->row_begin + tile_row * work.shape.rows;
  const uint64_t count = std::min<uint64_t>(work.shape.rows, work.segment->row_end - row);
  const RotatedInput::Operand& operand = *work.operand;
  work.kernels->gemv(work.TileRow(tile_row), work.tiles_across, operand.bytes.data(),
                     operand.groups.data(), sums);
  const auto scale = static_cast<double>(work.segment->scale);
  for (uint64_t i = 0; i < count; ++i) {
    product.y[row + i] =
        static_cast<float>((static_cast<double>(sums[i]) + operand.bias[0]) * scale);
  }
  ScaleRows(product, product.y + row, row, count);
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
        memory_(ScratchBytes(batch_rows, max_fragments)) {
    void* begin = memory_.data();
    size_t space = memory_.size();
    std::align(kCacheLine, space - kCacheLine, begin, space);
    decoded_ = static_cast<uint8_t*>(begin);
    sums_ = decoded_ + max_fragments * kDecodedBytes;
  }

  static uint64_t ScratchBytes(uint64_t batch_rows, uint64_t max_fragments) {
    return max_fragments * (kDecodedBytes + batch_rows * kSumBytes) + kCacheLine;
  }

  void Run(std::span<const Fragment> fragments, uint64_t x_begin, uint64_t x_end) {
    const SegmentWork& work = *fragments[0].work;
    Sum(fragments, x_begin, x_end);
    for (size_t f = 0; f < fragments.size(); ++f) {
      const uint64_t row = fragments[f].row();
      const uint64_t count = std::min<uint64_t>(kFragmentRows, work.segment->row_end - row);
      for (uint64_t i = 0; i < x_end - x_begin; ++i) {
        FinishRows(product_, work, x_begin + i, row, Sums(f, i), count);
      }
    }
  }

 private:
  // Both are whole cache lines.
  static constexpr uint64_t kSumBytes = kFragmentRows * sizeof(int64_t);
  static constexpr uint64_t kDecodedBytes = kDecodeColumns * trellis::kDecodedBytesPerColumn;

  int64_t* Sums(size_t fragment, uint64_t i) {
    return reinterpret_cast<int64_t*>(sums_ + (fragment * batch_rows_ + i) * kSumBytes);
  }
  uint8_t* Decoded(size_t fragment) { return decoded_ + fragment * kDecodedBytes; }

  // Rows of x that lie together, and their columns of some tiles.
  struct Panel {
    uint64_t rows;
    std::span<const uint8_t> bytes;
  };
  Panel PanelAt(const SegmentWork& work, uint64_t x_row, uint64_t tile, uint64_t tiles) const {
    const auto most = static_cast<uint64_t>(product_.input.panel_rows());
    const uint64_t rows = std::min(most, product_.input.n() - x_row);
    const uint64_t tile_bytes = work.GroupsPerTile() * rows * GroupBytes(work.operand->form);
    const uint8_t* all = work.operand->bytes.data() + x_row * work.operand->row_bytes;
    return {rows, {all + tile * tile_bytes, tiles * tile_bytes}};
  }

  // Sums over all columns. A panel of x comes from memory once for all fragments.
  void Sum(std::span<const Fragment> fragments, uint64_t x_begin, uint64_t x_end) {
    const SegmentWork& work = *fragments[0].work;
    const uint64_t step = kDecodeColumns / work.shape.columns;
    for (size_t f = 0; f < fragments.size(); ++f) {
      std::fill_n(Sums(f, 0), (x_end - x_begin) * kFragmentRows, 0);
    }
    for (uint64_t tile = 0; tile < work.tiles_across; tile += step) {
      const uint64_t tiles = std::min(step, work.tiles_across - tile);
      for (size_t f = 0; f < fragments.size(); ++f) {
        work.kernels->decode(work.TileRow(fragments[f].tile_row) + tile * work.shape.bytes(), tiles,
                             static_cast<int>(fragments[f].index), Decoded(f));
      }
      for (uint64_t x_row = x_begin; x_row < x_end;) {
        const Panel panel = PanelAt(work, x_row, tile, tiles);
        const uint64_t next_row = x_row + panel.rows;
        const Panel next = next_row < x_end ? PanelAt(work, next_row, tile, tiles) : Panel{};
        for (size_t f = 0; f < fragments.size(); ++f) {
          PrefetchPart(next.bytes, f, fragments.size());
          work.kernels->multiply[panel.rows - 1](Decoded(f), panel.bytes.data(),
                                                 tiles * work.GroupsPerTile(),
                                                 Sums(f, x_row - x_begin));
        }
        x_row = next_row;
      }
    }
  }

  // Asks for the f-th of `parts` parts of `bytes`: a panel begins with a miss per line otherwise,
  // a tenth of the time.
  static void PrefetchPart(std::span<const uint8_t> bytes, size_t f, size_t parts) {
    const size_t part = CeilDiv(bytes.size(), parts);
    for (size_t i = f * part; i < std::min((f + 1) * part, bytes.size()); i += kCacheLine) {
      __builtin_prefetch(bytes.data() + i, 0, 2);
    }
  }

  const Product& product_;
  const uint64_t batch_rows_;
  // Aligned by hand: made once per loop and thread, and glibc before 2.38 finds no use for the
  // pieces that aligned allocations leave (2 MiB after a prompt of 256 tokens).
  std::vector<uint8_t> memory_;
  uint8_t *decoded_, *sums_;
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
      const auto rows = CeilDiv<uint64_t>(segment.row_end - segment.row_begin, work.shape.rows);
      tile_rows_[count_ + 1] = tile_rows_[count_] + rows;
      fragments_[count_ + 1] = fragments_[count_] + rows * (work.shape.rows / kFragmentRows);
      ++count_;
    }
  }

  uint64_t tile_rows() const { return tile_rows_[count_]; }
  uint64_t fragments() const { return fragments_[count_]; }

  Fragment TileRowAt(uint64_t i) const {
    const size_t s = SegmentOf(tile_rows_, i);
    return {&work_[s], i - tile_rows_[s], 0};
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
  // The segment of item i, where `starts` are the first items of segments.
  size_t SegmentOf(const uint64_t* starts, uint64_t i) const {
    size_t s = 0;
    while (i >= starts[s + 1]) ++s;
    return s;
  }
  Fragment FragmentAt(uint64_t i) const {
    const size_t s = SegmentOf(fragments_, i);
    const uint64_t local = i - fragments_[s];
    const uint64_t per_tile_row = work_[s].shape.rows / kFragmentRows;
    return {&work_[s], local / per_tile_row, local % per_tile_row};
  }

  SegmentWork work_[kMaxSegments];
  // Of the segments before each one, and of all.
  uint64_t tile_rows_[kMaxSegments + 1] = {}, fragments_[kMaxSegments + 1] = {};
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

uint64_t MatmulScratchBytes(uint64_t n) {
  return FragmentProduct::ScratchBytes(std::min(n, kBatchRows), kMaxFragments);
}

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
  const Product product{matrix, input, y, kernels};
  if (input.n() == 1) {
    GemvProduct(product, executor);
  } else {
    BatchProduct(product, executor);
  }
  if (matrix.out_block != 1) TransformOutput(matrix, kernels, input.n(), executor, y);
}

}  // namespace tq
