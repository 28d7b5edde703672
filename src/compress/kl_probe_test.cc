#include "compress/kl_probe.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "device/thread_pool.h"
#include "evaluate/evaluate.h"
#include "model/memory_source_for_test.h"
#include "model/transformer.h"

namespace tq {
namespace {

class KlProbeTest : public ::testing::TestWithParam<bool> {
 protected:
  KlProbeTest() : source_(RandomSource(Config(), 1)) {
    windows_.context = 24;
    Random random(1, "tokens");
    for (uint64_t i = 0; i < 3 * windows_.context; ++i) {
      windows_.ids.push_back(static_cast<int32_t>(random.NextBelow(Config().vocab_size)));
    }
  }
  static ModelConfig Config() {
    ModelConfig config = SmallConfig();
    config.tie_embeddings = GetParam();
    return config;
  }
  // KL(source || changed) as evaluation measures it.
  double Evaluated(const ModelSource& changed) {
    auto reference = *Transformer::FromSource(source_);
    auto model = *Transformer::FromSource(changed);
    EvaluateOptions options;
    options.context = windows_.context;
    ForwardContext context;
    context.executor = pool_.get();
    NullProgress progress;
    return Evaluate(*model, reference.get(), windows_.ids, options, context, progress)->kl->mean;
  }

  std::unique_ptr<ThreadPool> pool_ = *ThreadPool::Create(2);
  MemorySource source_;
  CalibrationTokens windows_;
};

// Replacing a layer's matrix gives the KL that a changed model has.
TEST_P(KlProbeTest, MatchesEvaluationOfAChangedModel) {
  auto probe = KlProbe::Create(source_, windows_, *pool_);
  ASSERT_TRUE(probe.ok()) << probe.status().message();
  for (uint32_t layer = 0; layer < Config().num_layers; ++layer) {
    ASSERT_EQ(probe->current(), layer);
    MemorySource changed = RandomSource(Config(), 1);
    const std::string name = fmt::format("model.layers.{}.mlp.down_proj.weight", layer);
    for (int i = 0; i < 50; ++i) changed.Mutable(name)[i * 7] += 0.3f;
    LayerTensors tensors = probe->tensors(layer);
    EXPECT_LT(*probe->KlWithLayer(**probe->MakeLayer(tensors)), 1e-9);
    tensors.down = changed.Get(name);
    const auto kl = probe->KlWithLayer(**probe->MakeLayer(tensors));
    ASSERT_TRUE(kl.ok());
    EXPECT_GT(*kl, 1e-5);
    EXPECT_NEAR(*kl, Evaluated(changed), 1e-6 + 1e-3 * *kl);
    ASSERT_TRUE(probe->Advance().ok());
  }
}

TEST_P(KlProbeTest, EmbeddingAndHead) {
  auto probe = KlProbe::Create(source_, windows_, *pool_);
  ASSERT_TRUE(probe.ok());
  MemorySource changed = RandomSource(Config(), 1);
  for (int i = 0; i < 200; ++i) changed.Mutable("model.embed_tokens.weight")[i * 5] += 0.3f;
  const Tensor embedding = changed.Get("model.embed_tokens.weight");
  const auto head = GetParam() ? MakeDenseGroup({embedding}) : nullptr;
  const auto kl = probe->KlFrom(0, probe->Embed(*MakeDenseEmbedding(embedding, 1)), head.get());
  ASSERT_TRUE(kl.ok());
  EXPECT_NEAR(*kl, Evaluated(changed), 1e-6 + 1e-3 * *kl);
}

INSTANTIATE_TEST_SUITE_P(TiedAndNot, KlProbeTest, ::testing::Bool());

}  // namespace
}  // namespace tq
