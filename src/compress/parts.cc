#include "compress/parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "base/cancel.h"
#include "base/log.h"
#include "compress/calibrate.h"

namespace tq {
namespace {

constexpr std::string_view kReportTensor = "part.report";
// Fields of a stored report: relative error, Hessian error, seconds.
constexpr size_t kReportValues = 3;

// A plain name that tells the matrix and its codes: rows x (V, k) of each segment, or the method
// and width of scalar ones; groups, zeros and order are the same in all plans of a job.
std::string PartName(const PlannedMatrix& m) {
  if (IsScalar(m.method)) return fmt::format("{}.{}{}", m.name, NameOf(m.method), m.layout.rate());
  std::string name = m.name;
  for (const Segment& s : m.segments) {
    name += fmt::format(".{}x{}-{}", s.row_end - s.row_begin, s.code.values, s.code.bits);
  }
  return name;
}

}  // namespace

StatusOr<bool> PartMaker::FindMissing(std::span<const ModelPlan> plans) {
  TQ_CHECK(!plans.empty());
  matrices_ = plans[0].matrices;
  groups_ = GroupsOf(matrices_, source_.config().tie_embeddings);
  planned_.assign(matrices_.size(), {});
  missing_.assign(matrices_.size(), {});
  weights_total_ = weights_done_ = 0;
  parts_total_ = parts_done_ = 0;
  for (size_t i = 0; i < matrices_.size(); ++i) {
    std::set<std::string> seen;
    for (const ModelPlan& plan : plans) {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      const PlannedMatrix& m = plan.matrices[i];
      const std::string part = PartName(m);
      if (!seen.insert(part).second) continue;
      planned_[i].push_back(m);
      weights_total_ += m.rows * m.cols;
      ++parts_total_;
      if (work_.Load(part)) {
        weights_done_ += m.rows * m.cols;
        ++parts_done_;
      } else {
        missing_[i].push_back(m);
      }
    }
  }
  if (parts_done_ > 0) {
    progress_.Line(fmt::format("resuming: {} of {} matrices are done", parts_done_, parts_total_));
  }
  return parts_done_ < parts_total_;
}

std::set<PartMaker::Kind> PartMaker::MissingKinds(const MatrixGroup& group) const {
  std::set<Kind> kinds;
  for (size_t i = group.begin; i < group.end; ++i) {
    for (const PlannedMatrix& m : missing_[i]) kinds.insert(KindOf(m));
  }
  return kinds;
}

std::vector<PlannedMatrix> PartMaker::PlannedAs(Kind kind, const MatrixGroup& group) const {
  std::vector<PlannedMatrix> matrices;
  for (size_t i = group.begin; i < group.end; ++i) {
    const auto planned =
        std::ranges::find_if(planned_[i], [&](const auto& m) { return KindOf(m) == kind; });
    TQ_CHECK(planned != planned_[i].end());  // a plan has one method for a group
    matrices.push_back(*planned);
  }
  return matrices;
}

Status PartMaker::Store(QuantizedMatrix matrix, const PlannedMatrix& planned) {
  const MatrixReport& report = matrix.report;
  const double values[kReportValues] = {report.relative_error, report.hessian_error,
                                        report.seconds};
  TQ_ASSIGN_OR_RETURN(Tensor stored,
                      Tensor::FromValues<double>(DType::kF64, {kReportValues}, values));
  matrix.tensors.push_back({std::string(kReportTensor), std::move(stored)});
  TQ_RETURN_IF_ERROR(work_.Store(PartName(planned), std::move(matrix.tensors)));
  weights_done_ += report.rows * report.cols;
  ++parts_done_;
  std::string line = fmt::format("[{}/{}] {} {:.2f} bits err {:.4f}", parts_done_, parts_total_,
                                 report.name, report.bits, report.relative_error);
  if (report.hessian_error > 0) line += fmt::format(" hessian {:.4f}", report.hessian_error);
  progress_.Line(line + fmt::format(" {:.1f} s", report.seconds));
  progress_.Update(weights_done_, report.name);
  return OkStatus();
}

Status PartMaker::MakeGroup(const MatrixGroup& group, std::optional<Tensor> hessian,
                            const ScalesByKind& scales) {
  progress_.Update(weights_done_, matrices_[group.begin].group);
  const std::set<Kind> kinds = MissingKinds(group);
  for (const Kind kind : kinds) {
    std::optional<Tensor> own = hessian;
    if (hessian && kind != *kinds.rbegin()) {  // quantising spends it
      TQ_ASSIGN_OR_RETURN(own, Tensor::FromBytes(DType::kF32, hessian->shape(),
                                                 {hessian->data(), hessian->num_bytes()}));
    } else {
      hessian.reset();
    }
    const auto found = scales.find(kind);
    TQ_ASSIGN_OR_RETURN(
        GroupQuantizer quantizer,
        GroupQuantizer::Load(source_, options_, PlannedAs(kind, group), std::exchange(own, {}),
                             found == scales.end() ? nullptr : &found->second, executor_));
    for (size_t i = group.begin; i < group.end; ++i) {
      std::vector<PlannedMatrix> variants;
      std::ranges::copy_if(missing_[i], std::back_inserter(variants),
                           [&](const PlannedMatrix& m) { return KindOf(m) == kind; });
      for (size_t v = 0; v < variants.size(); ++v) {
        TQ_RETURN_IF_ERROR(CheckCancelled());
        const auto keep = v + 1 < variants.size() ? GroupQuantizer::Weights::kKeep
                                                  : GroupQuantizer::Weights::kSpend;
        TQ_ASSIGN_OR_RETURN(QuantizedMatrix matrix,
                            quantizer.Quantize(i - group.begin, variants[v], keep, executor_));
        TQ_RETURN_IF_ERROR(Store(std::move(matrix), variants[v]));
      }
    }
  }
  return OkStatus();
}

StatusOr<PartMaker::ScalesByKind> PartMaker::SearchScales(
    uint32_t layer, const std::set<Kind>& kinds, const std::map<std::string, GroupInput>& inputs) {
  progress_.Update(weights_done_, fmt::format("searching scales of layer {}", layer));
  ScalesByKind scales;
  for (const Kind kind : kinds) {
    std::vector<PlannedGroup> groups;
    for (const MatrixGroup& group : groups_) {
      if (group.layer == layer) groups.push_back({group, PlannedAs(kind, group)});
    }
    TQ_ASSIGN_OR_RETURN(LayerScales found, LayerScales::Search(source_, groups, inputs, executor_));
    scales.emplace(kind, std::move(found));
  }
  return scales;
}

Status PartMaker::MakeLayer(uint32_t layer, CalibrationStream* stream) {
  std::set<std::string> wanted;
  std::map<std::string_view, const MatrixGroup*> missing;
  std::set<Kind> scaled;  // whose matrices depend on what follows them in the layer
  for (const MatrixGroup& group : groups_) {
    if (group.layer != layer || !IsMissing(group)) continue;
    const std::string& name = matrices_[group.begin].group;
    wanted.insert(name);
    missing.emplace(name, &group);
    for (const Kind kind : MissingKinds(group)) {
      if (kind.method == Method::kAwq) scaled.insert(kind);
    }
  }
  if (stream == nullptr) {
    for (const auto& [name, group] : missing) {
      TQ_RETURN_IF_ERROR(MakeGroup(*group, std::nullopt, {}));
    }
    return OkStatus();
  }
  const auto calibrating = fmt::format("calibrating layer {}", layer);
  progress_.Update(weights_done_, calibrating);
  if (!scaled.empty()) return MakeScaledLayer(layer, scaled, *stream);
  const auto make = [&](HessianSum sum) -> Status {
    const MatrixGroup& group = *missing.at(sum.name());
    TQ_ASSIGN_OR_RETURN(Tensor hessian, std::move(sum).Finish(executor_));
    TQ_RETURN_IF_ERROR(MakeGroup(group, std::move(hessian), {}));
    if (group.expert) progress_.Update(weights_done_, calibrating);
    return OkStatus();
  };
  TQ_RETURN_IF_ERROR(stream->RunLayer(wanted, make, executor_));
  WarnOfRareExperts(layer, *stream);
  return OkStatus();
}

Status PartMaker::MakeScaledLayer(uint32_t layer, const std::set<Kind>& scaled,
                                  CalibrationStream& stream) {
  std::set<std::string> all;
  for (const MatrixGroup& group : groups_) {
    if (group.layer == layer) all.insert(matrices_[group.begin].group);
  }
  TQ_ASSIGN_OR_RETURN(std::vector<HessianSum> sums, stream.RunLayer(all, executor_));
  std::map<std::string, GroupInput> inputs;
  for (HessianSum& sum : sums) {
    GroupInput& input = inputs[sum.name()];
    input.magnitude = sum.MeanMagnitude();
    TQ_ASSIGN_OR_RETURN(input.hessian, std::move(sum).Finish(executor_));
  }
  TQ_ASSIGN_OR_RETURN(const ScalesByKind scales, SearchScales(layer, scaled, inputs));
  for (const MatrixGroup& group : groups_) {
    if (group.layer != layer || !IsMissing(group)) continue;
    TQ_RETURN_IF_ERROR(
        MakeGroup(group, std::move(inputs.at(matrices_[group.begin].group).hessian), scales));
  }
  return OkStatus();
}

void PartMaker::WarnOfRareExperts(uint32_t layer, const CalibrationStream& stream) const {
  std::vector<std::string> rare;
  std::set<uint32_t> seen;
  for (const MatrixGroup& group : groups_) {
    if (group.layer != layer || !group.expert || !IsMissing(group)) continue;
    const uint64_t rows = stream.expert_rows(*group.expert);
    if (rows >= kPoolRows || !seen.insert(*group.expert).second) continue;
    rare.push_back(fmt::format("{} ({} rows)", *group.expert, rows));
  }
  if (rare.empty()) return;
  Warn(
      "layer {}: calibration reached experts {} with fewer than {} rows: their Hessians are mostly "
      "that of the layer's other inputs; more --calibration-tokens would help",
      layer, fmt::join(rare, ", "), kPoolRows);
}

Status PartMaker::MakeMissing(CalibrationTokens text) {
  // Layers are run as far as somebody still needs them: the head needs all.
  int64_t last_layer = -1;
  for (const MatrixGroup& group : groups_) {
    if (!IsMissing(group)) continue;
    const int64_t layer = group.layer < 0 ? source_.config().num_layers - 1 : group.layer;
    last_layer = std::max(last_layer, layer);
  }
  if (last_layer < 0) return OkStatus();
  std::optional<CalibrationStream> stream;
  if (text.windows() > 0) {
    TQ_ASSIGN_OR_RETURN(
        stream, CalibrationStream::Create(source_, std::move(text), options_.calibration_memory,
                                          work_.path(), options_.dense.get()));
  }
  progress_.Begin("quantize", weights_total_);
  for (uint32_t layer = 0; layer <= last_layer; ++layer) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    TQ_RETURN_IF_ERROR(MakeLayer(layer, stream ? &*stream : nullptr));
  }
  for (const MatrixGroup& group : groups_) {
    if (group.layer >= 0 || !IsMissing(group)) continue;
    std::optional<Tensor> hessian;
    if (stream && group.is_head) {
      progress_.Update(weights_done_, "calibrating the head");
      TQ_ASSIGN_OR_RETURN(HessianSum sum, stream->HeadInput(executor_));
      TQ_ASSIGN_OR_RETURN(hessian, std::move(sum).Finish(executor_));
    }
    TQ_RETURN_IF_ERROR(MakeGroup(group, std::move(hessian), {}));
  }
  progress_.End();
  return OkStatus();
}

StatusOr<MatrixReport> PartMaker::Report(const PlannedMatrix& m) const {
  std::vector<OutputTensor> tensors;
  TQ_RETURN_IF_ERROR(AppendTensors(m, tensors));
  MatrixReport report;
  report.name = m.name;
  report.rows = m.rows;
  report.cols = m.cols;
  report.rate = CodeRate(m);
  for (const OutputTensor& t : tensors) {
    if (t.name != kReportTensor || t.tensor.num_bytes() != kReportValues * sizeof(double)) continue;
    // Where the file has it, which is aligned to nothing.
    double values[kReportValues];
    std::memcpy(values, t.tensor.data(), sizeof(values));
    report.relative_error = values[0];
    report.hessian_error = values[1];
    report.seconds = values[2];
  }
  const auto first =
      std::find_if(matrices_.begin(), matrices_.end(),
                   [&](const PlannedMatrix& other) { return other.group == m.group; });
  report.bytes = BytesOfMatrix(tensors, m, first->name == m.name);
  report.bits = 8.0 * static_cast<double>(report.bytes) / static_cast<double>(m.rows * m.cols);
  return report;
}

Status PartMaker::AppendTensors(const PlannedMatrix& m, std::vector<OutputTensor>& tensors) const {
  auto part = work_.Load(PartName(m));
  if (!part) {
    return DataLoss("{}: the part of {} was damaged while the job ran; run it again",
                    work_.path().string(), m.name);
  }
  std::move(part->begin(), part->end(), std::back_inserter(tensors));
  return OkStatus();
}

}  // namespace tq
