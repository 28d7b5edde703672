// Products with packed matrices, never unpacking them whole.
//
//   y = so * Hout^T (scale * D x'),   x' = Hin (si * x),   D decoded integers
//
// Fast path: x' becomes integers (kernels/trellis_matmul). One row of x: 8 bits, with a scale for
// every 32 columns; many rows: 14 bits, with one scale per row of x, so that y does not depend on
// how many there are. Either way y depends neither on the instruction set nor on the number of
// threads: sums are exact, or of floats in a fixed order, as the rotations are. A row of x with a
// NaN or an infinity gives NaN in its row of y.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/matmul_path.h"
#include "codec/packed_matrix.h"
#include "device/executor.h"
#include "kernels/isa.h"
#include "kernels/trellis_matmul/activations.h"

namespace tq {

// x' = Hin (si * x) for n rows, plus its integer forms for the codes that its readers use.
// Reusable between calls: buffers grow and stay.
class RotatedInput {
 public:
  // The integer activations of all rows in the form that the kernels of some codes read.
  struct Operand {
    int values = 0;  // V
    trellis::ActivationForm form = trellis::ActivationForm::kWords;
    uint64_t row_bytes = 0;
    // Panels of `panel_rows` rows of x (fewer in the last): [panel][group][row][group bytes].
    std::vector<uint8_t> bytes;
    std::vector<double> bias;  // [n], completes an integer sum
    std::vector<float> scale;  // [n], what an integer of the sum is worth; for one row:
    std::vector<trellis::ScaleGroup> groups;  // [ceil(cols / kScaleColumns)]
  };

  // x: float [n, cols], row-major. `codes`: the codes of all segments that will read it.
  void Prepare(const InputTransform& input, const float* x, uint64_t n, uint64_t cols,
               std::span<const trellis::Code> codes, MatmulPath path, Executor& executor) {
    PrepareAt(CurrentIsa(), input, x, n, cols, codes, path, executor);
  }
  // As Prepare, for the kernels of a given level; PackedMatmul then runs at that level.
  void PrepareAt(Isa isa, const InputTransform& input, const float* x, uint64_t n, uint64_t cols,
                 std::span<const trellis::Code> codes, MatmulPath path, Executor& executor);

  uint64_t n() const { return n_; }
  uint64_t cols() const { return cols_; }
  Isa isa() const { return isa_; }
  int panel_rows() const { return panel_rows_; }
  // x' [n, cols], of the reference path only.
  const float* rotated() const { return rotated_.data(); }
  bool has_rotated() const { return !rotated_.empty(); }
  // The operand for a code among those prepared; null for others.
  const Operand* FindOperand(trellis::Code code) const;

  // Bytes that the buffers of n > 1 rows take at most, whatever the codes and the path, and
  // the scratch beside them. For cols up to 2^32 and n up to 2^20.
  static uint64_t BufferBytes(uint64_t n, uint64_t cols);
  static uint64_t ScratchBytes(uint64_t cols, size_t threads);

 private:
  void AddOperand(trellis::Code code);
  void PrepareRows(const InputTransform& input, const float* x, Executor& executor);
  void PrepareRow(const InputTransform& input, const float* x, uint64_t row, float* scratch);
  void FillOperand(Operand& operand, uint64_t row, const float* rotated, float* combined);
  void PrepareOne(const InputTransform& input, const float* x, Executor& executor);
  // Columns [begin, end) of a single row, and each operand's share of its bias. False if one is not
  // finite.
  bool PrepareColumns(const InputTransform& input, const float* x, uint64_t begin, uint64_t end,
                      float* scratch, double* bias);

  Isa isa_ = Isa::kReference;
  uint64_t n_ = 0, cols_ = 0;
  int panel_rows_ = 1;
  std::vector<float> rotated_;
  std::vector<Operand> operands_;  // the first num_operands_ are in use
  size_t num_operands_ = 0;
  std::vector<float> scratch_;
  std::vector<double> chunk_bias_;  // [chunk][operand], of a single row
};

// y[i] [n, rows_i] = x W_i^T for matrices that share the x prepared in `input` (so and Hout^T
// included), their rows as one loop over the threads.
// Scratch memory is bounded: at most about 4 MiB per thread, whatever the sizes.
void PackedMatmul(std::span<const PackedMatrix* const> matrices, const RotatedInput& input,
                  MatmulPath path, Executor& executor, std::span<float* const> y);
inline void PackedMatmul(const PackedMatrix& matrix, const RotatedInput& input, MatmulPath path,
                         Executor& executor, float* y) {
  const PackedMatrix* const matrices[] = {&matrix};
  float* const outputs[] = {y};
  PackedMatmul(matrices, input, path, executor, outputs);
}
// What each thread takes at most on the fast path for n rows of x.
uint64_t MatmulScratchBytes(uint64_t n);

}  // namespace tq
