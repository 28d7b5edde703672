// Products with ternary matrices, never unpacking them whole.
//
//   y = (sum t a) * activation scale * weight scale,   x = activation scale * a
//
// where a row of x is rounded to integers a of 8 bits with one scale (BitNet b1.58's rule,
// kernels/ternary_matmul/ternary_activations.h). Sums are exact, so that y depends neither on the
// instruction set, nor on the number of threads, nor on how many rows there are. A row of x with a
// NaN or an infinity gives NaN in its row of y.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/ternary_matrix.h"
#include "device/executor.h"
#include "kernels/isa.h"
#include "kernels/ternary_matmul/ternary_activations.h"

namespace tq {

// n rows of x as the integers that the kernels read. Reusable between calls: buffers grow and stay.
class TernaryInput {
 public:
  // x: float [n, cols], row-major; cols at most ternary::kMaxColumns.
  void Prepare(const float* x, uint64_t n, uint64_t cols, Executor& executor) {
    PrepareAt(CurrentIsa(), x, n, cols, executor);
  }
  // As Prepare, for the kernels of a given level; TernaryMatmul then runs at that level.
  void PrepareAt(Isa isa, const float* x, uint64_t n, uint64_t cols, Executor& executor);

  uint64_t n() const { return n_; }
  uint64_t cols() const { return cols_; }
  Isa isa() const { return isa_; }
  const ternary::ActivationRow& row(uint64_t i) const { return rows_[i]; }

  // Rows of x that lie together, [group][row][4]: panel_rows() of them, fewer in the last.
  struct Panel {
    uint64_t rows;
    const int8_t* activations;
  };
  uint64_t panel_rows() const { return panel_rows_; }
  // The panel that begins with row i, a multiple of panel_rows().
  Panel PanelAt(uint64_t i) const;

 private:
  void PreparePanel(const float* x, uint64_t first, int8_t* scratch);

  Isa isa_ = Isa::kReference;
  uint64_t n_ = 0, cols_ = 0;
  uint64_t padded_cols_ = 0;  // whole tiles of any packing
  uint64_t panel_rows_ = 1;
  std::vector<int8_t> panels_;
  std::vector<ternary::ActivationRow> rows_;  // [n]
};

// y[i] [n, rows_i] = x W_i^T for matrices with input's number of columns, their rows as one loop
// over the threads. Scratch memory: less than 300 KiB per thread.
void TernaryMatmul(std::span<const TernaryMatrix* const> matrices, const TernaryInput& input,
                   Executor& executor, std::span<float* const> y);
inline void TernaryMatmul(const TernaryMatrix& matrix, const TernaryInput& input,
                          Executor& executor, float* y) {
  const TernaryMatrix* const matrices[] = {&matrix};
  float* const outputs[] = {y};
  TernaryMatmul(matrices, input, executor, outputs);
}

}  // namespace tq
