#include "model/sampler.h"

#include <algorithm>
#include <cmath>

namespace tq {
namespace {

// Heap order: the root is the candidate with the largest logit, the lowest id among equals.
constexpr auto kLess = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
};

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

void Sampler::Penalise(std::span<const int32_t> history) {
  if (options_.repetition_penalty == 1) return;
  std::vector<int32_t> recent(
      history.end() - std::min<size_t>(history.size(), options_.repetition_window), history.end());
  std::sort(recent.begin(), recent.end());
  recent.erase(std::unique(recent.begin(), recent.end()), recent.end());
  for (const int32_t id : recent) {
    if (id < 0 || static_cast<size_t>(id) >= candidates_.size()) continue;
    float& logit = candidates_[id].logit;  // candidates still stand in the order of ids
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  }
}

StatusOr<int32_t> Sampler::Sample(std::span<const float> logits, std::span<const int32_t> history) {
  if (logits.empty()) return InvalidArgument("sampler: no logits");
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) {
      return DataLoss("sampler: logit {} of {} is {}", i, logits.size(), logits[i]);
    }
    candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  }
  Penalise(history);
  if (options_.temperature == 0) {
    return std::max_element(candidates_.begin(), candidates_.end(), kLess)->id;
  }
  return Draw();
}

int32_t Sampler::Draw() {
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  // Top-k by selection, not by sorting all. The sums below run in the order of ids, which
  // selection leaves undefined.
  if (options_.top_k > 0 && options_.top_k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + (options_.top_k - 1),
                     candidates_.end(), [](const auto& a, const auto& b) { return kLess(b, a); });
    candidates_.resize(options_.top_k);
    std::sort(candidates_.begin(), candidates_.end(), by_id);
  }
  // Weights relative to the largest, so that they neither overflow nor all vanish.
  const double largest = std::max_element(candidates_.begin(), candidates_.end(), kLess)->logit;
  const double inverse = 1.0 / options_.temperature;
  const auto weight = [&](const Candidate& c) { return std::exp((c.logit - largest) * inverse); };
  if (options_.top_p < 1) {
    double total = 0;
    for (const Candidate& c : candidates_) total += weight(c);
    // A heap gives the most probable ones first without sorting the rest: the kept ones
    // gather at the end.
    std::make_heap(candidates_.begin(), candidates_.end(), kLess);
    auto end = candidates_.end();
    for (double mass = 0; end != candidates_.begin() && mass < options_.top_p * total; --end) {
      std::pop_heap(candidates_.begin(), end, kLess);
      mass += weight(*(end - 1));
    }
    candidates_.erase(candidates_.begin(), end);
    std::sort(candidates_.begin(), candidates_.end(), by_id);
  }
  if (options_.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return weight(c) < options_.min_p; });
  }

  weights_.resize(candidates_.size());
  double total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) total += weights_[i] = weight(candidates_[i]);
  const double target = random_.NextUniform() * total;
  double sum = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    sum += weights_[i];
    if (target < sum) return candidates_[i].id;
  }
  return candidates_.back().id;  // rounding of the last sum
}

}  // namespace tq
