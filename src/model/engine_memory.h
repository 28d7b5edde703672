// What running a packed model takes, told from its config before the model exists.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "checkpoint/model_config.h"

namespace tq {

// Bytes beside the weight files, whose pages are resident once they have been read. An upper
// bound for trellis-coded models on the fast path, met within some MiB when the context is full.
struct EngineMemory {
  uint64_t kv_cache = 0;     // keys and values of all positions in fp16
  uint64_t activations = 0;  // of a chunk of positions; logits; the text and its tokens
  uint64_t threads = 0;      // stacks and scratch
  uint64_t tokenizer = 0;
  uint64_t program = 0;  // code, libraries, and the objects that hold the weights

  uint64_t total() const { return kv_cache + activations + threads + tokenizer + program; }
};

// One conversation of `context` positions, run by `threads` threads (at least one). An error
// when the config is not usable or the sum overflows.
StatusOr<EngineMemory> MemoryToRun(const ModelConfig& config, uint64_t context, size_t threads);

}  // namespace tq
