#include "compress/memory_budget.h"

#include <optional>

#include "base/checked.h"
#include "base/format.h"
#include "model/engine_memory.h"

namespace tq {

StatusOr<MemoryUse> BudgetMemory(const ModelConfig& config, const ModelOutline& outline,
                                 const QuantizeOptions& options) {
  TQ_ASSIGN_OR_RETURN(const EngineMemory engine,
                      MemoryToRun(config, options.context, options.run_threads));
  MemoryUse use;
  use.budget = options.memory_bytes;
  use.context = options.context;
  use.kv_cache = engine.kv_cache;
  use.activations = engine.activations + engine.threads;
  const std::optional<uint64_t> reserve =
      CheckedAdd(engine.tokenizer + engine.program, options.reserve_bytes);
  const std::optional<uint64_t> beside =
      reserve ? CheckedAdd(use.kv_cache + use.activations, *reserve) : std::nullopt;
  const uint64_t smallest = SmallestBytes(outline, options);
  const std::optional<uint64_t> needed = beside ? CheckedAdd(*beside, smallest) : std::nullopt;
  if (!needed) return InvalidArgument("reserve: {} bytes overflow", options.reserve_bytes);
  use.reserve = *reserve;
  if (use.budget < *needed) {
    return ResourceExhausted(
        "memory: {} ({} bytes) is too little; the smallest possible is {} bytes: weights {}, KV "
        "cache of {} positions {}, activations {}, program, tokenizer and reserve {}",
        FormatBytes(use.budget), use.budget, *needed, smallest, use.context, use.kv_cache,
        use.activations, use.reserve);
  }
  use.weights = use.budget - *beside;
  return use;
}

}  // namespace tq
