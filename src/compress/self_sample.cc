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
#include "model/linear.h"
#include "model/transformer_ops.h"

namespace tq {
namespace {

// Memory for the KV caches of the sequences of one batch; more sequences run one batch
// after the other, which changes no token.
constexpr uint64_t kCacheBytes = uint64_t{256} << 20;
// Rows per product beyond which more make it no faster.
constexpr uint64_t kMaxBatch = 256;

// One layer's weights. Like model/decoder_layer.h, which runs many positions of one
// sequence; this runs one position of many.
struct SampleLayer {
  Tensor attention_norm, mlp_norm;
  std::unique_ptr<LinearGroup> qkv, o, gate_up, down;
};

class BatchSampler {
 public:
  static StatusOr<BatchSampler> Load(const ModelSource& source, uint64_t sequences,
                                     uint64_t context);

  // Runs all sequences' tokens at `position` (token of sequence i: tokens[i]); logits:
  // float [sequences, vocab].
  Status Step(uint64_t position, std::span<const int32_t> tokens, Executor& executor,
              float* logits);

 private:
  explicit BatchSampler(const ModelConfig& config)
      : config_(config), rope_(config.head_dim, config.rope_theta) {}
  void Attend(uint32_t layer, uint64_t position, uint64_t n, Executor& executor);
  Status RunLayer(uint32_t layer, uint64_t position, uint64_t n, const ForwardContext& context);

  ModelConfig config_;
  RopeTable rope_;
  std::unique_ptr<EmbeddingTable> embedding_;
  std::vector<SampleLayer> layers_;
  Tensor final_norm_;
  std::unique_ptr<LinearGroup> head_;
  std::vector<KvCache> caches_;  // by sequence
  // Activations of a step, [sequences, ...].
  std::vector<float> hidden_, normed_, q_, k_, v_, attention_, gate_, up_, out_;
};

StatusOr<std::unique_ptr<LinearGroup>> LoadGroup(const ModelSource& source,
                                                 const std::vector<std::string>& names) {
  std::vector<Tensor> weights;
  for (const std::string& name : names) {
    TQ_ASSIGN_OR_RETURN(Tensor w, source.LoadFloat(name));
    weights.push_back(std::move(w));
  }
  return MakeDenseGroup(std::move(weights));
}

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
  sampler.embedding_ = MakeDenseEmbedding(std::move(embedding));
  sampler.head_ = MakeDenseGroup({std::move(head)});
  for (uint32_t i = 0; i < c.num_layers; ++i) {
    const std::string p = fmt::format("model.layers.{}.", i);
    SampleLayer layer;
    TQ_ASSIGN_OR_RETURN(layer.attention_norm, source.LoadFloat(p + "input_layernorm.weight"));
    TQ_ASSIGN_OR_RETURN(layer.mlp_norm, source.LoadFloat(p + "post_attention_layernorm.weight"));
    TQ_ASSIGN_OR_RETURN(
        layer.qkv, LoadGroup(source, {p + "self_attn.q_proj.weight", p + "self_attn.k_proj.weight",
                                      p + "self_attn.v_proj.weight"}));
    TQ_ASSIGN_OR_RETURN(layer.o, LoadGroup(source, {p + "self_attn.o_proj.weight"}));
    TQ_ASSIGN_OR_RETURN(layer.gate_up,
                        LoadGroup(source, {p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"}));
    TQ_ASSIGN_OR_RETURN(layer.down, LoadGroup(source, {p + "mlp.down_proj.weight"}));
    sampler.layers_.push_back(std::move(layer));
  }
  TQ_ASSIGN_OR_RETURN(sampler.final_norm_, source.LoadFloat("model.norm.weight"));
  for (uint64_t i = 0; i < sequences; ++i) {
    TQ_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(c, context));
    sampler.caches_.push_back(std::move(cache));
  }
  const auto resize = [&](std::vector<float>& buffer, uint64_t width) {
    buffer.resize(sequences * width);
  };
  for (auto* buffer : {&sampler.hidden_, &sampler.normed_, &sampler.out_}) {
    resize(*buffer, c.hidden_size);
  }
  for (auto* buffer : {&sampler.q_, &sampler.attention_}) resize(*buffer, c.q_size());
  for (auto* buffer : {&sampler.k_, &sampler.v_}) resize(*buffer, c.kv_size());
  for (auto* buffer : {&sampler.gate_, &sampler.up_}) resize(*buffer, c.intermediate_size);
  return sampler;
}

void BatchSampler::Attend(uint32_t layer, uint64_t position, uint64_t n, Executor& executor) {
  const ModelConfig& c = config_;
  executor.ParallelFor(n, 1, [&](size_t begin, size_t end, size_t) {
    InlineExecutor inline_executor;
    for (size_t i = begin; i < end; ++i) {
      KvCache& cache = caches_[i];
      float* q = q_.data() + i * c.q_size();
      float* k = k_.data() + i * c.kv_size();
      const float* v = v_.data() + i * c.kv_size();
      ApplyRope(rope_, q, 1, c.num_heads, c.head_dim, inline_executor);
      ApplyRope(rope_, k, 1, c.num_kv_heads, c.head_dim, inline_executor);
      AttentionArgs args;
      args.kv_stride = cache.head_stride();
      uint16_t* keys = cache.Keys(layer, 0);
      uint16_t* values = cache.Values(layer, 0);
      StoreKeys(k, 1, c.num_kv_heads, c.head_dim, position, args.kv_stride, keys);
      StoreValues(v, 1, c.num_kv_heads, c.head_dim, position, args.kv_stride, values);
      args.queries = q;
      args.out = attention_.data() + i * c.q_size();
      args.n = 1;
      args.base = position;
      args.heads = c.num_heads;
      args.kv_heads = c.num_kv_heads;
      args.head_dim = c.head_dim;
      args.keys = keys;
      args.values = values;
      std::vector<float> unused;  // one thread splits nothing
      Attention(args, inline_executor, unused);
    }
  });
}

Status BatchSampler::RunLayer(uint32_t index, uint64_t position, uint64_t n,
                              const ForwardContext& context) {
  const ModelConfig& c = config_;
  SampleLayer& layer = layers_[index];
  Executor& executor = *context.executor;
  RmsNormRows(hidden_.data(), layer.attention_norm.as<float>(), n, c.hidden_size, c.rms_norm_eps,
              executor, normed_.data());
  float* qkv[] = {q_.data(), k_.data(), v_.data()};
  TQ_RETURN_IF_ERROR(layer.qkv->Forward(context, normed_.data(), n, qkv));
  Attend(index, position, n, executor);
  float* out[] = {out_.data()};
  TQ_RETURN_IF_ERROR(layer.o->Forward(context, attention_.data(), n, out));
  AddTo(hidden_.data(), out_.data(), n * c.hidden_size, executor);
  RmsNormRows(hidden_.data(), layer.mlp_norm.as<float>(), n, c.hidden_size, c.rms_norm_eps,
              executor, normed_.data());
  float* gate_up[] = {gate_.data(), up_.data()};
  TQ_RETURN_IF_ERROR(layer.gate_up->Forward(context, normed_.data(), n, gate_up));
  SiluMultiply(gate_.data(), up_.data(), n * c.intermediate_size, executor);
  TQ_RETURN_IF_ERROR(layer.down->Forward(context, gate_.data(), n, out));
  AddTo(hidden_.data(), out_.data(), n * c.hidden_size, executor);
  return OkStatus();
}

Status BatchSampler::Step(uint64_t position, std::span<const int32_t> tokens, Executor& executor,
                          float* logits) {
  ForwardContext context;
  context.executor = &executor;
  const uint64_t n = tokens.size();
  embedding_->Lookup(tokens, hidden_.data());
  rope_.Prepare(position, 1);
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    TQ_RETURN_IF_ERROR(RunLayer(layer, position, n, context));
  }
  RmsNormRows(hidden_.data(), final_norm_.as<float>(), n, config_.hidden_size, config_.rms_norm_eps,
              executor, normed_.data());
  float* head_out[] = {logits};
  return head_->Forward(context, normed_.data(), n, head_out);
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
      TQ_RETURN_IF_ERROR(sampler.Step(position, {current.data(), n}, executor, logits.data()));
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
