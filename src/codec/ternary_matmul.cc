#include "codec/ternary_matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/checked.h"
#include "base/status.h"
#include "codec/row_runs.h"
#include "kernels/ternary_matmul/ternary_matmul.h"

namespace tq {
namespace {

using ternary::ActivationRow;
using ternary::kGroupColumns;
using ternary::kTileBytes;
using ternary::kTileRows;
using ternary::MatmulKernels;

// Weights, or activations, below which a loop is not worth waking threads for (about 1 us of work).
constexpr uint64_t kGrainWeights = 65536, kGrainActivations = 8192;
// Groups decoded at a time for many rows of x: 16 KiB, which stay in any L1 cache while panels of
// 6 KiB pass.
constexpr uint64_t kDecodeGroups = 128;
// Rows of tiles that share a passage of x, and rows of x they meet, at most: 132 KiB of activations
// and 264 KiB of sums stay in L2.
constexpr uint64_t kMaxTogether = 8;
constexpr uint64_t kBatchRows = 264;
constexpr uint64_t kCacheLine = 64;

// One matrix' side of a product.
struct Work {
  const TernaryMatrix* matrix;
  const MatmulKernels* kernels;
  float* y;
  uint64_t tiles_across, groups_per_tile;

  const uint8_t* TileRow(uint64_t tile_row) const {
    return matrix->codes.data() + tile_row * tiles_across * kTileBytes;
  }
  // Turns sums of t a of a row of tiles against row `i` of x into y.
  void Finish(uint64_t tile_row, uint64_t i, const ActivationRow& activations,
              const int32_t* sums) const {
    const uint64_t row = tile_row * kTileRows;
    const uint64_t count = std::min<uint64_t>(kTileRows, matrix->rows - row);
    const auto activation_scale = static_cast<double>(activations.scale);
    float* out = y + i * matrix->rows + row;
    for (uint64_t r = 0; r < count; ++r) {
      const double scale = activation_scale * static_cast<double>(matrix->scale(row + r));
      out[r] = static_cast<float>(sums[r] * scale);
    }
  }
};

// The rows of tiles of all matrices in order.
class WorkList {
 public:
  WorkList(std::span<const TernaryMatrix* const> matrices, Isa isa, std::span<float* const> y) {
    for (size_t i = 0; i < matrices.size(); ++i) {
      const TernaryMatrix& matrix = *matrices[i];
      const ternary::Packing packing = matrix.packing;
      const auto columns = static_cast<uint64_t>(ternary::TileColumns(packing));
      work_.push_back({&matrix, &ternary::FindMatmulKernels(isa, packing), y[i],
                       CeilDiv(matrix.cols, columns), columns / kGroupColumns});
      runs_.Add(CeilDiv<uint64_t>(matrix.rows, kTileRows));
    }
  }

  uint64_t tile_rows() const { return runs_.total(); }

  // Calls body(work, first, count) for runs of up to `most` rows of tiles of one matrix that cover
  // [begin, end).
  template <class Body>
  void ForRuns(uint64_t begin, uint64_t end, uint64_t most, const Body& body) const {
    runs_.ForRuns(begin, end, most,
                  [&](size_t i, uint64_t first, uint64_t count) { body(work_[i], first, count); });
  }

 private:
  std::vector<Work> work_;
  RowRuns runs_;
};

void OneRow(const WorkList& list, const TernaryInput& input, Executor& executor) {
  const ActivationRow& activations = input.row(0);
  const int8_t* a = input.PanelAt(0).activations;
  const uint64_t grain = std::max<uint64_t>(1, kGrainWeights / (input.cols() * kTileRows));
  executor.ParallelFor(list.tile_rows(), grain, [&](size_t begin, size_t end, size_t) {
    list.ForRuns(begin, end, 1, [&](const Work& work, uint64_t tile_row, uint64_t) {
      int32_t sums[kTileRows];
      work.kernels->gemv(work.TileRow(tile_row), work.tiles_across, a, activations.sum, sums);
      work.Finish(tile_row, 0, activations, sums);
    });
  });
}

// Up to kMaxTogether rows of tiles of one matrix against a batch of rows of x.
class BatchProduct {
 public:
  BatchProduct(const TernaryInput& input, uint64_t batch_rows, uint64_t together)
      : input_(input), batch_rows_(batch_rows) {
    const size_t bytes = kDecodedBytes + together * batch_rows * kSumBytes;
    size_t space = bytes + kCacheLine;
    memory_ = std::make_unique_for_overwrite<uint8_t[]>(space);
    void* begin = memory_.get();
    std::align(kCacheLine, bytes, begin, space);
    decoded_ = static_cast<uint8_t*>(begin);
    sums_ = reinterpret_cast<int32_t*>(decoded_ + kDecodedBytes);
  }

  void Run(const Work& work, uint64_t first, uint64_t count, uint64_t x_begin, uint64_t x_end) {
    for (uint64_t f = 0; f < count; ++f) {
      for (uint64_t i = x_begin; i < x_end; ++i) {
        // Sums of u a become sums of t a.
        std::fill_n(Sums(f, i - x_begin), kTileRows, -input_.row(i).sum);
      }
    }
    const uint64_t step = kDecodeGroups / work.groups_per_tile;
    for (uint64_t tile = 0; tile < work.tiles_across; tile += step) {
      const uint64_t tiles = std::min(step, work.tiles_across - tile);
      for (uint64_t f = 0; f < count; ++f) {
        work.kernels->decode(work.TileRow(first + f) + tile * kTileBytes, tiles, decoded_);
        // Of the next piece: of the next row of tiles, or of the first one's next columns.
        const uint64_t next = f + 1 < count ? tile : tile + step;
        if (next < work.tiles_across) {
          Prefetch(work.TileRow(first + (f + 1) % count) + next * kTileBytes,
                   std::min(step, work.tiles_across - next) * kTileBytes);
        }
        Multiply(work, f, tile * work.groups_per_tile, tiles * work.groups_per_tile, x_begin,
                 x_end);
      }
    }
    for (uint64_t f = 0; f < count; ++f) {
      for (uint64_t i = x_begin; i < x_end; ++i) {
        work.Finish(first + f, i, input_.row(i), Sums(f, i - x_begin));
      }
    }
  }

 private:
  // Both are whole cache lines.
  static constexpr uint64_t kDecodedBytes = kDecodeGroups * ternary::kDecodedGroupBytes;
  static constexpr uint64_t kSumBytes = kTileRows * sizeof(int32_t);

  // The hardware's own prefetcher stops at page ends, and pieces are pages.
  static void Prefetch(const uint8_t* codes, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(codes + i);
  }

  int32_t* Sums(uint64_t f, uint64_t i) { return sums_ + (f * batch_rows_ + i) * kTileRows; }
  void Multiply(const Work& work, uint64_t f, uint64_t group, uint64_t groups, uint64_t x_begin,
                uint64_t x_end) {
    for (uint64_t i = x_begin; i < x_end; i += input_.panel_rows()) {
      const TernaryInput::Panel panel = input_.PanelAt(i);
      work.kernels->multiply[panel.rows - 1](decoded_,
                                             panel.activations + group * panel.rows * kGroupColumns,
                                             groups, Sums(f, i - x_begin));
    }
  }

  const TernaryInput& input_;
  const uint64_t batch_rows_;
  std::unique_ptr<uint8_t[]> memory_;  // aligned by hand: nothing is initialised
  uint8_t* decoded_ = nullptr;
  int32_t* sums_ = nullptr;  // [row of tiles][row of x][32]
};

void ManyRows(const WorkList& list, const TernaryInput& input, Executor& executor) {
  const uint64_t n = input.n(), panel_rows = input.panel_rows();
  const uint64_t batch = std::min(n, kBatchRows / panel_rows * panel_rows);
  // Few rows of x stay in the cache by themselves; else rows of tiles share their passage through
  // it, as long as every thread has work.
  const uint64_t shares = CeilDiv<uint64_t>(list.tile_rows(), 2 * executor.threads());
  const uint64_t together = n <= panel_rows ? 1 : std::clamp<uint64_t>(shares, 1, kMaxTogether);
  const uint64_t enough = kGrainWeights / (input.cols() * kTileRows * n);
  executor.ParallelFor(
      list.tile_rows(), std::max(together, enough), [&](size_t begin, size_t end, size_t) {
        BatchProduct product(input, batch, together);
        list.ForRuns(begin, end, together, [&](const Work& work, uint64_t first, uint64_t count) {
          for (uint64_t x = 0; x < n; x += batch) {
            product.Run(work, first, count, x, std::min(n, x + batch));
          }
        });
      });
}

}  // namespace

void TernaryInput::PrepareAt(Isa isa, const float* x, uint64_t n, uint64_t cols,
                             Executor& executor) {
  TQ_CHECK(cols <= ternary::kMaxColumns);
  isa_ = isa;
  n_ = n;
  cols_ = cols;
  padded_cols_ = RoundUp<uint64_t>(cols, ternary::kColumnMultiple);
  // The same for all packings of a level.
  panel_rows_ = ternary::FindMatmulKernels(isa, ternary::Packing::k2Bits).panel_rows;
  rows_.resize(n);
  panels_.resize(n * padded_cols_);
  if (n == 0 || cols == 0) return;
  const uint64_t grain = std::max<uint64_t>(1, kGrainActivations / (cols * panel_rows_));
  executor.ParallelFor(CeilDiv(n, panel_rows_), grain, [&](size_t begin, size_t end, size_t) {
    std::vector<int8_t> scratch(n == 1 ? 0 : padded_cols_);
    for (uint64_t panel = begin; panel < end; ++panel) {
      PreparePanel(x, panel * panel_rows_, scratch.data());
    }
  });
}

void TernaryInput::PreparePanel(const float* x, uint64_t first, int8_t* scratch) {
  const uint64_t rows = std::min(panel_rows_, n_ - first);
  int8_t* panel = panels_.data() + first * padded_cols_;
  for (uint64_t i = 0; i < rows; ++i) {
    // One row alone lies as it is.
    int8_t* a = rows == 1 ? panel : scratch;
    rows_[first + i] = ternary::FindQuantize(isa_)(x + (first + i) * cols_, cols_, a);
    std::fill(a + cols_, a + padded_cols_, int8_t{0});
    for (uint64_t c = 0; rows > 1 && c < padded_cols_; c += kGroupColumns) {
      std::memcpy(panel + c * rows + i * kGroupColumns, a + c, kGroupColumns);
    }
  }
}

TernaryInput::Panel TernaryInput::PanelAt(uint64_t i) const {
  return {std::min(panel_rows_, n_ - i), panels_.data() + i * padded_cols_};
}

void TernaryMatmul(std::span<const TernaryMatrix* const> matrices, const TernaryInput& input,
                   Executor& executor, std::span<float* const> y) {
  TQ_CHECK(matrices.size() == y.size());
  for (const TernaryMatrix* matrix : matrices) TQ_CHECK(matrix->cols == input.cols());
  if (input.n() == 0 || input.cols() == 0) return;
  const WorkList list(matrices, input.isa(), y);
  if (input.n() == 1) {
    OneRow(list, input, executor);
  } else {
    ManyRows(list, input, executor);
  }
}

}  // namespace tq
