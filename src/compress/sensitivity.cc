#include "compress/sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "base/cancel.h"
#include "base/checked.h"
#include "compress/calibrate.h"
#include "compress/group.h"
#include "compress/kl_probe.h"
#include "compress/methods/trellis/trellis_coder.h"

namespace tq {
namespace {

// Powers of the noise, as of codes of 2.5 bits and of 1 bit.
constexpr size_t kLevels = kProbeLevels;
constexpr double kProbeErrors[kLevels] = {.0368, .269};
// The noise at which errors of outputs are taken: they grow in proportion to it.
constexpr size_t kHessianLevel = 0;

// KL below this is rounding of float32.
constexpr double kSmallestKl = 1e-9;
constexpr double kLeastExponent = 0.5, kLargestExponent = 2;

using Levels = std::array<double, kLevels>;

struct PowerLaw {
  double scale = 0, exponent = 1;
};

// Through the measured points, exponent clamped.
PowerLaw Fit(const Levels& kl) {
  const double low = std::max(kl[0], kSmallestKl), high = std::max(kl[kLevels - 1], kSmallestKl);
  PowerLaw law;
  law.exponent = std::clamp(std::log(high / low) / std::log(kProbeErrors[1] / kProbeErrors[0]),
                            kLeastExponent, kLargestExponent);
  // The geometric mean of the points is met, whatever the clamp.
  law.scale = std::sqrt(low * high) / std::pow(kProbeErrors[0] * kProbeErrors[1], law.exponent / 2);
  return law;
}

class Meter {
 public:
  Meter(const ModelSource& source, const ModelOutline& outline, const QuantizeOptions& options,
        const WorkFolder& work, Executor& executor, Progress& progress)
      : source_(source),
        outline_(outline),
        options_(options),
        work_(work),
        executor_(executor),
        progress_(progress),
        groups_(GroupsOf(outline.matrices, source.config().tie_embeddings)) {}

  StatusOr<SensitivityTable> Run(CalibrationTokens text, CalibrationTokens probe);

 private:
  // A group whose matrices carry noise, [level][matrix], and what became of its output.
  struct NoisyGroup {
    const MatrixGroup* group = nullptr;
    std::vector<std::vector<Tensor>> weights;
    std::vector<double> hessian_error;
    double share = 0;  // of the group's output in the residual stream
  };
  // Groups of a layer that are probed together: one, or those of all its experts in one role.
  struct ProbedGroups {
    std::vector<const NoisyGroup*> members;
    PowerLaw law;
    double weight = 0;  // sum over members of Weight
  };

  StatusOr<NoisyGroup> AddNoise(const MatrixGroup& group, std::optional<Tensor> hessian);
  Status MeasureLayer(uint32_t layer);
  // All groups of the next layer of the stream, in the plan's order.
  StatusOr<std::vector<NoisyGroup>> AddNoiseToLayer(uint32_t layer);
  // By the groups' suffix. KL by noise in them, which parts hold that earlier runs have measured.
  StatusOr<std::map<std::string, ProbedGroups>> ProbeLayer(uint32_t layer,
                                                           std::span<const NoisyGroup> noisy);
  StatusOr<Levels> ProbeGroups(std::span<const NoisyGroup* const> members);
  Status RunNoisyLayer(uint32_t layer, std::span<const NoisyGroup> noisy);
  Status MeasureVocabulary(const MatrixGroup& group, std::optional<Tensor> hessian);
  StatusOr<double> ProbeVocabulary(const MatrixGroup& group, Tensor weights);
  void PutNoise(const NoisyGroup& noisy, size_t level, LayerTensors& tensors) const;
  static double Weight(const NoisyGroup& noisy, double hessian_error);
  void AddItems(const NoisyGroup& noisy, const ProbedGroups& probed);
  // The KL of part `name`, if an earlier run measured it.
  std::vector<double> Finished(const std::string& name, size_t count) const;
  Status Store(const std::string& name, const std::vector<double>& values) const;
  void Tick(const std::string& detail) { progress_.Update(++done_, detail); }

  const ModelSource& source_;
  const ModelOutline& outline_;
  const QuantizeOptions& options_;
  const WorkFolder& work_;
  Executor& executor_;
  Progress& progress_;
  std::vector<MatrixGroup> groups_;
  std::optional<CalibrationStream> stream_;
  std::optional<KlProbe> probe_;
  std::array<KlProbe::States, kLevels> joint_states_;
  Levels decoder_sum_{};
  SensitivityTable table_;
  uint64_t done_ = 0;
};

std::vector<double> Meter::Finished(const std::string& name, size_t count) const {
  const auto part = work_.Load(name);
  if (!part || part->size() != 1) return {};
  const Tensor& values = part->front().tensor;
  if (values.dtype() != DType::kF64 || values.num_elements() != count) return {};
  std::vector<double> kl(count);
  std::memcpy(kl.data(), values.data(), values.num_bytes());  // the file aligns it to nothing
  return kl;
}

Status Meter::Store(const std::string& name, const std::vector<double>& values) const {
  TQ_ASSIGN_OR_RETURN(Tensor tensor,
                      Tensor::FromValues<double>(DType::kF64, {values.size()}, values));
  return work_.Store(name, {{"kl", std::move(tensor)}});
}

StatusOr<Meter::NoisyGroup> Meter::AddNoise(const MatrixGroup& group,
                                            std::optional<Tensor> hessian) {
  const auto members = std::span(outline_.matrices).subspan(group.begin, group.end - group.begin);
  TQ_ASSIGN_OR_RETURN(const std::vector<Tensor> weights, LoadWeights(source_, members));
  TQ_ASSIGN_OR_RETURN(const TrellisCoder coder,
                      TrellisCoder::Create(options_, TrellisSettings{}, members, weights,
                                           std::move(hessian), executor_));
  NoisyGroup noisy;
  noisy.group = &group;
  const size_t levels = probe_ ? kLevels : 1;
  for (size_t level = 0; level < levels; ++level) {
    std::vector<Tensor> disturbed;
    for (size_t i = 0; i < weights.size(); ++i) {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      TQ_ASSIGN_OR_RETURN(DisturbedMatrix matrix,
                          coder.Disturb(i, weights[i], kProbeErrors[level], executor_));
      if (level == kHessianLevel) {
        noisy.hessian_error.push_back(
            matrix.norm > 0 ? matrix.loss / matrix.norm / kProbeErrors[level] : 0);
      }
      // Nobody looks at noisy weights without a probe: one matrix at a time is in memory.
      if (probe_) disturbed.push_back(std::move(matrix.weights));
    }
    noisy.weights.push_back(std::move(disturbed));
  }
  return noisy;
}

StatusOr<std::vector<Meter::NoisyGroup>> Meter::AddNoiseToLayer(uint32_t layer) {
  std::set<std::string> wanted;
  std::map<std::string_view, const MatrixGroup*> by_name;
  for (const MatrixGroup& group : groups_) {
    if (group.layer != layer) continue;
    const std::string& name = outline_.matrices[group.begin].group;
    wanted.insert(name);
    by_name.emplace(name, &group);
  }
  std::vector<NoisyGroup> layer_groups;
  const auto disturb = [&](HessianSum sum) -> Status {
    const MatrixGroup& group = *by_name.at(sum.name());
    TQ_ASSIGN_OR_RETURN(Tensor hessian, std::move(sum).Finish(executor_));
    TQ_ASSIGN_OR_RETURN(NoisyGroup noisy, AddNoise(group, std::move(hessian)));
    layer_groups.push_back(std::move(noisy));
    if (!probe_) Tick(outline_.matrices[group.begin].group);
    return OkStatus();
  };
  TQ_RETURN_IF_ERROR(stream_->RunLayer(wanted, disturb, executor_));
  TQ_CHECK(layer_groups.size() == wanted.size());
  for (NoisyGroup& noisy : layer_groups) {
    const MatrixGroup& group = *noisy.group;
    const bool attention = group.suffix == "qkv" || group.suffix == "o";
    noisy.share = group.expert
                      ? stream_->expert_share(*group.expert)
                      : stream_->branch_share(attention ? LayerPart::kAttention : LayerPart::kMlp);
  }
  return layer_groups;
}

StatusOr<Levels> Meter::ProbeGroups(std::span<const NoisyGroup* const> members) {
  const uint32_t layer = probe_->current();
  Levels kl{};
  for (size_t level = 0; level < kLevels; ++level) {
    LayerTensors tensors = probe_->tensors(layer);
    for (const NoisyGroup* noisy : members) PutNoise(*noisy, level, tensors);
    TQ_ASSIGN_OR_RETURN(const auto changed, probe_->MakeLayer(std::move(tensors)));
    TQ_ASSIGN_OR_RETURN(kl[level], probe_->KlWithLayer(*changed));
    Tick(outline_.matrices[members[0]->group->begin].group);
  }
  return kl;
}

void Meter::PutNoise(const NoisyGroup& noisy, size_t level, LayerTensors& tensors) const {
  const MatrixGroup& group = *noisy.group;
  for (size_t i = group.begin; i < group.end; ++i) {
    *tensors.Find(outline_.matrices[i].name) = noisy.weights[level][i - group.begin];
  }
}

StatusOr<std::map<std::string, Meter::ProbedGroups>> Meter::ProbeLayer(
    uint32_t layer, std::span<const NoisyGroup> noisy) {
  std::map<std::string, ProbedGroups> probed;
  std::vector<std::string> order;
  for (const NoisyGroup& group : noisy) {
    ProbedGroups& together = probed[group.group->suffix];
    if (together.members.empty()) order.push_back(group.group->suffix);
    together.members.push_back(&group);
    for (const double error : group.hessian_error) together.weight += Weight(group, error);
  }
  if (!probe_) return probed;
  const std::string part = fmt::format("sensitivity.{}", layer);
  const std::vector<double> finished = Finished(part, order.size() * kLevels);
  std::vector<double> measured;
  for (const std::string& suffix : order) {
    Levels kl{};
    if (!finished.empty()) {
      std::copy_n(finished.begin() + static_cast<ptrdiff_t>(measured.size()), kLevels, kl.begin());
      done_ += kLevels;
    } else {
      TQ_ASSIGN_OR_RETURN(kl, ProbeGroups(probed[suffix].members));
    }
    measured.insert(measured.end(), kl.begin(), kl.end());
    for (size_t level = 0; level < kLevels; ++level) decoder_sum_[level] += kl[level];
    probed[suffix].law = Fit(kl);
  }
  if (finished.empty()) TQ_RETURN_IF_ERROR(Store(part, measured));
  return probed;
}

// What KL of groups that were probed together is split by: errors, where an expert's count by its
// share of the MLP's output.
double Meter::Weight(const NoisyGroup& noisy, double hessian_error) {
  return noisy.group->expert ? hessian_error * noisy.share : hessian_error;
}

void Meter::AddItems(const NoisyGroup& noisy, const ProbedGroups& probed) {
  const MatrixGroup& group = *noisy.group;
  size_t matrices = 0;
  for (const NoisyGroup* member : probed.members) matrices += member->hessian_error.size();
  for (size_t i = group.begin; i < group.end; ++i) {
    const PlannedMatrix& m = outline_.matrices[i];
    const double error = noisy.hessian_error[i - group.begin];
    SensitivityItem item{m.name, 0, m.rows, 0, probed.law.exponent, error};
    item.hessian_loss = error * noisy.share;
    if (probe_) {
      const double share = probed.weight > 0 ? Weight(noisy, error) / probed.weight
                                             : 1 / static_cast<double>(matrices);
      item.scale = probed.law.scale * share;
    }
    table_.items.push_back(std::move(item));
  }
}

Status Meter::RunNoisyLayer(uint32_t layer, std::span<const NoisyGroup> noisy) {
  for (size_t level = 0; level < kLevels; ++level) {
    LayerTensors tensors = probe_->tensors(layer);
    for (const NoisyGroup& group : noisy) PutNoise(group, level, tensors);
    TQ_ASSIGN_OR_RETURN(const auto noisy_layer, probe_->MakeLayer(std::move(tensors)));
    TQ_RETURN_IF_ERROR(probe_->RunLayer(*noisy_layer, joint_states_[level]));
  }
  return probe_->Advance();
}

Status Meter::MeasureLayer(uint32_t layer) {
  TQ_ASSIGN_OR_RETURN(const std::vector<NoisyGroup> noisy, AddNoiseToLayer(layer));
  TQ_ASSIGN_OR_RETURN(const auto probed, ProbeLayer(layer, noisy));
  for (const NoisyGroup& group : noisy) AddItems(group, probed.at(group.group->suffix));
  return probe_ ? RunNoisyLayer(layer, noisy) : OkStatus();
}

StatusOr<double> Meter::ProbeVocabulary(const MatrixGroup& group, Tensor weights) {
  const bool looked_up = outline_.matrices[group.begin].name == "model.embed_tokens";
  std::unique_ptr<LinearGroup> head;
  if (group.is_head) {
    TQ_ASSIGN_OR_RETURN(head, probe_->MakeHead(weights));
  }
  if (!looked_up) return probe_->KlFrom(source_.config().num_layers, probe_->states(), head.get());
  return probe_->KlFrom(
      0, probe_->Embed(*MakeDenseEmbedding(std::move(weights), EmbeddingScale(source_.config()))),
      head.get());
}

Status Meter::MeasureVocabulary(const MatrixGroup& group, std::optional<Tensor> hessian) {
  const PlannedMatrix& m = outline_.matrices[group.begin];
  const std::vector<uint64_t> slices = VocabularySlices(m.rows);
  double hessian_error = 0;
  const auto add = [&](size_t slice, PowerLaw law) {
    table_.items.push_back(
        {m.name, slices[slice], slices[slice + 1], law.scale, law.exponent, hessian_error});
  };
  if (!probe_) {
    for (size_t s = 0; s + 1 < slices.size(); ++s) add(s, {});
    return OkStatus();
  }
  TQ_ASSIGN_OR_RETURN(const NoisyGroup noisy, AddNoise(group, std::move(hessian)));
  hessian_error = noisy.hessian_error[0];
  const std::string part = "sensitivity." + m.name;
  std::vector<double> kl = Finished(part, (slices.size() - 1) * kLevels);
  if (kl.empty()) {
    TQ_ASSIGN_OR_RETURN(const Tensor original, source_.LoadFloat(m.name + ".weight"));
    for (size_t s = 0; s + 1 < slices.size(); ++s) {
      for (size_t level = 0; level < kLevels; ++level) {
        TQ_ASSIGN_OR_RETURN(Tensor changed,
                            Tensor::FromBytes(DType::kF32, original.shape(),
                                              {original.data(), original.num_bytes()}));
        std::copy_n(noisy.weights[level][0].as<float>() + slices[s] * m.cols,
                    (slices[s + 1] - slices[s]) * m.cols,
                    changed.mutable_as<float>() + slices[s] * m.cols);
        TQ_ASSIGN_OR_RETURN(const double value, ProbeVocabulary(group, std::move(changed)));
        kl.push_back(value);
        Tick(fmt::format("{} rows {} to {}", m.name, slices[s], slices[s + 1]));
      }
    }
    TQ_RETURN_IF_ERROR(Store(part, kl));
  } else {
    done_ += kl.size();
  }
  for (size_t s = 0; s + 1 < slices.size(); ++s) {
    Levels of_slice{};
    std::copy_n(kl.begin() + static_cast<ptrdiff_t>(s * kLevels), kLevels, of_slice.begin());
    add(s, Fit(of_slice));
  }
  return OkStatus();
}

StatusOr<SensitivityTable> Meter::Run(CalibrationTokens text, CalibrationTokens probe) {
  const uint32_t layers = source_.config().num_layers;
  const bool with_kl = options_.sensitivity == SensitivityMeasure::kKl;
  table_.measure = options_.sensitivity;
  uint64_t units = 0;
  for (const MatrixGroup& group : groups_) {
    const uint64_t slices =
        group.layer < 0 ? VocabularySlices(outline_.matrices[group.begin].rows).size() - 1 : 1;
    // KL of all experts of a layer is measured with those of the first.
    if (with_kl && group.expert.value_or(0) > 0) continue;
    units += with_kl ? slices * kLevels : group.layer >= 0;
  }
  progress_.Begin("sensitivity", units);
  if (with_kl) {
    table_.tokens = probe.ids.size() / 2;
    TQ_ASSIGN_OR_RETURN(
        probe_, KlProbe::Create(source_, std::move(probe), executor_, options_.dense.get()));
    joint_states_.fill(probe_->states());
  }
  TQ_ASSIGN_OR_RETURN(
      stream_, CalibrationStream::Create(source_, std::move(text), options_.calibration_memory,
                                         work_.path(), options_.dense.get()));
  for (uint32_t layer = 0; layer < layers; ++layer) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    TQ_RETURN_IF_ERROR(MeasureLayer(layer));
  }
  if (probe_) {
    for (size_t level = 0; level < kLevels; ++level) {
      TQ_ASSIGN_OR_RETURN(const double together,
                          probe_->KlFrom(layers, std::move(joint_states_[level])));
      table_.joint.push_back({decoder_sum_[level], together});
    }
  }
  for (const MatrixGroup& group : groups_) {
    if (group.layer >= 0) continue;
    std::optional<Tensor> hessian;
    if (group.is_head && probe_) {
      TQ_ASSIGN_OR_RETURN(HessianSum sum, stream_->HeadInput(executor_));
      TQ_ASSIGN_OR_RETURN(hessian, std::move(sum).Finish(executor_));
    }
    TQ_RETURN_IF_ERROR(MeasureVocabulary(group, std::move(hessian)));
  }
  progress_.End();
  return probe_ ? std::move(table_) : table_.ByHessians();
}

}  // namespace

std::vector<uint64_t> VocabularySlices(uint64_t rows) {
  std::vector<uint64_t> slices{0};
  for (int shift = 5; shift > 0; --shift) {
    const uint64_t row = CeilDiv(rows >> shift, kSegmentRowMultiple) * kSegmentRowMultiple;
    if (row > slices.back() && row < rows) slices.push_back(row);
  }
  slices.push_back(rows);
  return slices;
}

StatusOr<SensitivityTable> MeasureSensitivity(const ModelSource& source,
                                              const ModelOutline& outline,
                                              const QuantizeOptions& options,
                                              CalibrationTokens text, CalibrationTokens probe,
                                              const WorkFolder& work, Executor& executor,
                                              Progress& progress) {
  return Meter(source, outline, options, work, executor, progress)
      .Run(std::move(text), std::move(probe));
}

}  // namespace tq
