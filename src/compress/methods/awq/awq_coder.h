// AWQ's rounding (Lin et al., "AWQ: activation-aware weight quantization for on-device LLM
// compression and acceleration", arXiv 2306.00978): to the nearest value of the group's grid, whose
// range may be narrower than that of its weights. Scales of input channels are layer_scales.h's;
// weights and Hessian come with them.
#pragma once

#include <string_view>
#include <utility>

#include "compress/methods/grouped/grouped_coder.h"

namespace tq {

// Whether ranges of a matrix's groups are searched: not those of q and k, as published; their
// errors meet in a product.
bool ClipsRanges(std::string_view matrix);

// A matrix of `layout`, which has no order, near w, float [rows, cols]. Every group's range is that
// of ten, from all to 55 % of its greatest magnitude, which loses least by the group's own part of
// h: the mean of the squared error of its outputs, exactly, where the published search takes it
// from samples.
StatusOr<GroupedMatrix> RoundWithClipping(const GroupedLayout& layout, const Tensor& h,
                                          const float* w, Executor& executor);

class AwqCoder final : public GroupedCoder {
 public:
  explicit AwqCoder(Tensor hessian) : GroupedCoder(std::move(hessian)) {}

 private:
  StatusOr<GroupedMatrix> Round(const PlannedMatrix& m, const float* w,
                                Executor& executor) const override;
};

}  // namespace tq
