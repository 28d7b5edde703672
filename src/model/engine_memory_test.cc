#include "model/engine_memory.h"

#include <gtest/gtest.h>

#include "model/decoder_layer.h"
#include "model/kv_cache.h"

namespace tq {
namespace {

// SmolLM2-135M.
ModelConfig SmallModel() {
  ModelConfig config;
  config.architecture = "llama";
  config.vocab_size = 49152;
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.num_layers = 30;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.max_position = 8192;
  config.tie_embeddings = true;
  return config;
}

TEST(EngineMemoryTest, CountsTheCacheAndTheWorkspace) {
  const ModelConfig config = SmallModel();
  for (const uint64_t context : {1, 100, 512, 8192}) {
    const auto memory = MemoryToRun(config, context, 2);
    ASSERT_TRUE(memory.ok()) << memory.status().message();
    const auto cache = KvCache::Create(config, context);
    ASSERT_TRUE(cache.ok());
    EXPECT_EQ(memory->kv_cache, cache->num_bytes());
    EXPECT_EQ(memory->kv_cache, RoundUp(context, KvCache::kRounding) * 30 * 2 * 3 * 64 * 2);
    LayerWorkspace workspace(config, LayerWorkspace::kRunBytes);
    const uint64_t n = std::min(context, workspace.chunk());
    workspace.Resize(n);
    const uint64_t buffers = (workspace.narrow.size() + workspace.wide.size()) * sizeof(float);
    EXPECT_GT(memory->activations, buffers);
    EXPECT_LT(memory->activations, buffers + (uint64_t{6} << 20));
    EXPECT_EQ(memory->total(), memory->kv_cache + memory->activations + memory->threads +
                                   memory->tokenizer + memory->program);
  }
}

TEST(EngineMemoryTest, WorkspacesStayBoundedWhateverTheModel) {
  ModelConfig config = SmallModel();
  config.hidden_size = 16384;  // 405B
  config.intermediate_size = 53248;
  config.num_layers = 126;
  config.num_heads = 128;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 128256;
  config.max_position = 131072;
  const auto memory = MemoryToRun(config, 32768, 16);
  ASSERT_TRUE(memory.ok()) << memory.status().message();
  EXPECT_EQ(memory->kv_cache, uint64_t{32768} * 126 * 2 * 8 * 128 * 2);
  EXPECT_LT(memory->total() - memory->kv_cache, uint64_t{96} << 20);
}

TEST(EngineMemoryTest, CountsWhatExpertsTake) {
  ModelConfig config = SmallModel();
  config.architecture = "qwen3_moe";
  config.qk_norm = true;
  config.num_experts = 128;
  config.experts_per_token = 8;
  config.expert_size = 768;
  const auto memory = MemoryToRun(config, 512, 2);
  ASSERT_TRUE(memory.ok()) << memory.status().message();
  LayerWorkspace workspace(config, LayerWorkspace::kRunBytes);
  const uint64_t n = std::min<uint64_t>(512, workspace.chunk());
  workspace.Resize(n);
  EXPECT_EQ(workspace.sparse.sum.size(), n * config.hidden_size);
  const uint64_t buffers = (workspace.narrow.size() + workspace.wide.size() +
                            workspace.sparse.rows.size() + workspace.sparse.sum.size()) *
                           sizeof(float);
  EXPECT_GT(memory->activations, buffers + Routing::NumBytes(config, n));
  EXPECT_LT(memory->activations, buffers + (uint64_t{6} << 20));
  ModelConfig dense = config;
  dense.architecture = "qwen3";
  dense.num_experts = dense.experts_per_token = dense.expert_size = 0;
  dense.intermediate_size = 768;
  const auto without = MemoryToRun(dense, 512, 2);
  ASSERT_TRUE(without.ok());
  // Each layer's router, and what is kept of every expert.
  EXPECT_GT(memory->program - without->program, 30 * 128 * (576 * sizeof(float) / 2 + 4096));
  config.experts_per_token = 129;
  EXPECT_EQ(MemoryToRun(config, 512, 2).status().code(), StatusCode::kInvalidArgument);
}

TEST(EngineMemoryTest, EveryThreadAndPositionCounts) {
  const ModelConfig config = SmallModel();
  const auto base = MemoryToRun(config, 512, 2), threads = MemoryToRun(config, 512, 16),
             context = MemoryToRun(config, 513, 2);
  ASSERT_TRUE(base.ok() && threads.ok() && context.ok());
  EXPECT_EQ(threads->threads, 8 * base->threads);
  EXPECT_GT(context->total(), base->total());
}

// Robustness case 34.
TEST(EngineMemoryTest, HostileConfigsAreErrors) {
  const auto refused = [](auto change, uint64_t context, size_t threads, const char* name) {
    ModelConfig config = SmallModel();
    change(config);
    const Status status = MemoryToRun(config, context, threads).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  };
  const auto unchanged = [](ModelConfig&) {};
  refused(unchanged, 0, 1, "context 0");
  refused(unchanged, 8193, 1, "8193");
  refused(unchanged, UINT64_MAX, 1, "18446744073709551615");
  refused(unchanged, 512, 0, "threads 0");
  refused(unchanged, 512, SIZE_MAX, "overflows");
  refused([](ModelConfig& c) { c.hidden_size = 0; }, 512, 1, "hidden_size");
  refused([](ModelConfig& c) { c.num_layers = UINT32_MAX; }, 512, 1, "layers");
  refused([](ModelConfig& c) { c.vocab_size = UINT32_MAX; }, 512, 1, "vocab_size");
  refused([](ModelConfig& c) { c.num_kv_heads = 0; }, 512, 1, "key-value heads");
  // Sizes that pass the checks one by one: 2^64 bytes of cache, and half of that.
  const auto largest = [](ModelConfig& c) {
    c.num_layers = c.num_heads = c.num_kv_heads = 4096;
    c.head_dim = 256;
    c.hidden_size = c.intermediate_size = 1 << 20;
    c.vocab_size = 1 << 24;
    c.max_position = 1 << 30;
  };
  refused(largest, 1 << 30, 1024, "KV cache");
  ModelConfig config = SmallModel();
  largest(config);
  const auto memory = MemoryToRun(config, 1 << 29, 1024);
  ASSERT_TRUE(memory.ok()) << memory.status().message();
  EXPECT_EQ(memory->kv_cache, uint64_t{1} << 63);
}

}  // namespace
}  // namespace tq
