#include "compress/group_sums.h"

#include <utility>

namespace tq {

Status GroupSums::Add(const std::set<std::string>& wanted, GroupRole role, std::string_view group,
                      uint64_t features) {
  if (!wanted.contains(std::string(group))) return OkStatus();
  TQ_ASSIGN_OR_RETURN(HessianSum sum, HessianSum::Create(group, features, device_));
  sums_.push_back(std::move(sum));
  roles_.push_back(role);
  return OkStatus();
}

InputObserver GroupSums::Observer() {
  return [this](GroupRole role, const float* x, uint64_t n, uint64_t) {
    for (size_t i = 0; i < sums_.size(); ++i) {
      if (roles_[i] == role && observed_.ok()) observed_ = sums_[i].Add(x, n, *executor_);
    }
  };
}

Status GroupSums::Give(const TakeSum& take) {
  for (HessianSum& sum : sums_) TQ_RETURN_IF_ERROR(take(std::move(sum)));
  sums_.clear();
  roles_.clear();
  return OkStatus();
}

}  // namespace tq
