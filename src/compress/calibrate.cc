#include "compress/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/cancel.h"
#include "model/embedding.h"
#include "model/transformer_ops.h"

namespace tq {
namespace {

// Of a layer without experts.
struct GroupOfRole {
  GroupRole role;
  const char* suffix;  // of the group's full name
};
constexpr GroupOfRole kGroups[] = {{GroupRole::kQkv, "self_attn.qkv"},
                                   {GroupRole::kO, "self_attn.o"},
                                   {GroupRole::kGateUp, "mlp.gate_up"},
                                   {GroupRole::kDown, "mlp.down"}};

uint64_t InputFeatures(const ModelConfig& config, GroupRole role) {
  switch (role) {
    case GroupRole::kO:
      return config.q_size();
    case GroupRole::kDown:
      return config.mlp_size();
    default:
      return config.hidden_size;
  }
}

// Sum over n tokens of |after - before|^2 / |after|^2.
double BranchShare(const float* before, const float* after, uint64_t n, uint64_t hidden) {
  double sum = 0;
  for (uint64_t token = 0; token < n; ++token) {
    double change = 0, whole = 0;
    for (uint64_t i = token * hidden; i < (token + 1) * hidden; ++i) {
      const double delta = static_cast<double>(after[i]) - before[i];
      change += delta * delta;
      whole += static_cast<double>(after[i]) * after[i];
    }
    if (whole > 0) sum += change / whole;
  }
  return sum;
}

}  // namespace

StatusOr<CalibrationStream> CalibrationStream::Create(const ModelSource& source,
                                                      CalibrationTokens tokens,
                                                      uint64_t memory_limit,
                                                      const std::filesystem::path& folder,
                                                      const DenseDevice* device) {
  const ModelConfig& config = source.config();
  for (const int32_t id : tokens.ids) {
    if (id < 0 || static_cast<uint32_t>(id) >= config.vocab_size) {
      return InvalidArgument("calibration: token {} is outside the vocabulary of {}", id,
                             config.vocab_size);
    }
  }
  // With experts there is another store as large (ExpertCalibration).
  if (config.num_experts != 0) memory_limit /= 2;
  TQ_ASSIGN_OR_RETURN(StateStore states, StateStore::Create(tokens.ids.size() * config.hidden_size,
                                                            memory_limit, folder));
  TQ_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(config, /*layers=*/1, tokens.context));
  CalibrationStream stream(source, std::move(tokens), std::move(states), std::move(cache),
                           memory_limit, folder, device);
  const float scale = EmbeddingScale(config);
  for (uint64_t window = 0; window < stream.tokens_.windows(); ++window) {
    TQ_RETURN_IF_ERROR(source.LoadRows("model.embed_tokens.weight", stream.tokens_.window(window),
                                       stream.WindowStates(window)));
    const std::span states(stream.WindowStates(window), stream.WindowSize());
    if (scale != 1)
      std::ranges::transform(states, states.begin(), [&](float x) { return scale * x; });
    stream.ReleaseWindow(window);
  }
  return stream;
}

uint64_t CalibrationStream::DeviceBytes(const ModelConfig& config) {
  uint64_t hessians = 0, largest_factor = 0;
  for (const GroupOfRole& group : kGroups) {
    const uint64_t features = InputFeatures(config, group.role);
    hessians += DenseDevice::GramBytes(features);
    largest_factor = std::max(largest_factor, DenseDevice::FactorBytes(features));
  }
  const uint64_t half =
      std::max(FloatLayerBytes(config, LayerPart::kAttention), FloatMlpBytes(config));
  const uint64_t head = sizeof(float) * uint64_t{config.vocab_size} * config.hidden_size;
  return std::max(hessians + std::max(half, largest_factor), head);
}

Status CalibrationStream::RunLayer(const std::set<std::string>& wanted, const TakeSum& take,
                                   Executor& executor) {
  const ModelConfig& config = source_->config();
  TQ_CHECK(next_layer_ < config.num_layers);
  GroupSums sums(executor, device_);
  for (const GroupOfRole& group : kGroups) {
    TQ_RETURN_IF_ERROR(sums.Add(wanted, group.role,
                                fmt::format("model.layers.{}.{}", next_layer_, group.suffix),
                                InputFeatures(config, group.role)));
  }
  const auto run = [&](LayerPart part) -> Status {
    const Status ran = RunHalf(part, sums.Observer(), executor);
    TQ_RETURN_IF_ERROR(sums.observed());
    return ran;
  };
  TQ_RETURN_IF_ERROR(run(LayerPart::kAttention));
  if (config.num_experts == 0) {
    TQ_RETURN_IF_ERROR(run(LayerPart::kMlp));
    TQ_RETURN_IF_ERROR(sums.Give(take));
  } else {
    TQ_RETURN_IF_ERROR(sums.Give(take));
    ExpertCalibration mlp(*source_, next_layer_, {&states_, tokens_.windows(), tokens_.context},
                          memory_limit_, folder_, device_, *workspace_, executor);
    TQ_RETURN_IF_ERROR(mlp.Run(wanted, take));
    shares_[1] = mlp.share();
    experts_ = mlp.use();
  }
  ++next_layer_;
  return OkStatus();
}

StatusOr<std::vector<HessianSum>> CalibrationStream::RunLayer(const std::set<std::string>& wanted,
                                                              Executor& executor) {
  std::vector<HessianSum> sums;
  const auto keep = [&](HessianSum sum) {
    sums.push_back(std::move(sum));
    return OkStatus();
  };
  TQ_RETURN_IF_ERROR(RunLayer(wanted, keep, executor));
  return sums;
}

double CalibrationStream::expert_share(uint32_t expert) const {
  double sum = 0;
  for (const ExpertUse& use : experts_) sum += use.share;
  return std::max(experts_[expert].share, kLeastShare * sum / static_cast<double>(experts_.size()));
}

Status CalibrationStream::RunHalf(LayerPart part, const InputObserver& observer,
                                  Executor& executor) {
  TQ_ASSIGN_OR_RETURN(const std::unique_ptr<DecoderLayer> layer,
                      LoadFloatLayer(*source_, next_layer_, workspace_, part, device_));
  ForwardContext context;
  context.executor = &executor;
  double share = 0;
  const uint64_t hidden = source_->config().hidden_size;
  std::vector<float> before(WindowSize());
  for (uint64_t window = 0; window < tokens_.windows(); ++window) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    cache_.Truncate(0);
    std::copy_n(WindowStates(window), before.size(), before.data());
    TQ_RETURN_IF_ERROR(
        layer->Forward(context, cache_, 0, WindowStates(window), tokens_.context, observer)
            .WithContext(fmt::format("calibration, layer {}, window {}", next_layer_, window)));
    share += BranchShare(before.data(), WindowStates(window), tokens_.context, hidden);
    ReleaseWindow(window);
  }
  shares_[part == LayerPart::kMlp] = share / static_cast<double>(tokens_.ids.size());
  return OkStatus();
}

StatusOr<HessianSum> CalibrationStream::HeadInput(Executor& executor) {
  const ModelConfig& config = source_->config();
  TQ_CHECK(next_layer_ == config.num_layers);
  TQ_ASSIGN_OR_RETURN(const Tensor norm, LoadFinalNorm(config, VectorsOf(*source_)));
  TQ_ASSIGN_OR_RETURN(HessianSum sum, HessianSum::Create("lm_head", config.hidden_size, device_));
  std::vector<float> normed(tokens_.context * config.hidden_size);
  for (uint64_t window = 0; window < tokens_.windows(); ++window) {
    RmsNormRows(WindowStates(window), norm.as<float>(), tokens_.context, config.hidden_size,
                config.rms_norm_eps, executor, normed.data());
    TQ_RETURN_IF_ERROR(sum.Add(normed.data(), tokens_.context, executor));
    ReleaseWindow(window);
  }
  return sum;
}

}  // namespace tq
