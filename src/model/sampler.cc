#include "model/sampler.h"

#include <algorithm>
#include <limits>

#include "kernels/transformer/elementwise.h"
#include "kernels/transformer/token_mass.h"
#include "model/backend.h"
#include "model/transformer_ops.h"

namespace tq {
namespace {

using transformer::MassOf;

// Heap order: the root is the candidate with the largest logit, the lowest id among equals.
constexpr auto kLess = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
};

uint64_t SumOfMasses(const std::vector<float>& weights) {
  uint64_t sum = 0;
  for (const float weight : weights) sum += MassOf(weight);
  return sum;
}

}  // namespace

StatusOr<Sampler> Sampler::Create(const SamplerOptions& options) {
  // Written so that NaN fails each test.
  if (!(options.temperature >= 0 && options.temperature <= 100)) {
    return InvalidArgument("temperature {}: must be from 0 to 100", options.temperature);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("top-p {}: must be above 0 and at most 1", options.top_p);
  }
  if (!(options.min_p >= 0 && options.min_p <= 1)) {
    return InvalidArgument("min-p {}: must be from 0 to 1", options.min_p);
  }
  if (!(options.repetition_penalty >= 0.01f && options.repetition_penalty <= 100)) {
    return InvalidArgument("repetition penalty {}: must be from 0.01 to 100",
                           options.repetition_penalty);
  }
  return Sampler(options);
}

std::vector<int32_t> Sampler::Recent(std::span<const int32_t> history) const {
  if (options_.repetition_penalty == 1) return {};
  std::vector<int32_t> recent(
      history.end() - std::min<size_t>(history.size(), options_.repetition_window), history.end());
  std::sort(recent.begin(), recent.end());
  recent.erase(std::unique(recent.begin(), recent.end()), recent.end());
  return recent;
}

SamplingStep Sampler::NextStep(std::span<const int32_t> history) const {
  Random random = random_;
  return {Recent(history), random.NextUniform()};
}

void Sampler::Penalise(std::span<const int32_t> history) {
  for (const int32_t id : Recent(history)) {
    if (id < 0 || static_cast<size_t>(id) >= logits_.size()) continue;
    float& logit = logits_[id];
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    logit =
        std::clamp(logit, -std::numeric_limits<float>::max(), std::numeric_limits<float>::max());
  }
}

StatusOr<int32_t> Sampler::Sample(std::span<const float> logits, std::span<const int32_t> history) {
  if (logits.empty()) return InvalidArgument("sampler: no logits");
  if (const uint64_t bad = FirstNonFinite(logits.data(), logits.size()); bad < logits.size()) {
    return DataLoss("sampler: logit {} of {} is {}", bad, logits.size(), logits[bad]);
  }
  logits_.assign(logits.begin(), logits.end());
  Penalise(history);
  if (options_.temperature == 0) return LikeliestToken(logits_);
  TakeLargest(options_.top_k == 0 ? logits_.size() : options_.top_k);
  Weigh();
  if (options_.top_p < 1) KeepTopP();
  return Draw();
}

// The `count` largest as candidates in the order of ids, the lower ids among equals.
void Sampler::TakeLargest(size_t count) {
  candidates_.clear();
  candidates_.reserve(logits_.size());
  if (count >= logits_.size()) {
    for (size_t i = 0; i < logits_.size(); ++i) {
      candidates_.push_back({logits_[i], static_cast<int32_t>(i)});
    }
    return;
  }
  // Logits above the least of `count` that were seen gather until as many more are there, and only
  // the largest stay; no later equal of that least one could.
  const auto above = [](const Candidate& a, const Candidate& b) { return kLess(b, a); };
  float least = -std::numeric_limits<float>::infinity();
  const auto keep = [&] {
    std::nth_element(candidates_.begin(), candidates_.begin() + (count - 1), candidates_.end(),
                     above);
    candidates_.resize(count);
    least = candidates_.back().logit;
  };
  const size_t most = count + std::max<size_t>(count, 256);
  constexpr size_t kBlock = 16;
  for (size_t begin = 0; begin < logits_.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, logits_.size());
    bool any = false;
    for (size_t i = begin; i < end; ++i) any |= logits_[i] > least;
    if (!any) continue;
    for (size_t i = begin; i < end; ++i) {
      if (logits_[i] > least) candidates_.push_back({logits_[i], static_cast<int32_t>(i)});
    }
    if (candidates_.size() >= most) keep();
  }
  keep();
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// Weights relative to the largest, so that they neither overflow nor all vanish.
void Sampler::Weigh() {
  const float largest = std::max_element(candidates_.begin(), candidates_.end(), kLess)->logit;
  weights_.resize(candidates_.size());
  for (size_t i = 0; i < candidates_.size(); ++i) {
    weights_[i] = (candidates_[i].logit - largest) / options_.temperature;  // exp(-infinity) is 0
  }
  transformer::Exp(weights_.data(), weights_.size(), weights_.data());
}

// The fewest candidates with at least the probability top_p; weights are set to 0 for the others.
void Sampler::KeepTopP() {
  const uint64_t goal = transformer::TopPMass(options_.top_p, SumOfMasses(weights_));
  // Indices of the weights that can be among them: few reach the goal as a rule.
  order_.reserve(weights_.size());
  float least = 0;
  for (const float floor : {1e-2f, 1e-4f, 0.0f}) {
    least = floor;
    order_.clear();
    uint64_t mass = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (weights_[i] < floor) continue;
      order_.push_back(static_cast<uint32_t>(i));
      mass += MassOf(weights_[i]);
    }
    if (mass >= goal) break;
  }
  // A heap gives the most probable ones first without sorting the rest. Candidates are in the order
  // of ids: the lower index among equals.
  const auto less = [&](uint32_t a, uint32_t b) {
    return weights_[a] != weights_[b] ? weights_[a] < weights_[b] : a > b;
  };
  std::ranges::make_heap(order_, less);
  auto end = order_.end();
  for (uint64_t mass = 0; mass < goal; --end) {
    std::pop_heap(order_.begin(), end, less);
    mass += MassOf(weights_[*(end - 1)]);
  }
  for (float& weight : weights_) weight = weight < least ? 0.0f : weight;
  for (auto dropped = order_.begin(); dropped != end; ++dropped) weights_[*dropped] = 0;
}

int32_t Sampler::Draw() {
  // The largest weight is 1.
  for (float& weight : weights_) weight = weight < options_.min_p ? 0.0f : weight;
  uint64_t left = transformer::DrawnMass(random_.NextUniform(), SumOfMasses(weights_));
  size_t i = 0;
  for (; MassOf(weights_[i]) <= left; ++i) left -= MassOf(weights_[i]);
  return candidates_[i].id;
}

}  // namespace tq
