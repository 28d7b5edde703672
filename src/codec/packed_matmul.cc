// Products with packed matrices: work over rows of tiles of all matrices that share an input, and
// the output transform.
#include "codec/packed_matmul.h"

#include <algorithm>
#include <atomic>
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
// operands and 264 KiB of sums stay in L2, and x is read from beyond it once per 128 rows.
constexpr uint64_t kMaxFragments = 8;
constexpr uint64_t kBatchRows = 264;

constexpr uint64_t kCacheLine = 64;

// What all items of the products with one input share.
struct Products {
  std::span<const PackedMatrix* const> matrices;
  std::span<float* const> y;
  const RotatedInput& input;
  const trellis::ActivationKernels& activations;
};

// One segment's side of a product.
struct SegmentWork {
  size_t product;  // whose matrix it belongs to
  const PackedMatrix* matrix;
  float* y;
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

// y = so * Hout^T y for `count` values of y, whole blocks, from row `row` of the matrix on.
void TransformRows(const PackedMatrix& matrix, const trellis::ActivationKernels& kernels,
                   uint64_t row, uint64_t count, float* y) {
  BlockHadamard(y, count, matrix.out_block, HadamardSide::kTransposed);
  kernels.scale_by_half(y, matrix.out_scale.as<uint16_t>() + row, count, y);
}

// Rows of y that are there, by blocks of Hout: who adds the last to a block transforms it.
class OutputBlocks {
 public:
  explicit OutputBlocks(const Products& products) : products_(products) {
    uint64_t blocks = 0;
    for (const PackedMatrix* matrix : products.matrices) {
      first_.push_back(blocks);
      if (matrix->out_block != 1) blocks += matrix->rows / matrix->out_block;
    }
    rows_ = std::vector<std::atomic<uint32_t>>(blocks);
  }

  // Rows [row, end) of the product's y are there.
  void Add(size_t product, uint64_t row, uint64_t end) {
    const PackedMatrix& matrix = *products_.matrices[product];
    const uint64_t size = matrix.out_block;
    // Blocks that lie in these rows need no count.
    const uint64_t first = std::min(RoundUp(row, size), end),
                   last = std::max(first, end / size * size);
    if (last > first) Transform(product, first, last - first);
    if (row < first) AddPart(product, row, first);
    if (last < end) AddPart(product, last, end);
  }

 private:
  // Rows of one block.
  void AddPart(size_t product, uint64_t row, uint64_t end) {
    const uint64_t size = products_.matrices[product]->out_block, block = row / size;
    const auto added = static_cast<uint32_t>(end - row);
    // Release what this thread wrote, acquire what the others did.
    const uint32_t before =
        rows_[first_[product] + block].fetch_add(added, std::memory_order_acq_rel);
    if (before + added == size) Transform(product, block * size, size);
  }
  void Transform(size_t product, uint64_t row, uint64_t count) {
    TransformRows(*products_.matrices[product], products_.activations, row, count,
                  products_.y[product] + row);
  }

  const Products& products_;
  std::vector<uint64_t> first_;  // block of each product
  std::vector<std::atomic<uint32_t>> rows_;
};

// A row of tiles against one row of x. Returns the row behind its last.
uint64_t GemvTileRow(const SegmentWork& work, uint64_t row, uint64_t tile_row) {
  float sums[kMaxTileRows];
  const uint64_t count = std::min<uint64_t>(work.shape.rows, work.segment->row_end - row);
  const RotatedInput::Operand& operand = *work.operand;
  work.kernels->gemv(work.TileRow(tile_row), work.tiles_across, operand.bytes.data(),
                     operand.groups.data(), sums);
  const auto scale = static_cast<double>(work.segment->scale);
  for (uint64_t i = 0; i < count; ++i) {
    work.y[row + i] = static_cast<float>((static_cast<double>(sums[i]) + operand.bias[0]) * scale);
  }
  return row + count;
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
  FragmentProduct(const Products& products, uint64_t batch_rows, uint64_t max_fragments)
      : products_(products),
        batch_rows_(batch_rows),
        memory_(
            std::make_unique_for_overwrite<uint8_t[]>(ScratchBytes(batch_rows, max_fragments))) {
    void* begin = memory_.get();
    size_t space = ScratchBytes(batch_rows, max_fragments);
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
        Finish(work, x_begin + i, row, Sums(f, i), count);
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

  // Turns sums of `count` rows from `row` on into y, which a rotation may follow.
  void Finish(const SegmentWork& work, uint64_t x_row, uint64_t row, const int64_t* sums,
              uint64_t count) const {
    const double scale =
        static_cast<double>(work.operand->scale[x_row]) * static_cast<double>(work.segment->scale);
    float* y = work.y + x_row * work.matrix->rows + row;
    products_.activations.finish(sums, count, work.operand->bias[x_row], scale, y);
    if (work.matrix->out_block == 1) {
      TransformRows(*work.matrix, products_.activations, row, count, y);
    }
  }

  // Rows of x that lie together, and their columns of some tiles.
  struct Panel {
    uint64_t rows;
    std::span<const uint8_t> bytes;
  };
  Panel PanelAt(const SegmentWork& work, uint64_t x_row, uint64_t tile, uint64_t tiles) const {
    const auto most = static_cast<uint64_t>(products_.input.panel_rows());
    const uint64_t rows = std::min(most, products_.input.n() - x_row);
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

  const Products& products_;
  const uint64_t batch_rows_;
  // Aligned by hand: made for every range of a loop, and glibc before 2.38 finds no use for the
  // pieces that aligned allocations leave (2 MiB after a prompt of 256 tokens).
  std::unique_ptr<uint8_t[]> memory_;
  uint8_t *decoded_, *sums_;
};

// The segments of the matrices as kernels see them, and their rows of tiles and fragments in order.
class WorkList {
 public:
  explicit WorkList(const Products& products) {
    for (size_t i = 0; i < products.matrices.size(); ++i) {
      for (const Segment& segment : products.matrices[i]->segments)
        AddSegment(products, i, segment);
    }
  }

  uint64_t tile_rows() const { return tile_rows_.back(); }
  uint64_t fragments() const { return fragments_.back(); }

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
  void AddSegment(const Products& products, size_t i, const Segment& segment) {
    const PackedMatrix& matrix = *products.matrices[i];
    SegmentWork work{};
    work.product = i;
    work.matrix = &matrix;
    work.y = products.y[i];
    work.segment = &segment;
    work.kernels = &trellis::FindMatmulKernels(products.input.isa(), segment.code);
    work.operand = products.input.FindOperand(segment.code);
    TQ_CHECK(work.operand != nullptr);  // the input was prepared for this code
    work.shape = trellis::ShapeOf(segment.code);
    work.tiles_across = CeilDiv<uint64_t>(matrix.cols, work.shape.columns);
    work.codes = matrix.codes.data() + segment.byte_offset;
    const auto rows = CeilDiv<uint64_t>(segment.row_end - segment.row_begin, work.shape.rows);
    work_.push_back(work);
    tile_rows_.push_back(tile_rows_.back() + rows);
    fragments_.push_back(fragments_.back() + rows * (work.shape.rows / kFragmentRows));
  }
  // The segment of item i, where `starts` are the first items of segments.
  static size_t SegmentOf(const std::vector<uint64_t>& starts, uint64_t i) {
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

  std::vector<SegmentWork> work_;
  // Of the segments before each one, and of all.
  std::vector<uint64_t> tile_rows_ = {0}, fragments_ = {0};
};

void GemvProducts(const Products& products, uint64_t cols, Executor& executor) {
  const WorkList list(products);
  OutputBlocks blocks(products);
  const auto body = [&](size_t begin, size_t end, size_t) {
    // Rows of one matrix, one after the other.
    for (size_t i = begin; i < end;) {
      const Fragment first = list.TileRowAt(i);
      const size_t product = first.work->product;
      uint64_t row = first.row();
      for (Fragment at = first; i < end && at.work->product == product;) {
        row = GemvTileRow(*at.work, at.row(), at.tile_row);
        if (++i < end) at = list.TileRowAt(i);
      }
      blocks.Add(product, first.row(), row);
    }
  };
  executor.ParallelFor(list.tile_rows(),
                       std::max<uint64_t>(1, kGrainWeights / (cols * kFragmentRows)), body);
}

// The rotations of the outputs, where there are any.
void TransformOutputs(const Products& products, Executor& executor) {
  const uint64_t n = products.input.n();
  for (size_t i = 0; i < products.matrices.size(); ++i) {
    const PackedMatrix& matrix = *products.matrices[i];
    if (matrix.out_block == 1 || matrix.rows == 0) continue;
    executor.ParallelFor(n, std::max<uint64_t>(1, kGrainWeights / matrix.rows),
                         [&](size_t begin, size_t end, size_t) {
                           for (size_t row = begin; row < end; ++row) {
                             TransformRows(matrix, products.activations, 0, matrix.rows,
                                           products.y[i] + row * matrix.rows);
                           }
                         });
  }
}

void BatchProducts(const Products& products, uint64_t cols, Executor& executor) {
  const WorkList list(products);
  const uint64_t n = products.input.n();
  const auto panel_rows = static_cast<uint64_t>(products.input.panel_rows());
  const uint64_t batch = std::min(n, kBatchRows / panel_rows * panel_rows);
  // Few rows of x stay in the cache by themselves; else fragments share their passage
  // through it, as long as every thread has work.
  const uint64_t shares = CeilDiv<uint64_t>(list.fragments(), 2 * executor.threads());
  const uint64_t together = n <= panel_rows ? 1 : std::min<uint64_t>(kMaxFragments, shares);
  const uint64_t enough = kGrainWeights / (cols * kFragmentRows * n);
  const auto body = [&](size_t begin, size_t end, size_t) {
    FragmentProduct fragments_product(products, batch, together);
    Fragment fragments[kMaxFragments];
    for (uint64_t next = begin; next < end;) {
      const uint64_t count = list.Take(next, end, together, fragments);
      for (uint64_t x = 0; count > 0 && x < n; x += batch) {
        fragments_product.Run({fragments, count}, x, std::min(n, x + batch));
      }
    }
  };
  executor.ParallelFor(list.fragments(), std::max(together, enough), body);
  TransformOutputs(products, executor);
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

void ReferenceProducts(const Products& products, Executor& executor) {
  TQ_CHECK(products.input.has_rotated());
  for (size_t i = 0; i < products.matrices.size(); ++i) {
    const PackedMatrix& matrix = *products.matrices[i];
    ReferenceProduct(matrix, products.input, executor, products.y[i]);
    for (uint64_t row = 0; row < products.input.n(); ++row) {
      TransformRows(matrix, products.activations, 0, matrix.rows,
                    products.y[i] + row * matrix.rows);
    }
  }
}

}  // namespace

uint64_t MatmulScratchBytes(uint64_t n) {
  return FragmentProduct::ScratchBytes(std::min(n, kBatchRows), kMaxFragments);
}

void PackedMatmul(std::span<const PackedMatrix* const> matrices, const RotatedInput& input,
                  MatmulPath path, Executor& executor, std::span<float* const> y) {
  TQ_CHECK(matrices.size() == y.size());
  for (const PackedMatrix* matrix : matrices) TQ_CHECK(matrix->cols == input.cols());
  if (input.n() == 0 || input.cols() == 0) return;
  const Products products{matrices, y, input, trellis::FindActivationKernels(input.isa())};
  if (path == MatmulPath::kReference) {
    ReferenceProducts(products, executor);
  } else if (input.n() == 1) {
    GemvProducts(products, input.cols(), executor);
  } else {
    BatchProducts(products, input.cols(), executor);
  }
}

}  // namespace tq
