#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "base/cancel.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory_usage.h"
#include "checkpoint/gguf.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/packed_model.h"
#include "compress/calibrate.h"
#include "compress/calibration_tokens.h"
#include "compress/group.h"
#include "compress/plan.h"
#include "compress/quantize.h"
#include "compress/work_folder.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

// Part of every fingerprint: raised whenever the same input would give other bytes, so that
// no job is finished by another algorithm than the one that began it.
constexpr std::string_view kPipelineVersion = "tq-pipeline-3";

constexpr std::string_view kReportTensor = "part.report";

// Fields of a stored report: relative error, Hessian error, seconds.
constexpr size_t kReportValues = 3;

bool NeedsCalibration(const QuantizeOptions& options) {
  return options.method == Method::kTrellis && !options.no_hessian;
}

Status CheckOptions(const QuantizeOptions& options) {
  if (options.output.empty()) return InvalidArgument("output: no path given");
  if (!NeedsCalibration(options)) return OkStatus();
  if (options.calibration_context < 2 || options.calibration_context > (1 << 20)) {
    return InvalidArgument("calibration context: {} is not in [2, 1048576]",
                           options.calibration_context);
  }
  if (options.calibration_tokens < kMinCalibrationTokens ||
      options.calibration_tokens > (uint64_t{1} << 32)) {
    return InvalidArgument("calibration tokens: {} is not in [{}, 4294967296]",
                           options.calibration_tokens, kMinCalibrationTokens);
  }
  return OkStatus();
}

// For people who find a work folder.
std::string Describe(const QuantizeOptions& options) {
  std::string text =
      fmt::format("{}, {}, {} bits, seed {}", options.model.string(),
                  options.method == Method::kRtn ? "rtn" : "trellis", options.bits, options.seed);
  if (NeedsCalibration(options)) {
    text += fmt::format(", calibration {} ({} tokens)", options.calibration,
                        options.calibration_tokens);
  }
  for (const RateOverride& o : options.overrides) {
    text += fmt::format(", {} at {} bits", o.pattern, o.bits);
  }
  if (options.fast) text += ", fast";
  for (const auto& [on, name] : {std::pair{options.no_rotation, "no rotation"},
                                 {options.no_hessian, "no Hessian"},
                                 {options.hessian_without_scales, "Hessian without scales"},
                                 {options.v1, "v1"}}) {
    if (on) text += fmt::format(", {}", name);
  }
  return text;
}

// One run of Quantize.
class Job {
 public:
  Job(const QuantizeOptions& options, Executor& executor, Progress& progress)
      : options_(options), executor_(executor), progress_(progress) {}

  StatusOr<QuantizeReport> Run();

 private:
  // A run of matrices with one input, [begin, end) of the plan.
  struct Group {
    size_t begin, end;
    int64_t layer;       // -1: embedding or head
    std::string suffix;  // "qkv", ... of a layer's group
    bool pending;        // some of its matrices are not done
  };

  Status Prepare();
  Status ReadCalibrationText();
  Status SampleTokensIfNeeded();
  StatusOr<Hash128> Fingerprint() const;
  Status FindPending();
  Status QuantizeAll();
  Status QuantizeLayer(uint32_t layer, CalibrationStream* stream);
  Status QuantizeGroup(const Group& group, std::optional<Tensor> hessian);
  Status StoreMatrix(size_t index, QuantizedMatrix matrix);
  void Announce(const MatrixReport& report);
  bool Done(size_t index) const { return !reports_[index].name.empty(); }
  StatusOr<QuantizeReport> Write();
  StatusOr<std::map<std::string, std::string>> TokenizerFiles() const;

  const QuantizeOptions& options_;
  Executor& executor_;
  Progress& progress_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::unique_ptr<ModelSource> source_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelPlan plan_;
  std::vector<Group> groups_;
  CalibrationTokens tokens_;
  std::optional<WorkFolder> work_;
  std::vector<MatrixReport> reports_;  // by matrix of the plan; no name: not done
  uint64_t weights_done_ = 0, weights_total_ = 0;
  size_t matrices_done_ = 0;
};

std::vector<std::pair<size_t, size_t>> GroupRanges(const std::vector<PlannedMatrix>& matrices) {
  std::vector<std::pair<size_t, size_t>> ranges;
  for (size_t i = 0; i < matrices.size(); ++i) {
    if (i > 0 && matrices[i].group == matrices[i - 1].group) {
      ranges.back().second = i + 1;
    } else {
      ranges.emplace_back(i, i + 1);
    }
  }
  return ranges;
}

Status Job::Prepare() {
  TQ_RETURN_IF_ERROR(CheckOptions(options_));
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(options_.model));
  if (kind == ModelKind::kPacked) {
    return InvalidArgument("{}: is compressed already; give the original model",
                           options_.model.string());
  }
  TQ_RETURN_IF_ERROR(CheckOutputDirectory(options_.output, options_.model));
  TQ_ASSIGN_OR_RETURN(source_, ModelSource::Open(options_.model));
  TQ_ASSIGN_OR_RETURN(plan_, MakePlan(*source_, options_));
  for (const auto& [begin, end] : GroupRanges(plan_.matrices)) {
    const PlannedMatrix& m = plan_.matrices[begin];
    Group group{begin, end, -1, "", false};
    if (!m.vocabulary) {
      group.layer = std::stoll(m.group.substr(std::string_view("model.layers.").size()));
      group.suffix = m.group.substr(m.group.rfind('.') + 1);
    }
    groups_.push_back(std::move(group));
    for (size_t i = begin; i < end; ++i) {
      weights_total_ += plan_.matrices[i].rows * plan_.matrices[i].cols;
    }
  }
  reports_.resize(plan_.matrices.size());
  if (NeedsCalibration(options_)) {
    TQ_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::FromModel(options_.model));
    if (options_.calibration != "self") TQ_RETURN_IF_ERROR(ReadCalibrationText());
  }
  return OkStatus();
}

Status Job::ReadCalibrationText() {
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(options_.calibration, kMaxCalibrationBytes));
  TQ_ASSIGN_OR_RETURN(
      tokens_, CutCalibrationText(text, options_.calibration, *tokenizer_,
                                  options_.calibration_tokens, options_.calibration_context));
  const uint64_t largest = std::max(source_->config().hidden_size, source_->config().q_size());
  if (tokens_.ids.size() < largest) {
    Warn("calibration text {} gives {} tokens, fewer than the {} inputs of a layer",
         options_.calibration, tokens_.ids.size(), largest);
  }
  return OkStatus();
}

StatusOr<Hash128> Job::Fingerprint() const {
  Hasher hasher;
  const auto number = [&](double value) { hasher.Update(&value, sizeof(value)); };
  hasher.UpdateString(kPipelineVersion);
  number(options_.method == Method::kRtn);
  number(options_.bits);
  for (bool flag : {options_.fast, options_.no_rotation, options_.no_hessian,
                    options_.hessian_without_scales, options_.v1}) {
    number(flag);
  }
  number(static_cast<double>(options_.overrides.size()));
  for (const RateOverride& o : options_.overrides) {
    hasher.UpdateString(o.pattern);
    number(o.bits);
  }
  hasher.Update(&options_.seed, sizeof(options_.seed));
  hasher.UpdateString(ModelConfigToJson(source_->config()));
  if (NeedsCalibration(options_)) {
    hasher.UpdateString(options_.calibration == "self" ? "self" : "text");
    number(static_cast<double>(options_.calibration_tokens));
    number(static_cast<double>(options_.calibration_context));
    hasher.Update(tokens_.ids.data(), tokens_.ids.size() * sizeof(int32_t));
  }
  for (const SourceTensorInfo& info : source_->tensors()) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    hasher.UpdateString(info.name);
    TQ_RETURN_IF_ERROR(source_->HashTensor(info.name, hasher));
  }
  return hasher.Digest();
}

Status Job::SampleTokensIfNeeded() {
  constexpr std::string_view kPart = "calibration";
  if (auto part = work_->Load(kPart); part && part->size() == 1) {
    const Tensor& ids = part->front().tensor;
    tokens_.context = ids.shape().back();
    tokens_.ids.assign(ids.as<int32_t>(), ids.as<int32_t>() + ids.num_elements());
    return OkStatus();
  }
  TQ_ASSIGN_OR_RETURN(
      tokens_,
      SampleCalibrationTokens(*source_, tokenizer_->bos(), options_.calibration_tokens,
                              options_.calibration_context, options_.seed, executor_, progress_));
  TQ_ASSIGN_OR_RETURN(
      Tensor ids,
      Tensor::FromValues<int32_t>(DType::kI32, {tokens_.windows(), tokens_.context}, tokens_.ids));
  return work_->Store(kPart, {{"ids", std::move(ids)}});
}

// Matrices whose parts are whole are done.
Status Job::FindPending() {
  for (Group& group : groups_) {
    for (size_t i = group.begin; i < group.end; ++i) {
      TQ_RETURN_IF_ERROR(CheckCancelled());
      const PlannedMatrix& m = plan_.matrices[i];
      const auto part = work_->Load(m.name);
      if (!part) {
        group.pending = true;
        continue;
      }
      MatrixReport& report = reports_[i];
      report.name = m.name;
      report.rows = m.rows;
      report.cols = m.cols;
      for (const OutputTensor& t : *part) {
        if (t.name == kReportTensor && t.tensor.num_elements() == kReportValues) {
          report.relative_error = t.tensor.as<double>()[0];
          report.hessian_error = t.tensor.as<double>()[1];
          report.seconds = t.tensor.as<double>()[2];
        } else if (i == group.begin || t.name != m.group + ".in_scale") {
          report.bytes += t.tensor.num_bytes();
        }
      }
      report.bits = 8.0 * static_cast<double>(report.bytes) / static_cast<double>(m.rows * m.cols);
      weights_done_ += m.rows * m.cols;
      ++matrices_done_;
    }
  }
  if (matrices_done_ > 0) {
    progress_.Line(
        fmt::format("resuming: {} of {} matrices are done", matrices_done_, plan_.matrices.size()));
  }
  return OkStatus();
}

void Job::Announce(const MatrixReport& report) {
  std::string line =
      fmt::format("[{}/{}] {} {:.2f} bits err {:.4f}", matrices_done_, plan_.matrices.size(),
                  report.name, report.bits, report.relative_error);
  if (report.hessian_error > 0) line += fmt::format(" hessian {:.4f}", report.hessian_error);
  progress_.Line(line + fmt::format(" {:.1f} s", report.seconds));
  progress_.Update(weights_done_, report.name);
}

Status Job::StoreMatrix(size_t index, QuantizedMatrix matrix) {
  const double values[kReportValues] = {matrix.report.relative_error, matrix.report.hessian_error,
                                        matrix.report.seconds};
  TQ_ASSIGN_OR_RETURN(Tensor report,
                      Tensor::FromValues<double>(DType::kF64, {kReportValues}, values));
  matrix.tensors.push_back({std::string(kReportTensor), std::move(report)});
  TQ_RETURN_IF_ERROR(work_->Store(matrix.report.name, std::move(matrix.tensors)));
  weights_done_ += matrix.report.rows * matrix.report.cols;
  ++matrices_done_;
  reports_[index] = matrix.report;
  Announce(matrix.report);
  return OkStatus();
}

Status Job::QuantizeGroup(const Group& group, std::optional<Tensor> hessian) {
  std::vector<PlannedMatrix> matrices(plan_.matrices.begin() + static_cast<ptrdiff_t>(group.begin),
                                      plan_.matrices.begin() + static_cast<ptrdiff_t>(group.end));
  std::vector<Tensor> weights;
  for (const PlannedMatrix& m : matrices) {
    progress_.Update(weights_done_, m.name);
    TQ_ASSIGN_OR_RETURN(Tensor w, source_->LoadFloat(m.name + ".weight"));
    weights.push_back(std::move(w));
  }
  TQ_ASSIGN_OR_RETURN(GroupQuantizer quantizer,
                      GroupQuantizer::Create(options_, GroupSettings{}, std::move(matrices),
                                             std::move(weights), std::move(hessian), executor_));
  for (size_t i = 0; i < quantizer.size(); ++i) {
    if (Done(group.begin + i)) continue;
    TQ_RETURN_IF_ERROR(CheckCancelled());
    TQ_ASSIGN_OR_RETURN(QuantizedMatrix matrix, quantizer.Quantize(i, executor_));
    TQ_RETURN_IF_ERROR(StoreMatrix(group.begin + i, std::move(matrix)));
  }
  return OkStatus();
}

Status Job::QuantizeLayer(uint32_t layer, CalibrationStream* stream) {
  std::set<std::string> wanted;
  for (const Group& group : groups_) {
    if (group.layer == layer && group.pending) wanted.insert(group.suffix);
  }
  std::map<std::string, HessianSum> sums;
  if (stream != nullptr) {
    progress_.Update(weights_done_, fmt::format("calibrating layer {}", layer));
    TQ_ASSIGN_OR_RETURN(std::vector<HessianSum> layer_sums, stream->RunLayer(wanted, executor_));
    for (HessianSum& sum : layer_sums) {
      std::string name = sum.name();
      sums.emplace(std::move(name), std::move(sum));
    }
  }
  for (const Group& group : groups_) {
    if (group.layer != layer || !group.pending) continue;
    std::optional<Tensor> hessian;
    if (stream != nullptr) {
      auto sum = sums.extract(plan_.matrices[group.begin].group);
      TQ_CHECK(!sum.empty());
      TQ_ASSIGN_OR_RETURN(hessian, std::move(sum.mapped()).Finish(executor_));
    }
    TQ_RETURN_IF_ERROR(QuantizeGroup(group, std::move(hessian)));
  }
  return OkStatus();
}

Status Job::QuantizeAll() {
  // Layers are run as far as somebody still needs them: the head needs all.
  int64_t last_layer = -1;
  bool head_pending = false;
  for (const Group& group : groups_) {
    if (!group.pending) continue;
    last_layer = std::max(last_layer, group.layer);
    head_pending |= group.layer < 0;
  }
  if (head_pending) last_layer = source_->config().num_layers - 1;
  if (last_layer < 0) return OkStatus();
  std::optional<CalibrationStream> stream;
  if (NeedsCalibration(options_)) {
    TQ_ASSIGN_OR_RETURN(
        stream, CalibrationStream::Create(*source_, std::move(tokens_), options_.calibration_memory,
                                          work_->path()));
  }
  progress_.Begin("quantize", weights_total_);
  for (uint32_t layer = 0; layer <= last_layer; ++layer) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    TQ_RETURN_IF_ERROR(QuantizeLayer(layer, stream ? &*stream : nullptr));
  }
  for (const Group& group : groups_) {
    if (group.layer >= 0 || !group.pending) continue;
    std::optional<Tensor> hessian;
    // An embedding that is no head is only looked up: nothing is summed over its input.
    const bool is_head =
        source_->config().tie_embeddings || plan_.matrices[group.begin].group == "lm_head";
    if (stream && is_head) {
      progress_.Update(weights_done_, "calibrating the head");
      TQ_ASSIGN_OR_RETURN(HessianSum sum, stream->HeadInput(executor_));
      TQ_ASSIGN_OR_RETURN(hessian, std::move(sum).Finish(executor_));
    }
    TQ_RETURN_IF_ERROR(QuantizeGroup(group, std::move(hessian)));
  }
  progress_.End();
  return OkStatus();
}

StatusOr<std::map<std::string, std::string>> Job::TokenizerFiles() const {
  if (source_->gguf() == nullptr) return ReadTokenizerFiles(options_.model);
  TQ_ASSIGN_OR_RETURN(const TokenizerData data, TokenizerDataFromGguf(*source_->gguf()));
  return std::map<std::string, std::string>{{"tokenizer.json", TokenizerDataToJson(data)},
                                            {"tokenizer_config.json", TokenizerConfigToJson(data)}};
}

StatusOr<QuantizeReport> Job::Write() {
  std::map<std::string, Tensor> finished;
  for (const PlannedMatrix& m : plan_.matrices) {
    auto part = work_->Load(m.name);
    if (!part) {
      return DataLoss("{}: the part of {} was damaged while the job ran; run it again",
                      work_->path().string(), m.name);
    }
    for (OutputTensor& t : *part) {
      if (t.name != kReportTensor) finished.emplace(t.name, std::move(t.tensor));
    }
  }
  PackedModelContents contents;
  contents.config = source_->config();
  contents.staging = work_->path();  // where the next run clears what a killed one leaves
  contents.method = options_.method == Method::kRtn ? "rtn" : "trellis";
  contents.options = {{"bits", options_.bits}, {"seed", static_cast<int64_t>(options_.seed)}};
  TQ_ASSIGN_OR_RETURN(contents.files, TokenizerFiles());
  for (const OutputSpec& spec : plan_.tensors) {
    const auto found = finished.find(spec.name);
    if (found != finished.end()) {
      TQ_CHECK(found->second.shape() == spec.shape && found->second.dtype() == spec.dtype);
      contents.tensors.push_back({spec.name, found->second});
    } else {
      TQ_ASSIGN_OR_RETURN(Tensor plain, source_->LoadStored(spec.name));
      contents.tensors.push_back({spec.name, std::move(plain)});
    }
  }
  TQ_RETURN_IF_ERROR(WritePackedModel(options_.output, options_.model, std::move(contents)));

  QuantizeReport report;
  report.parameters = plan_.parameters;
  uint64_t decoder_bytes = 0, decoder_weights = 0;
  for (size_t i = 0; i < reports_.size(); ++i) {
    if (plan_.matrices[i].vocabulary) continue;
    decoder_bytes += reports_[i].bytes;
    decoder_weights += reports_[i].rows * reports_[i].cols;
  }
  {
    TQ_ASSIGN_OR_RETURN(const auto written, PackedModel::Open(options_.output));
    report.bytes = written->num_bytes();
  }
  report.bits_per_weight =
      8.0 * static_cast<double>(report.bytes) / static_cast<double>(report.parameters);
  report.decoder_bits_per_weight =
      8.0 * static_cast<double>(decoder_bytes) / static_cast<double>(decoder_weights);
  report.matrices = std::move(reports_);
  return report;
}

StatusOr<QuantizeReport> Job::Run() {
  TQ_RETURN_IF_ERROR(Prepare());
  fs::path work_path = options_.output;
  if (work_path.filename().empty()) work_path = work_path.parent_path();  // "out/"
  work_path += ".work";
  // Parts, and then the output beside them.
  const fs::path parent = fs::absolute(work_path).parent_path();
  TQ_ASSIGN_OR_RETURN(const uint64_t free, FreeDiskBytes(parent));
  if (plan_.bytes > free / 2) {
    return ResourceExhausted("{}: {} bytes are free, the job needs {}", parent.string(), free,
                             2 * plan_.bytes);
  }
  TQ_ASSIGN_OR_RETURN(const Hash128 fingerprint, Fingerprint());
  TQ_ASSIGN_OR_RETURN(work_,
                      WorkFolder::Open(work_path, fingerprint, Describe(options_), options_.fresh));
  TQ_RETURN_IF_ERROR(FindPending());
  const bool pending =
      std::any_of(groups_.begin(), groups_.end(), [](const Group& g) { return g.pending; });
  if (pending && NeedsCalibration(options_) && options_.calibration == "self") {
    TQ_RETURN_IF_ERROR(SampleTokensIfNeeded());
  }
  TQ_RETURN_IF_ERROR(QuantizeAll());
  TQ_ASSIGN_OR_RETURN(QuantizeReport report, Write());
  TQ_RETURN_IF_ERROR(work_->Remove());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  report.peak_rss_bytes = PeakRssBytes();
  return report;
}

}  // namespace

StatusOr<QuantizePlan> PlanQuantize(const QuantizeOptions& options) {
  TQ_ASSIGN_OR_RETURN(const auto source, ModelSource::Open(options.model));
  TQ_ASSIGN_OR_RETURN(const ModelPlan plan, MakePlan(*source, options));
  return QuantizePlan{plan.decoder_rate, plan.embedding_rate, plan.bytes, plan.bits_per_weight};
}

StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options, Executor& executor,
                                  Progress& progress) {
  return Job(options, executor, progress).Run();
}

}  // namespace tq
