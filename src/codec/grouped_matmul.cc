#include "codec/grouped_matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/checked.h"
#include "base/status.h"
#include "codec/row_runs.h"
#include "kernels/grouped_matmul/grouped_activations.h"
#include "kernels/grouped_matmul/grouped_matmul.h"

namespace tq {
namespace {

using grouped::kBlockColumns;
using grouped::kBlockMultiple;
using grouped::kGemvRows;
using grouped::kTileRows;
using grouped::MatmulKernels;

// Weights, or activations, below which a loop is not worth waking threads for (about 1 us of work).
constexpr uint64_t kGrainWeights = 65536, kGrainActivations = 8192;
// Blocks of a row of x that are prepared together: what is made of them stays in L1.
constexpr uint64_t kPrepareBlocks = 64;
// Blocks decoded at a time for many rows of x: 16 KiB, which stay in any L1 cache while panels of 6
// KiB pass.
constexpr uint64_t kDecodeBlocks = 16;
// Rows of x that a tile meets with its totals in L2: up to 270 KiB.
constexpr uint64_t kBatchRows = 264;
// Up to so many rows of x each are multiplied by themselves.
constexpr uint64_t kMostSingleRows = 2;
constexpr uint64_t kCacheLine = 64;

// Whether the kernels take the matrix.
bool HasKernels(const GroupedMatrix& m) {
  return m.group_size % kBlockColumns == 0 || m.groups() == 1;
}
// Widths of one order of columns.
static_assert(grouped::kTrits == kTernaryBits);
int OperandBits(const GroupedMatrix& m) { return m.bits == 2 || m.bits == 4 ? m.bits : 8; }

uint64_t PaddedBlocks(uint64_t cols) {
  return RoundUp<uint64_t>(CeilDiv<uint64_t>(cols, kBlockColumns), kBlockMultiple);
}

grouped::Weights WeightsOf(const GroupedMatrix& m) {
  grouped::Weights w;
  w.bits = static_cast<int>(m.bits);
  w.rows = m.rows;
  w.cols = m.cols;
  w.groups = m.groups();
  w.group_blocks = w.groups == 1 ? PaddedBlocks(m.cols) : m.group_size / kBlockColumns;
  w.codes = m.codes.data();
  w.code_bytes = m.code_bytes();
  w.scale = m.scale.as<uint16_t>();
  if (m.zeros == ZeroKind::kHalf) w.half_zero = m.zero.as<uint16_t>();
  if (m.zeros == ZeroKind::kPacked) w.packed_zero = m.zero.data();
  w.packed_bytes = m.packed_zero_bytes();
  return w;
}

// One matrix' side of a product.
struct Work {
  grouped::Weights weights;
  const MatmulKernels* kernels;
  const GroupedInput::Operand* operand;
  float* y;
};

class WorkList {
 public:
  // Pieces are of `rows` rows.
  explicit WorkList(uint64_t rows) : rows_(rows) {}
  void Add(const Work& work) {
    work_.push_back(work);
    runs_.Add(CeilDiv<uint64_t>(work.weights.rows, rows_));
  }
  uint64_t pieces() const { return runs_.total(); }
  // Calls body(work, first row) for pieces [begin, end).
  template <class Body>
  void ForPieces(uint64_t begin, uint64_t end, const Body& body) const {
    runs_.ForRuns(begin, end, 1,
                  [&](size_t i, uint64_t piece, uint64_t) { body(work_[i], piece * rows_); });
  }

 private:
  uint64_t rows_;
  std::vector<Work> work_;
  RowRuns runs_;
};

// Every row of x by itself, against 4 rows of weights that stay in L1.
void SingleRows(const WorkList& list, const GroupedInput& input, Executor& executor) {
  const uint64_t n = input.n(), blocks = input.blocks();
  const uint64_t grain = std::max<uint64_t>(1, kGrainWeights / (input.cols() * kGemvRows * n));
  executor.ParallelFor(list.pieces(), grain, [&](size_t begin, size_t end, size_t) {
    list.ForPieces(begin, end, [&](const Work& work, uint64_t row) {
      const GroupedInput::Operand& operand = *work.operand;
      const uint64_t rows = work.weights.rows;
      for (uint64_t i = 0; i < n; ++i) {
        const grouped::ActivationRow x = {blocks, operand.a.data() + i * blocks * kBlockColumns,
                                          operand.scale.data() + i * blocks * 4,
                                          operand.sum.data() + i * blocks * 4};
        float y[kGemvRows];
        work.kernels->gemv(work.weights, row, x, y);
        std::copy_n(y, std::min<uint64_t>(kGemvRows, rows - row), work.y + i * rows + row);
      }
    });
  });
}

// A tile of weights against batches of rows of x.
class TileProduct {
 public:
  TileProduct(const GroupedInput& input, uint64_t batch_rows) : input_(input) {
    const size_t bytes = kDecodedBytes + 2 * kScaleBytes + batch_rows * kTotalBytes;
    size_t space = bytes + kCacheLine;
    memory_ = std::make_unique_for_overwrite<uint8_t[]>(space);
    void* begin = memory_.get();
    std::align(kCacheLine, bytes, begin, space);
    decoded_ = static_cast<uint8_t*>(begin);
    scale_ = reinterpret_cast<float*>(decoded_ + kDecodedBytes);
    zero_ = reinterpret_cast<float*>(decoded_ + kDecodedBytes + kScaleBytes);
    totals_ = reinterpret_cast<float*>(decoded_ + kDecodedBytes + 2 * kScaleBytes);
  }

  void Run(const Work& work, uint64_t row, uint64_t x_begin, uint64_t x_end) {
    const uint64_t phases = grouped::Phases(work.weights.bits);
    std::fill_n(totals_, (x_end - x_begin) * phases * kTileRows, 0.0f);
    for (uint64_t block = 0; block < input_.blocks(); block += kDecodeBlocks) {
      const uint64_t count = std::min(kDecodeBlocks, input_.blocks() - block);
      const uint64_t group_blocks = work.weights.group_blocks, group = block / group_blocks;
      work.kernels->decode(work.weights, row, block, count, decoded_);
      work.kernels->scales(work.weights, row, group, (block + count - 1) / group_blocks - group + 1,
                           scale_, zero_);
      for (uint64_t x = x_begin; x < x_end; x += input_.panel_rows()) {
        Multiply(work, block, count, x, totals_ + (x - x_begin) * phases * kTileRows);
      }
    }
    for (uint64_t x = x_begin; x < x_end; x += input_.panel_rows()) {
      Finish(work, row, x, totals_ + (x - x_begin) * phases * kTileRows);
    }
  }

 private:
  // All are whole cache lines. A piece may begin within a group, and so meet one more than blocks.
  static constexpr uint64_t kDecodedBytes = kDecodeBlocks * grouped::kDecodedBlockBytes;
  static constexpr uint64_t kScaleBytes = (kDecodeBlocks + 1) * kTileRows * sizeof(float);
  static constexpr uint64_t kTotalBytes = 8 * kTileRows * sizeof(float);

  uint64_t PanelRows(uint64_t x) const { return std::min(input_.panel_rows(), input_.n() - x); }

  void Multiply(const Work& work, uint64_t block, uint64_t count, uint64_t x, float* totals) const {
    const GroupedInput::Operand& operand = *work.operand;
    const uint64_t rows = PanelRows(x), at = x * input_.blocks() + block * rows;
    grouped::MultiplyArgs args;
    args.u = decoded_;
    args.panel = operand.a.data() + at * kBlockColumns;
    args.panel_scale = operand.scale.data() + at;
    args.panel_sum = operand.sum.data() + at;
    args.scale = scale_;
    args.zero = zero_;
    args.blocks = count;
    args.into_group = block % work.weights.group_blocks;
    args.group_blocks = work.weights.group_blocks;
    args.totals = totals;
    work.kernels->multiply[rows - 1](args);
  }

  void Finish(const Work& work, uint64_t row, uint64_t x, const float* totals) const {
    const uint64_t rows = work.weights.rows, count = std::min<uint64_t>(kTileRows, rows - row);
    const uint64_t panel = PanelRows(x);
    const int phases = grouped::Phases(work.weights.bits);
    for (uint64_t i = 0; i < panel; ++i, totals += kTileRows) {
      float* out = work.y + (x + i) * rows + row;
      for (uint64_t r = 0; r < count; ++r) {
        out[r] = grouped::SumPhases(totals + r, panel * kTileRows, phases);
      }
    }
  }

  const GroupedInput& input_;
  std::unique_ptr<uint8_t[]> memory_;  // aligned by hand: nothing is initialised
  uint8_t* decoded_ = nullptr;
  float *scale_ = nullptr, *zero_ = nullptr;
  float* totals_ = nullptr;  // [panel][phase][row of x][32]
};

void ManyRows(const WorkList& list, const GroupedInput& input, Executor& executor) {
  const uint64_t n = input.n(), panel_rows = input.panel_rows();
  const uint64_t batch = std::min(n, kBatchRows / panel_rows * panel_rows);
  const uint64_t grain = std::max<uint64_t>(1, kGrainWeights / (input.cols() * kTileRows * n));
  executor.ParallelFor(list.pieces(), grain, [&](size_t begin, size_t end, size_t) {
    TileProduct product(input, batch);
    list.ForPieces(begin, end, [&](const Work& work, uint64_t row) {
      for (uint64_t x = 0; x < n; x += batch) product.Run(work, row, x, std::min(n, x + batch));
    });
  });
}

}  // namespace

const GroupedInput::Operand* GroupedInput::FindOperand(const GroupedMatrix& matrix) const {
  const int32_t* order = matrix.ordered ? matrix.order.as<int32_t>() : nullptr;
  for (size_t i = 0; i < num_operands_; ++i) {
    const Operand& operand = operands_[i];
    if (operand.bits != OperandBits(matrix)) continue;
    if (operand.order == order) return &operand;
    // Matrices of one input usually share their order, each with a copy of its own.
    if (operand.order != nullptr && order != nullptr &&
        std::memcmp(operand.order, order, cols_ * sizeof(int32_t)) == 0) {
      return &operand;
    }
  }
  return nullptr;
}

void GroupedInput::AddOperand(const GroupedMatrix& matrix) {
  if (FindOperand(matrix) != nullptr) return;
  if (num_operands_ == operands_.size()) operands_.emplace_back();
  Operand& operand = operands_[num_operands_++];
  operand.bits = OperandBits(matrix);
  operand.order = matrix.ordered ? matrix.order.as<int32_t>() : nullptr;
  const uint64_t blocks = n_ * blocks_, floats = by_row() ? 4 * blocks : blocks;
  operand.a.resize(std::max<uint64_t>(operand.a.size(), blocks * kBlockColumns));
  operand.scale.resize(std::max<uint64_t>(operand.scale.size(), floats));
  operand.sum.resize(std::max<uint64_t>(operand.sum.size(), floats));
}

void GroupedInput::PrepareAt(Isa isa, std::span<const GroupedMatrix* const> matrices,
                             const float* x, uint64_t n, MatmulPath path, Executor& executor) {
  TQ_CHECK(!matrices.empty());
  isa_ = isa;
  x_ = x;
  n_ = n;
  cols_ = matrices[0]->cols;
  blocks_ = PaddedBlocks(cols_);
  // The same for all widths of a level.
  const int most = grouped::FindMatmulKernels(isa, grouped::kMinBits).panel_rows;
  panel_rows_ = n <= kMostSingleRows ? 1 : static_cast<uint64_t>(most);
  num_operands_ = 0;
  for (const GroupedMatrix* matrix : matrices) {
    TQ_CHECK(matrix->cols == cols_);
    if (path == MatmulPath::kFast && HasKernels(*matrix)) AddOperand(*matrix);
  }
  if (num_operands_ == 0) return;
  const uint64_t chunks = CeilDiv(blocks_, kPrepareBlocks);
  executor.ParallelFor(n * chunks, kGrainActivations / (kPrepareBlocks * kBlockColumns),
                       [&](size_t begin, size_t end, size_t) {
                         for (uint64_t i = begin; i < end; ++i) {
                           for (size_t o = 0; o < num_operands_; ++o) {
                             PrepareColumns(operands_[o], i / chunks, i % chunks * kPrepareBlocks);
                           }
                         }
                       });
}

void GroupedInput::PrepareColumns(Operand& operand, uint64_t row, uint64_t first_block) const {
  float values[kPrepareBlocks * kBlockColumns], scale[kPrepareBlocks], sum[kPrepareBlocks];
  int8_t a[kPrepareBlocks * kBlockColumns];
  const uint64_t blocks = std::min(kPrepareBlocks, blocks_ - first_block);
  const uint64_t begin = std::min(cols_, first_block * kBlockColumns);
  const uint64_t count = std::min(blocks * kBlockColumns, cols_ - begin);
  const float* x = x_ + row * cols_;
  if (operand.order == nullptr) {
    std::copy_n(x + begin, count, values);
  } else {
    for (uint64_t i = 0; i < count; ++i) values[i] = x[operand.order[begin + i]];
  }
  std::fill(values + count, values + blocks * kBlockColumns, 0.0f);
  grouped::FindQuantize(isa_)(values, blocks, a, scale, sum);
  if (by_row()) {
    const uint64_t at = row * blocks_ + first_block;
    const size_t lanes = grouped::FindMatmulKernels(isa_, operand.bits).lanes;
    grouped::LayOutRow(operand.bits, lanes, blocks, a, scale, sum,
                       operand.a.data() + at * kBlockColumns, operand.scale.data() + 4 * at,
                       operand.sum.data() + 4 * at);
  } else {
    const uint64_t first = row / panel_rows_ * panel_rows_,
                   rows = std::min(panel_rows_, n_ - first);
    const uint64_t at = first * blocks_ + first_block * rows;
    grouped::LayOutPanelRow(operand.bits, blocks, row - first, rows, a, scale, sum,
                            operand.a.data() + at * kBlockColumns, operand.scale.data() + at,
                            operand.sum.data() + at);
  }
}

void GroupedMatmul(std::span<const GroupedMatrix* const> matrices, const GroupedInput& input,
                   Executor& executor, std::span<float* const> y) {
  TQ_CHECK(matrices.size() == y.size());
  if (input.n() == 0) return;
  WorkList list(input.by_row() ? kGemvRows : kTileRows);
  for (size_t i = 0; i < matrices.size(); ++i) {
    const GroupedMatrix& matrix = *matrices[i];
    TQ_CHECK(matrix.cols == input.cols());
    const GroupedInput::Operand* operand = HasKernels(matrix) ? input.FindOperand(matrix) : nullptr;
    if (operand == nullptr) {
      GroupedMatmul(matrix, input.x(), input.n(), executor, y[i]);
    } else {
      const int bits = static_cast<int>(matrix.bits);
      list.Add({WeightsOf(matrix), &grouped::FindMatmulKernels(input.isa(), bits), operand, y[i]});
    }
  }
  if (list.pieces() == 0) return;
  if (input.by_row()) {
    SingleRows(list, input, executor);
  } else {
    ManyRows(list, input, executor);
  }
}

void GroupedMatmul(std::span<const GroupedMatrix* const> matrices, const float* x, uint64_t n,
                   MatmulPath path, GroupedInput& one_row, Executor& executor,
                   std::span<float* const> y) {
  GroupedInput many;
  GroupedInput& input = n == 1 ? one_row : many;
  input.Prepare(matrices, x, n, path, executor);
  GroupedMatmul(matrices, input, executor, y);
}

}  // namespace tq
