// Rounding rows of a matrix with feedback through the Hessian's factor (compress/hessian.h):
// column blocks from last to first, each moved by what the later ones left behind.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "compress/hessian.h"

namespace tq {

// Codes one block of columns of some rows: target, float [rows, block] contiguous (columns
// past the matrix's end are zero), is rounded; what it decodes to goes to `decoded`, same
// layout. `column_block` counts blocks from column 0.
using BlockRounder =
    std::function<void(uint64_t column_block, const float* target, float* decoded)>;

// C_jj^-1 of the diagonal blocks of a factor, float [blocks, block, block]; zeros past its end.
std::vector<float> InvertDiagonal(const HessianFactor& factor, uint64_t block);

// A factor prepared for one block size.
class Feedback {
 public:
  // Columns whose feedback from everything later is computed in one matrix product; inside,
  // each block updates the earlier ones at once. Small against the width of a layer, large
  // against the blocks (16 or 32).
  static constexpr uint64_t kSuperBlock = 128;

  // `factor` (null: no Hessian, the identity) must outlive this; `block` divides kSuperBlock.
  Feedback(const HessianFactor* factor, uint64_t cols, uint64_t block);

  uint64_t block() const { return block_; }
  // tr(W H W^T) for w, float [rows, cols].
  double Norm(const float* w, uint64_t rows) const;
  // Rounds w, float [rows, cols], on the calling thread; w becomes the error W - What.
  // Returns the loss tr(E H E^T) (H with its damping).
  double Round(float* w, uint64_t rows, const BlockRounder& rounder) const;

 private:
  // sum_{i >= end} a_i C_ij for the columns j of [begin, end).
  void ProductBelow(const float* a, uint64_t rows, uint64_t begin, uint64_t end, float* out) const;
  // One block of Round: `carried` is G of the block's super-block, [rows, width].
  double RoundBlock(float* w, uint64_t rows, uint64_t super, uint64_t width, uint64_t column_block,
                    float* carried, float* target, float* decoded,
                    const BlockRounder& rounder) const;

  const HessianFactor* factor_;
  uint64_t cols_, block_;
  std::vector<float> inverses_;  // InvertDiagonal
};

}  // namespace tq
