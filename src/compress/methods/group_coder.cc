#include "compress/methods/group_coder.h"

#include <utility>

#include "compress/methods/awq/awq_coder.h"
#include "compress/methods/gptq/gptq_coder.h"
#include "compress/methods/rtn/rtn_coder.h"
#include "compress/methods/ternary/ternary_coder.h"
#include "compress/methods/trellis/trellis_coder.h"

namespace tq {

StatusOr<std::unique_ptr<GroupCoder>> MakeGroupCoder(Method method, const QuantizeOptions& options,
                                                     std::span<const PlannedMatrix> matrices,
                                                     std::span<const Tensor> weights,
                                                     std::optional<Tensor> hessian,
                                                     Executor& executor) {
  TQ_CHECK(!matrices.empty() && matrices.size() == weights.size());
  switch (method) {
    case Method::kTrellis: {
      TQ_ASSIGN_OR_RETURN(TrellisCoder coder,
                          TrellisCoder::Create(options, TrellisSettings{}, matrices, weights,
                                               std::move(hessian), executor));
      return std::unique_ptr<GroupCoder>(std::make_unique<TrellisCoder>(std::move(coder)));
    }
    case Method::kRtn:
      return std::unique_ptr<GroupCoder>(std::make_unique<RtnCoder>(std::move(hessian)));
    case Method::kGptq: {
      TQ_CHECK(hessian);
      TQ_ASSIGN_OR_RETURN(GptqCoder coder,
                          GptqCoder::Create(options, matrices[0], *std::move(hessian), executor));
      return std::unique_ptr<GroupCoder>(std::make_unique<GptqCoder>(std::move(coder)));
    }
    case Method::kAwq:
      TQ_CHECK(hessian);
      return std::unique_ptr<GroupCoder>(std::make_unique<AwqCoder>(*std::move(hessian)));
    case Method::kTernary:
      return std::unique_ptr<GroupCoder>(std::make_unique<TernaryCoder>(std::move(hessian)));
  }
  return InvalidArgument("method: {} is unknown", static_cast<int>(method));
}

}  // namespace tq
