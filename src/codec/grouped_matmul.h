// Products with grouped matrices, never unpacking them whole.
//
// Fast path: rows of x become integers of 8 bits with a scale for every 32 columns
// (kernels/grouped_matmul), where groups are whole blocks of 32 columns or a row is one group.
// Rounding adds a noise of about half a percent to a product, where codes of 4 bits have ten.
// Sums are exact, or of floats in a fixed order, so that y depends neither on the instruction set,
// nor on the number of threads, nor on how many rows there are. A row of x with a NaN or an
// infinity gives NaN in its row of y.
//
// Reference path, and groups of other sizes: floats (GroupedMatmul in grouped_matrix.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/grouped_matrix.h"
#include "codec/matmul_path.h"
#include "device/executor.h"
#include "kernels/isa.h"

namespace tq {

// n rows of x as the integers that the kernels of some matrices read. Reusable between calls:
// buffers grow and stay.
class GroupedInput {
 public:
  // x: float [n, cols], row-major, where cols is that of all matrices that will read it; it must
  // outlive the product.
  void Prepare(std::span<const GroupedMatrix* const> matrices, const float* x, uint64_t n,
               MatmulPath path, Executor& executor) {
    PrepareAt(CurrentIsa(), matrices, x, n, path, executor);
  }
  // As Prepare, for the kernels of a given level; GroupedMatmul then runs at that level.
  void PrepareAt(Isa isa, std::span<const GroupedMatrix* const> matrices, const float* x,
                 uint64_t n, MatmulPath path, Executor& executor);

  // The integers for a width and an order of columns.
  struct Operand {
    int bits = 0;                    // 2, 4, or 8 for all others and for trits
    const int32_t* order = nullptr;  // [cols], or none
    // Rows one after the other as gemv reads them, or panels of panel_rows() rows (fewer in the
    // last), as multiply does.
    std::vector<int8_t> a;
    std::vector<float> scale, sum;
  };

  const float* x() const { return x_; }
  uint64_t n() const { return n_; }
  uint64_t cols() const { return cols_; }
  uint64_t blocks() const { return blocks_; }
  Isa isa() const { return isa_; }
  bool by_row() const { return panel_rows_ == 1; }
  uint64_t panel_rows() const { return panel_rows_; }
  // The operand of a matrix among those prepared; null where it is multiplied in float.
  const Operand* FindOperand(const GroupedMatrix& matrix) const;

 private:
  void AddOperand(const GroupedMatrix& matrix);
  void PrepareColumns(Operand& operand, uint64_t row, uint64_t first_block) const;

  Isa isa_ = Isa::kReference;
  const float* x_ = nullptr;
  uint64_t n_ = 0, cols_ = 0;
  uint64_t blocks_ = 0;            // of a row, padded
  uint64_t panel_rows_ = 1;        // 1: for gemv
  std::vector<Operand> operands_;  // the first num_operands_ are in use
  size_t num_operands_ = 0;
};

// y[i] [n, rows_i] = x W_i^T for the matrices that `input` was prepared for, their rows as one loop
// over the threads. Scratch memory: less than 400 KiB per thread.
void GroupedMatmul(std::span<const GroupedMatrix* const> matrices, const GroupedInput& input,
                   Executor& executor, std::span<float* const> y);
// The same of x [n, cols], prepared for it. That of one row is `one_row`, which keeps its memory
// from product to product; that of many rows, which takes much, is let go.
void GroupedMatmul(std::span<const GroupedMatrix* const> matrices, const float* x, uint64_t n,
                   MatmulPath path, GroupedInput& one_row, Executor& executor,
                   std::span<float* const> y);

}  // namespace tq
