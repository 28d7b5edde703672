// Round to nearest: every weight takes the nearest value of its group's grid. The baseline.
#pragma once

#include <optional>
#include <utility>

#include "codec/grouped_rounding.h"
#include "compress/methods/grouped/grouped_coder.h"

namespace tq {

class RtnCoder final : public GroupedCoder {
 public:
  // The Hessian is for the reported errors alone.
  explicit RtnCoder(std::optional<Tensor> hessian) : GroupedCoder(std::move(hessian)) {}

 private:
  StatusOr<GroupedMatrix> Round(const PlannedMatrix& m, const float* w,
                                Executor& executor) const override {
    return QuantizeToNearest(w, m.layout, executor);
  }
};

}  // namespace tq
