#include "compress/kl_probe.h"

#include <algorithm>
#include <utility>

#include "base/cancel.h"
#include "base/memory_usage.h"
#include "compress/calibrate.h"
#include "compress/sensitivity.h"
#include "evaluate/logit_score.h"
#include "model/output_head.h"

namespace tq {
namespace {

// Logits of a changed model held at once.
constexpr uint64_t kLogitBlockBytes = uint64_t{32} << 20;

uint64_t HeadBytes(const ModelConfig& c) {
  return sizeof(float) * uint64_t{c.vocab_size} * c.hidden_size;
}

// Memory of a device that must be left beside the head and the layers that stay there: what
// calibrating the same layer takes, a layer (or the head) that is changed, and a layer on its way.
uint64_t DeviceReserve(const ModelConfig& c) {
  const uint64_t layer = FloatLayerBytes(c);
  return CalibrationStream::DeviceBytes(c) + layer + std::max(layer, HeadBytes(c));
}

// Left free beyond that while layers are placed: cuSOLVER's workspace, other programs.
constexpr uint64_t kDeviceSlack = uint64_t{256} << 20;

Status CheckDeviceMemory(const DenseDevice& device, const ModelConfig& c) {
  TQ_ASSIGN_OR_RETURN(const uint64_t free, device.FreeBytes());
  const uint64_t needed = HeadBytes(c) + DeviceReserve(c);
  if (needed <= free) return OkStatus();
  return ResourceExhausted(
      "--device cuda: sensitivity by KL takes {} MiB of the memory of {} (calibration's, the head "
      "and layers in float32), {} MiB are free; use --sensitivity hessian or --device cpu",
      needed >> 20, device.name(), free >> 20);
}

}  // namespace

uint64_t KlProbe::MemoryNeeded(const ModelSource& source, uint64_t tokens) {
  const ModelConfig& c = source.config();
  const uint64_t hidden = c.hidden_size, inner = c.mlp_size(), q = c.q_size();
  const uint64_t vocabulary = c.vocab_size * hidden;
  const uint64_t layer = FloatLayerBytes(c) / sizeof(float);
  // The states of the original, of a probe, and of those that run along.
  constexpr uint64_t kStreams = 8;
  // A layer noisy in all matrices and a group of it, at each level, and its Hessians; or a
  // vocabulary at each level, as it was, and with a noisy slice.
  const uint64_t of_a_layer =
      2 * kProbeLevels * layer + 2 * hidden * hidden + q * q + inner * inner;
  const uint64_t of_a_vocabulary = (kProbeLevels + 2) * vocabulary + hidden * hidden;
  const uint64_t floats = source.num_parameters() + std::max(of_a_layer, of_a_vocabulary) +
                          c.vocab_size * tokens / 2 + kStreams * hidden * tokens;
  return sizeof(float) * floats + kLogitBlockBytes;
}

bool KlProbe::Fits(const ModelSource& source, uint64_t tokens) {
  const uint64_t available = AvailableMemory();
  return available == 0 || MemoryNeeded(source, tokens) <= available;
}

StatusOr<KlProbe> KlProbe::Create(const ModelSource& source, CalibrationTokens windows,
                                  Executor& executor, const DenseDevice* device) {
  const ModelConfig& c = source.config();
  TQ_CHECK(windows.context >= kMinCalibrationContext && windows.windows() > 0);
  if (device != nullptr) TQ_RETURN_IF_ERROR(CheckDeviceMemory(*device, c));
  TQ_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(c, /*layers=*/1, windows.context));
  KlProbe probe(source, std::move(windows), std::move(cache), executor, device);
  TQ_ASSIGN_OR_RETURN(Tensor embedding, source.LoadFloat("model.embed_tokens.weight"));
  Tensor head = embedding;
  if (!c.tie_embeddings) {
    TQ_ASSIGN_OR_RETURN(head, source.LoadFloat("lm_head.weight"));
  }
  probe.states_ = probe.Embed(*MakeDenseEmbedding(std::move(embedding), EmbeddingScale(c)));
  TQ_ASSIGN_OR_RETURN(probe.head_, probe.MakeHead(std::move(head)));
  TQ_ASSIGN_OR_RETURN(probe.norm_, LoadFinalNorm(c, VectorsOf(source)));
  TQ_RETURN_IF_ERROR(probe.LoadLayers());
  probe.reference_.resize(probe.windows_.windows() * probe.ScoredPerWindow() * c.vocab_size);
  States states = probe.states_;
  for (uint32_t i = 0; i < c.num_layers; ++i) {
    TQ_RETURN_IF_ERROR(probe.RunOriginal(i, states));
  }
  TQ_RETURN_IF_ERROR(probe.ForEachLogitBlock(
      states, *probe.head_, [&](uint64_t first, uint64_t count, const float* logits) {
        std::copy_n(logits, count * c.vocab_size, probe.reference_.data() + first * c.vocab_size);
      }));
  return probe;
}

Status KlProbe::LoadLayers() {
  const ModelConfig& c = source_->config();
  for (uint32_t i = 0; i < c.num_layers; ++i) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    TQ_ASSIGN_OR_RETURN(LayerTensors tensors, LoadLayerTensors(*source_, i));
    bool fits = true;
    if (device_ != nullptr) {
      TQ_ASSIGN_OR_RETURN(const uint64_t free, device_->FreeBytes());
      fits = free >= FloatLayerBytes(c) + DeviceReserve(c) + kDeviceSlack;
    }
    std::unique_ptr<DecoderLayer> layer;
    if (fits) {
      TQ_ASSIGN_OR_RETURN(layer, MakeLayer(tensors));
    }
    layers_.push_back(std::move(layer));
    tensors_.push_back(std::move(tensors));
  }
  return OkStatus();
}

Status KlProbe::RunOriginal(uint32_t index, States& states) {
  if (layers_[index] != nullptr) return RunLayer(*layers_[index], states);
  TQ_ASSIGN_OR_RETURN(const auto layer, MakeLayer(tensors_[index]));
  return RunLayer(*layer, states);
}

KlProbe::States KlProbe::Embed(const EmbeddingTable& embedding) const {
  States states(windows_.ids.size() * source_->config().hidden_size);
  embedding.Lookup(windows_.ids, states.data());
  return states;
}

Status KlProbe::RunLayer(DecoderLayer& layer, States& states) {
  ForwardContext context;
  context.executor = executor_;
  const uint64_t stride = windows_.context * source_->config().hidden_size;
  for (uint64_t w = 0; w < windows_.windows(); ++w) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    cache_.Truncate(0);
    TQ_RETURN_IF_ERROR(
        layer.Forward(context, cache_, 0, states.data() + w * stride, windows_.context));
  }
  return OkStatus();
}

Status KlProbe::Advance() {
  TQ_CHECK(current_ < layers_.size());
  TQ_RETURN_IF_ERROR(RunOriginal(current_, states_));
  ++current_;
  return OkStatus();
}

Status KlProbe::ForEachLogitBlock(const States& states, LinearGroup& head,
                                  const LogitBlock& consume) {
  const ModelConfig& c = source_->config();
  const uint64_t scored = ScoredPerWindow(), total = scored * windows_.windows();
  const uint64_t rows =
      std::clamp<uint64_t>(kLogitBlockBytes / (4 * uint64_t{c.vocab_size}), 1, total);
  std::vector<float> input(rows * c.hidden_size), normed;
  std::vector<float> logits(rows * c.vocab_size);
  ForwardContext context;
  context.executor = executor_;
  for (uint64_t first = 0; first < total; first += rows) {
    const uint64_t count = std::min(rows, total - first);
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t window = (first + i) / scored, at = (first + i) % scored;
      const uint64_t position = window * windows_.context + windows_.context / 2 + at;
      std::copy_n(states.data() + position * c.hidden_size, c.hidden_size,
                  input.data() + i * c.hidden_size);
    }
    TQ_RETURN_IF_ERROR(
        HeadLogits(context, c, norm_, head, input.data(), count, normed, logits.data()));
    consume(first, count, logits.data());
  }
  return OkStatus();
}

StatusOr<double> KlProbe::KlFrom(uint32_t first, States states, LinearGroup* head) {
  const uint64_t vocab = source_->config().vocab_size;
  for (uint32_t i = first; i < layers_.size(); ++i) {
    TQ_RETURN_IF_ERROR(RunOriginal(i, states));
  }
  std::vector<double> kl(ScoredPerWindow() * windows_.windows());
  TQ_RETURN_IF_ERROR(ForEachLogitBlock(
      states, head != nullptr ? *head : *head_,
      [&](uint64_t begin, uint64_t count, const float* logits) {
        executor_->ParallelFor(count, 1, [&](size_t from, size_t to, size_t) {
          for (size_t i = from; i < to; ++i) {
            kl[begin + i] =
                ScoreLogits(logits + i * vocab, reference_.data() + (begin + i) * vocab, vocab, 0)
                    .kl;
          }
        });
      }));
  double sum = 0;
  for (const double value : kl) sum += value;
  return sum / static_cast<double>(kl.size());
}

StatusOr<double> KlProbe::KlWithLayer(DecoderLayer& changed) {
  States states = states_;
  TQ_RETURN_IF_ERROR(RunLayer(changed, states));
  return KlFrom(current_ + 1, std::move(states));
}

}  // namespace tq
