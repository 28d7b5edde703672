// Ternary codes by the rule of BitNet b1.58 (Ma et al., arXiv 2402.17764, section 2): a group's
// scale is the mean magnitude of its weights, and every weight takes the nearest of -1, 0, 1 times
// that. The rule is made for training; rounding trained weights by it is the baseline of ternary
// codes.
#pragma once

#include <optional>
#include <utility>

#include "codec/grouped_rounding.h"
#include "compress/methods/grouped/grouped_coder.h"

namespace tq {

class TernaryCoder final : public GroupedCoder {
 public:
  // The Hessian is for the reported errors alone.
  explicit TernaryCoder(std::optional<Tensor> hessian) : GroupedCoder(std::move(hessian)) {}

 private:
  StatusOr<GroupedMatrix> Round(const PlannedMatrix& m, const float* w,
                                Executor& executor) const override {
    return QuantizeToTernary(w, m.rows, m.cols, m.layout.group_size, executor);
  }
};

}  // namespace tq
