// Calibration text drawn from the model itself: many sequences at once, a token each per
// step, so that every weight that is read serves them all.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "base/cancel.h"
#include "base/memory_usage.h"
#include "base/random.h"
#include "compress/calibration_tokens.h"
#include "model/embedding.h"
#include "model/kv_cache.h"
#include "model/layer_tensors.h"
#include "model/linear.h"
#include "model/output_head.h"

namespace tq {
namespace {

// Memory for the KV caches of the sequences of one batch; more sequences run one batch
// after the other, which changes no token.
constexpr uint64_t kCacheBytes = uint64_t{256} << 20;
// Rows per product beyond which more make it no faster.
constexpr uint64_t kMaxBatch = 256;

class BatchSampler {
 public:
  static StatusOr<BatchSampler> Load(const ModelSource& source, uint64_t sequences,
                                     uint64_t context);

  // Forgets what the sequences said.
  void Begin();
  // Runs the next token of all sequences (of sequence i: tokens[i]); logits: float
  // [sequences, vocab].
  Status Step(std::span<const int32_t> tokens, Executor& executor, float* logits);

 private:
  explicit BatchSampler(const ModelConfig& config) : config_(config) {}

  ModelConfig config_;
  std::unique_ptr<EmbeddingTable> embedding_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  Tensor final_norm_;
  std::unique_ptr<LinearGroup> head_;
  std::vector<KvCache> caches_;         // by sequence
  std::vector<float> hidden_, normed_;  // [sequences, hidden]
};

StatusOr<BatchSampler> BatchSampler::Load(const ModelSource& source, uint64_t sequences,
                                          uint64_t context) {
  const ModelConfig& c = source.config();
  BatchSampler sampler(c);
  TQ_ASSIGN_OR_RETURN(Tensor embedding, source.LoadFloat("model.embed_tokens.weight"));
  // A tied head shares the embedding's storage.
  Tensor head = embedding;
  if (!c.tie_embeddings) {
    TQ_ASSIGN_OR_RETURN(head, source.LoadFloat("lm_head.weight"));
  }
  sampler.embedding_ = MakeDenseEmbedding(std::move(embedding), EmbeddingScale(c));
  sampler.head_ = MakeDenseGroup({std::move(head)});
  // All sequences of a batch go through a layer at once.
  const auto workspace = std::make_shared<LayerWorkspace>(c, LayerWorkspace::kRunBytes);
  for (uint32_t i = 0; i < c.num_layers; ++i) {
    TQ_ASSIGN_OR_RETURN(auto layer, LoadFloatLayer(source, i, workspace));
    sampler.layers_.push_back(std::move(layer));
  }
  TQ_ASSIGN_OR_RETURN(sampler.final_norm_, LoadFinalNorm(c, VectorsOf(source)));
  for (uint64_t i = 0; i < sequences; ++i) {
    TQ_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(c, context));
    sampler.caches_.push_back(std::move(cache));
  }
  sampler.hidden_.resize(sequences * c.hidden_size);
  return sampler;
}

void BatchSampler::Begin() {
  for (KvCache& cache : caches_) cache.Truncate(0);
}

Status BatchSampler::Step(std::span<const int32_t> tokens, Executor& executor, float* logits) {
  ForwardContext context;
  context.executor = &executor;
  const std::span caches(caches_.data(), tokens.size());
  embedding_->Lookup(tokens, hidden_.data());
  for (uint32_t i = 0; i < config_.num_layers; ++i) {
    TQ_RETURN_IF_ERROR(layers_[i]
                           ->ForwardSequences(context, caches, i, hidden_.data())
                           .WithContext(fmt::format("layer {}", i)));
  }
  for (KvCache& cache : caches) cache.Advance(1);
  return HeadLogits(context, config_, final_norm_, *head_, hidden_.data(), tokens.size(), normed_,
                    logits);
}

// A token from softmax(logits), or -1 if they are not finite. Overwrites the logits.
int32_t Draw(float* logits, uint64_t vocab, double uniform) {
  const float largest = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (uint64_t i = 0; i < vocab; ++i) {
    logits[i] = std::exp(logits[i] - largest);
    sum += logits[i];
  }
  if (!std::isfinite(sum)) return -1;
  double left = uniform * sum;
  for (uint64_t i = 0; i < vocab; ++i) {
    left -= logits[i];
    if (left < 0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(vocab - 1);
}

// How the sequences are run.
struct Batches {
  uint64_t context, sequences;
  uint64_t batch;        // sequences at a time
  uint64_t cache_bytes;  // of all caches of a batch
};
Batches MakeBatches(const ModelConfig& c, uint64_t wanted, uint64_t context) {
  Batches b{};
  b.context = std::min<uint64_t>({context, wanted, c.max_position});
  b.sequences = std::max<uint64_t>(1, wanted / b.context);
  const uint64_t cache_bytes = uint64_t{4} * c.num_layers * c.kv_size() * b.context;
  b.batch = std::min({b.sequences, kMaxBatch, std::max<uint64_t>(1, kCacheBytes / cache_bytes)});
  b.cache_bytes = b.batch * cache_bytes;
  return b;
}

Status CheckMemory(uint64_t needed) {
  const uint64_t available = AvailableMemory();
  if (available > 0 && needed > available) {
    return ResourceExhausted(
        "calibration self: sampling from the model takes {} MiB of memory (its weights as float32 "
        "and the KV cache), {} MiB are available; give a text with --calibration FILE",
        needed >> 20, available >> 20);
  }
  return OkStatus();
}

}  // namespace

uint64_t SampleMemoryNeeded(const ModelSource& source, uint64_t wanted, uint64_t context) {
  return 4 * source.num_parameters() + MakeBatches(source.config(), wanted, context).cache_bytes;
}

StatusOr<CalibrationTokens> SampleCalibrationTokens(const ModelSource& source, int32_t bos,
                                                    uint64_t wanted, uint64_t context,
                                                    uint64_t seed, Executor& executor,
                                                    Progress& progress) {
  const ModelConfig& c = source.config();
  TQ_RETURN_IF_ERROR(CheckMemory(SampleMemoryNeeded(source, wanted, context)));
  const Batches batches = MakeBatches(c, wanted, context);
  const uint64_t sequences = batches.sequences, batch = batches.batch;
  CalibrationTokens tokens;
  tokens.context = batches.context;
  TQ_ASSIGN_OR_RETURN(BatchSampler sampler, BatchSampler::Load(source, batch, tokens.context));
  tokens.ids.resize(sequences * tokens.context);
  std::vector<float> logits(batch * c.vocab_size);
  std::vector<int32_t> current(batch);
  progress.Begin("sample", tokens.ids.size());
  for (uint64_t first = 0; first < sequences; first += batch) {
    const uint64_t n = std::min(batch, sequences - first);
    sampler.Begin();
    std::vector<Random> random;
    for (uint64_t i = 0; i < n; ++i) {
      random.emplace_back(seed, "calibration", first + i);
      const auto start = static_cast<int32_t>(random[i].NextBelow(c.vocab_size));
      tokens.ids[(first + i) * tokens.context] = bos >= 0 ? bos : start;
    }
    for (uint64_t position = 0; position + 1 < tokens.context; ++position) {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      int32_t* ids = tokens.ids.data() + first * tokens.context + position;
      for (uint64_t i = 0; i < n; ++i) current[i] = ids[i * tokens.context];
      TQ_RETURN_IF_ERROR(sampler.Step({current.data(), n}, executor, logits.data()));
      executor.ParallelFor(n, 1, [&](size_t begin, size_t end, size_t) {
        for (size_t i = begin; i < end; ++i) {
          ids[i * tokens.context + 1] =
              Draw(logits.data() + i * c.vocab_size, c.vocab_size, random[i].NextUniform());
        }
      });
      for (uint64_t i = 0; i < n; ++i) {
        if (ids[i * tokens.context + 1] < 0) {
          return DataLoss("calibration self: the model's logits are not finite at position {}",
                          position);
        }
      }
      progress.Update(first * tokens.context + n * (position + 2), "");
    }
  }
  progress.End();
  return tokens;
}

}  // namespace tq
