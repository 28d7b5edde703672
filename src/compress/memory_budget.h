// What is left for weights when a model must run within a given memory.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "checkpoint/model_config.h"
#include "compress/plan.h"
#include "compress/quantize.h"

namespace tq {

// Splits options.memory_bytes: KV cache at options.context, activations, program and reserve
// first, the rest for weights. ResourceExhausted, naming the parts and the smallest possible
// memory, when the smallest codes do not fit.
StatusOr<MemoryUse> BudgetMemory(const ModelConfig& config, const ModelOutline& outline,
                                 const QuantizeOptions& options);

}  // namespace tq
