#include "model/engine_memory.h"

#include <algorithm>

#include "base/checked.h"
#include "model/backend.h"
#include "model/decoder_layer.h"
#include "model/kv_cache.h"
#include "model/sampler.h"

namespace tq {
namespace {

// Measured on Debian 12 (`tq generate` of a model of three layers and 300 tokens): up to 7.2 MiB of
// code and libraries, 0.5 MiB of heap. 8 MiB.
constexpr uint64_t kProgramBytes = uint64_t{8} << 20;
// Names, shapes and matrices of a layer's 27 tensors: 18 KiB in SmolLM2-135M.
constexpr uint64_t kLayerBytes = uint64_t{24} << 10;
// The same of an expert's 11 tensors.
constexpr uint64_t kExpertBytes = uint64_t{10} << 10;
// Norms are floats in memory, at least half of which their file counts.
constexpr uint64_t kNormBytes = sizeof(float) / 2;
// The tokenizer's tables take some 35 bytes per token, what the heap keeps of reading them
// as much again (SmolLM2's 49,152 tokens: 72 bytes each). Reading takes 190 bytes per token
// for a moment, but before any weight is touched.
constexpr uint64_t kTokenizerBytes = 80;
// The prompt's text, its words, its ids and what is reported of them.
constexpr uint64_t kPositionBytes = 96;
// A worker's stack, which attention's 136 KiB of blocks fill most, and its arena of the heap.
constexpr uint64_t kStackBytes = uint64_t{160} << 10;

// Values of what a layer has in float32: norms, biases and what chooses experts.
uint64_t VectorValues(const ModelConfig& c) {
  uint64_t values = (c.sandwich_norms ? 4 : 2) * uint64_t{c.hidden_size};
  if (c.qkv_bias) values += c.q_size() + 2 * uint64_t{c.kv_size()};
  if (c.sub_norms) values += c.q_size() + uint64_t{c.mlp_size()};
  values += uint64_t{c.num_experts} * c.hidden_size;  // the router
  if (c.qk_norm) values += 2 * uint64_t{c.head_dim};
  return values;
}

}  // namespace

StatusOr<EngineMemory> MemoryToRun(const ModelConfig& config, uint64_t context, size_t threads) {
  TQ_RETURN_IF_ERROR(CheckModelConfig(config, "config"));
  if (context == 0 || context > config.max_position) {
    return InvalidArgument("context {}: the model was trained for 1 to {} positions", context,
                           config.max_position);
  }
  if (threads == 0) return InvalidArgument("threads 0: at least one is needed");
  const uint64_t hidden = config.hidden_size, vocab = config.vocab_size;
  const uint64_t chunk =
      std::min(LayerWorkspace(config, LayerWorkspace::kRunBytes).chunk(), context);

  EngineMemory memory;
  TQ_ASSIGN_OR_RETURN(memory.kv_cache, KvCache::NumBytes(config, config.num_layers, context));
  // Sizes of a checked config are far from overflowing; numbers that multiply them may be large.
  const uint64_t partials = AttentionScratchFloats(config.num_heads, config.head_dim, context);
  memory.activations =
      LayerWorkspace::NumBytes(config, chunk) + (hidden + partials) * sizeof(float) +
      vocab * (2 * sizeof(float) + Sampler::kBytesPerToken) + context * kPositionBytes;
  const auto all_threads =
      CheckedMul<uint64_t>(threads, kStackBytes + LayerWorkspace::ThreadBytes(config, chunk));
  memory.tokenizer = vocab * kTokenizerBytes;
  memory.program = kProgramBytes + CudaProgramBytes() +
                   config.num_layers * (kLayerBytes + config.num_experts * kExpertBytes) +
                   (hidden + config.num_layers * VectorValues(config)) * kNormBytes;
  const uint64_t rest = memory.activations + memory.tokenizer + memory.program;
  const auto sum = all_threads ? CheckedAdd(rest, *all_threads) : std::nullopt;
  if (!sum || !CheckedAdd(*sum, memory.kv_cache)) {
    return InvalidArgument("memory for {} positions and {} threads: the size overflows", context,
                           threads);
  }
  memory.threads = *all_threads;
  return memory;
}

}  // namespace tq
