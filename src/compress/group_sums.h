// The Hessians of the groups that one forward pass shows the inputs of.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "codec/dense_device.h"
#include "compress/hessian.h"
#include "device/executor.h"
#include "model/input_observer.h"

namespace tq {

// Takes the sum of a group, whose name it has, when it is complete.
using TakeSum = std::function<Status(HessianSum sum)>;

class GroupSums {
 public:
  // Both must outlive it; with a device the sums are made in its memory.
  GroupSums(Executor& executor, const DenseDevice* device)
      : executor_(&executor), device_(device) {}

  // A sum for the inputs [rows, features] of `group`, which observers see in `role`, if the group
  // is in `wanted`.
  Status Add(const std::set<std::string>& wanted, GroupRole role, std::string_view group,
             uint64_t features);
  bool empty() const { return sums_.empty(); }
  // Adds what it sees; it must not outlive this.
  InputObserver Observer();
  // The first error of an observer, which says more than what a layer then finds.
  const Status& observed() const { return observed_; }
  // Hands the sums over in the order of Add.
  Status Give(const TakeSum& take);

 private:
  Executor* executor_;
  const DenseDevice* device_;
  std::vector<HessianSum> sums_;
  std::vector<GroupRole> roles_;
  Status observed_;
};

}  // namespace tq
