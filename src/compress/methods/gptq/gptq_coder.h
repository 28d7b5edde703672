// The method `gptq`: round_gptq.h for the matrices of an input group.
#pragma once

#include <utility>

#include "compress/methods/gptq/round_gptq.h"
#include "compress/methods/grouped/grouped_coder.h"

namespace tq {

class GptqCoder final : public GroupedCoder {
 public:
  // `first`: a matrix of the group, all of which have its layout but for their rows.
  static StatusOr<GptqCoder> Create(const QuantizeOptions& options, const PlannedMatrix& first,
                                    Tensor hessian, Executor& executor) {
    TQ_ASSIGN_OR_RETURN(GptqInput input,
                        GptqInput::Create(first.group, hessian, first.layout.group_size,
                                          first.layout.ordered ? ColumnOrder::kByActivation
                                                               : ColumnOrder::kAsStored,
                                          executor, options.dense.get()));
    return GptqCoder(std::move(hessian), std::move(input));
  }

 private:
  GptqCoder(Tensor hessian, GptqInput input)
      : GroupedCoder(std::move(hessian)), input_(std::move(input)) {}
  StatusOr<GroupedMatrix> Round(const PlannedMatrix& m, const float* w,
                                Executor& executor) const override {
    return RoundGptq(input_, m.layout, w, executor);
  }

  GptqInput input_;
};

}  // namespace tq
