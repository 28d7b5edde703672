// GPTQ (Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
// transformers", arXiv 2210.17323): columns are rounded one after the other, and what each leaves
// behind is made up for by the columns still to come.
//
// The paper updates the remaining weights through the Cholesky factor of H^-1. Rounding with the
// factor of H itself from the last column to the first (feedback.h) gives every column the same
// target: both are the least of tr(E H E^T) over the columns to come, the errors so far being
// fixed. So columns are laid out from last to first here, and one factorisation serves all methods.
// H is E[x x^T]; the paper's factor of 2 changes nothing.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "codec/dense_device.h"
#include "codec/grouped_matrix.h"
#include "compress/hessian.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// In which order columns are rounded.
enum class ColumnOrder {
  kAsStored,
  // By descending mean square of their inputs ("act-order"): what matters most is rounded while all
  // others can still make up for it. Groups are runs of columns in this order, with the grid of the
  // weights when their turn comes, as published; the matrix stores the order.
  kByActivation
};

// What matrices with one input share.
class GptqInput {
 public:
  // `h`: E[x x^T], float [cols, cols]. `group_size`: columns of a group, at most and a divisor of
  // Feedback::kSuperBlock, or not less than cols (a row is one group); anything else is an error.
  // The damping is the published 1 % of the mean diagonal, doubled until H can be factored. With a
  // device it is factored there, with a result that differs by rounding.
  static StatusOr<GptqInput> Create(std::string_view name, const Tensor& h, uint32_t group_size,
                                    ColumnOrder order, Executor& executor,
                                    const DenseDevice* device = nullptr);

  uint64_t cols() const { return order_.size(); }
  // order()[i] is the column that is rounded i-th.
  const std::vector<int32_t>& order() const { return order_; }
  // Of H with its columns in this order from last to first, behind columns of padding that fill up
  // its first block: the column rounded i-th stands at place n() - 1 - i.
  const HessianFactor& factor() const { return factor_; }
  // Columns of a block of feedback: a group's, or for rows of one group a part of it.
  uint64_t block() const { return block_; }

 private:
  GptqInput(std::vector<int32_t> order, HessianFactor factor, uint64_t block)
      : order_(std::move(order)), factor_(std::move(factor)), block_(block) {}

  std::vector<int32_t> order_;
  HessianFactor factor_;
  uint64_t block_;
};

// A matrix of `layout` near w, float [rows, cols]; an ordered layout stores the columns in
// `input`'s order, another one asks for kAsStored. Groups have the grid of their weights when their
// turn comes, and so has a row of one group. Errors name the row that has a group without a grid.
StatusOr<GroupedMatrix> RoundGptq(const GptqInput& input, const GroupedLayout& layout,
                                  const float* w, Executor& executor);

}  // namespace tq
