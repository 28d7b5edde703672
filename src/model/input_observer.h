// How calibration looks into a forward pass.
#pragma once

#include <cstdint>
#include <functional>

namespace tq {

enum class GroupRole { kQkv, kO, kGateUp, kDown, kHead };

// Sees the input of every LinearGroup before the product: calibration, sensitivity. A call
// of Forward with many positions may show them in several pieces, in order.
using InputObserver =
    std::function<void(GroupRole role, const float* x, uint64_t n, uint64_t features)>;

}  // namespace tq
