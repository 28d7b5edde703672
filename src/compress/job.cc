#include "compress/job.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/cancel.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/memory_usage.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/packed_model.h"
#include "compress/calibrate.h"
#include "compress/kl_probe.h"
#include "tokenizer/tokenizer.h"

namespace tq {
namespace {

namespace fs = std::filesystem;

// Part of every fingerprint: raised whenever the same input would give other bytes, so that
// no job is finished by another algorithm than the one that began it.
constexpr std::string_view kPipelineVersion = "tq-pipeline-6";

// Where sums round otherwise than on the processor; empty: nowhere.
std::string DevicesOf(const QuantizeOptions& options) {
  std::string devices;
  if (options.dense != nullptr) devices += ", calibrated on " + options.dense->name();
  if (options.rounding != nullptr) devices += ", rounded on " + options.rounding->name();
  return devices;
}

Status CheckCalibrationOptions(const QuantizeOptions& options) {
  if (options.calibration_context < kMinCalibrationContext ||
      options.calibration_context > (1 << 20)) {
    return InvalidArgument("calibration context: {} is not in [{}, 1048576]",
                           options.calibration_context, kMinCalibrationContext);
  }
  if (options.calibration_tokens < kMinCalibrationTokens ||
      options.calibration_tokens > (uint64_t{1} << 32)) {
    return InvalidArgument("calibration tokens: {} is not in [{}, 4294967296]",
                           options.calibration_tokens, kMinCalibrationTokens);
  }
  return OkStatus();
}

Status CheckRates(const QuantizeOptions& options) {
  std::vector<double> rates;
  for (const trellis::Code code : trellis::kNativeCodes) rates.push_back(code.rate());
  for (const double bits : {options.min_bits, options.max_bits}) {
    if (std::find(rates.begin(), rates.end(), bits) == rates.end()) {
      return InvalidArgument("min bits {}, max bits {}: {} is the rate of no code; there are {}",
                             options.min_bits, options.max_bits, bits, fmt::join(rates, ", "));
    }
  }
  if (options.min_bits > options.max_bits) {
    return InvalidArgument("min bits {} is above max bits {}", options.min_bits, options.max_bits);
  }
  return OkStatus();
}

// The first windows of evenly spread ones.
CalibrationTokens SomeWindows(const CalibrationTokens& tokens, uint64_t count) {
  return ShortWindows(tokens, count, tokens.context);
}

StatusOr<Tensor> ScoreToTensor(const EvaluateResult& r) {
  const double values[] = {static_cast<double>(r.tokens),
                           static_cast<double>(r.windows),
                           r.perplexity,
                           r.perplexity_stderr,
                           r.kl->mean,
                           r.kl->stderr_,
                           r.kl->p99,
                           r.kl->top1_agreement,
                           r.kl->reference_perplexity,
                           r.kl->reference_perplexity_stderr};
  return Tensor::FromValues<double>(DType::kF64, {std::size(values)}, values);
}

std::optional<EvaluateResult> ScoreFromTensor(const Tensor& tensor) {
  if (tensor.dtype() != DType::kF64 || tensor.num_elements() != 10) return std::nullopt;
  double v[10];
  std::memcpy(v, tensor.data(), sizeof(v));  // the file aligns it to nothing
  EvaluateResult result{static_cast<uint64_t>(v[0]), static_cast<uint64_t>(v[1]), v[2], v[3], {}};
  result.kl = EvaluateResult::Kl{v[4], v[5], v[6], v[7], v[8], v[9]};
  return result;
}

}  // namespace

bool CompressionJob::NeedsCalibration() const {
  // Scalar codes too: trellis codes of the head are rounded with its Hessian whatever the method,
  // and errors are reported with all of them.
  return !options_.no_hessian;
}

bool CompressionJob::MeasuresSensitivity() const {
  return !IsScalar(options_.method) && options_.sensitivity != SensitivityMeasure::kNone;
}

Status CompressionJob::Open() {
  TQ_ASSIGN_OR_RETURN(const ModelKind kind, DetectModelKind(options_.model));
  if (kind == ModelKind::kPacked) {
    return InvalidArgument("{}: is compressed already; give the original model",
                           options_.model.string());
  }
  if (NeedsCalibration()) TQ_RETURN_IF_ERROR(CheckCalibrationOptions(options_));
  TQ_RETURN_IF_ERROR(options_.method == Method::kTrellis ? CheckRates(options_)
                                                         : CheckScalarOptions(options_));
  if (MeasuresSensitivity() && options_.no_hessian) {
    return InvalidArgument(
        "sensitivity: is measured with Hessians; without them rates are uniform");
  }
  TQ_ASSIGN_OR_RETURN(source_, ModelSource::Open(options_.model));
  if (NeedsCalibration() && source_->config().max_position < kMinCalibrationContext) {
    return InvalidArgument("{}: max_position_embeddings is {}; calibration takes at least {}",
                           options_.model.string(), source_->config().max_position,
                           kMinCalibrationContext);
  }
  TQ_ASSIGN_OR_RETURN(outline_, OutlineModel(*source_, options_));
  return NeedsCalibration() ? CheckDeviceMemory() : OkStatus();
}

Status CompressionJob::CheckDeviceMemory() const {
  if (options_.dense == nullptr) return OkStatus();
  TQ_ASSIGN_OR_RETURN(const uint64_t free, options_.dense->FreeBytes());
  const uint64_t needed = CalibrationStream::DeviceBytes(source_->config());
  if (needed <= free) return OkStatus();
  return ResourceExhausted(
      "--device cuda: calibration takes {} MiB of the memory of {} (the Hessians of a layer and "
      "half of its weights in float32), {} MiB are free; use --device cpu",
      needed >> 20, options_.dense->name(), free >> 20);
}

Status CompressionJob::ReadCalibrationText() {
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(options_.calibration, kMaxCalibrationBytes));
  const uint64_t wanted = options_.calibration_tokens;
  const uint64_t context =
      std::min<uint64_t>(options_.calibration_context, source_->config().max_position);
  if (MeasuresSensitivity()) {
    TQ_ASSIGN_OR_RETURN(
        texts_, CutCalibrationSet(text, options_.calibration, *tokenizer_, wanted, context));
  } else {
    TQ_ASSIGN_OR_RETURN(
        texts_.text, CutCalibrationText(text, options_.calibration, *tokenizer_, wanted, context));
  }
  const uint64_t largest = std::max(source_->config().hidden_size, source_->config().q_size());
  if (texts_.text.ids.size() < largest) {
    Warn("calibration text {} gives {} tokens, fewer than the {} inputs of a layer",
         options_.calibration, texts_.text.ids.size(), largest);
  }
  return OkStatus();
}

StatusOr<Hash128> CompressionJob::Model() {
  if (!model_) {
    TQ_ASSIGN_OR_RETURN(model_, ModelFingerprint(*source_));
  }
  return *model_;
}

StatusOr<Hash128> CompressionJob::Fingerprint(std::string_view kind, std::string_view details) {
  TQ_ASSIGN_OR_RETURN(const Hash128 model, Model());
  Hasher hasher;
  const auto number = [&](double value) { hasher.Update(&value, sizeof(value)); };
  hasher.UpdateString(kPipelineVersion);
  hasher.UpdateString(kind);
  hasher.UpdateString(details);
  number(static_cast<double>(options_.method));
  number(static_cast<double>(options_.group_size));
  number(static_cast<double>(options_.sensitivity));
  for (bool flag : {options_.symmetric, options_.act_order, options_.fast, options_.no_rotation,
                    options_.no_hessian, options_.hessian_without_scales, options_.v1}) {
    number(flag);
  }
  hasher.Update(&options_.seed, sizeof(options_.seed));
  const std::string devices = DevicesOf(options_);
  if (!devices.empty()) hasher.UpdateString(devices);
  if (NeedsCalibration()) {
    hasher.UpdateString(options_.calibration == "self" ? "self" : "text");
    number(static_cast<double>(options_.calibration_tokens));
    number(static_cast<double>(options_.calibration_context));
    for (const CalibrationTokens* tokens : {&texts_.text, &texts_.held_apart}) {
      hasher.Update(tokens->ids.data(), tokens->ids.size() * sizeof(int32_t));
    }
  }
  hasher.Update(&model, sizeof(model));
  return hasher.Digest();
}

Status CompressionJob::OpenWork(const fs::path& path, std::string_view kind,
                                std::string_view details, uint64_t needed) {
  if (NeedsCalibration()) {
    TQ_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::FromModel(options_.model));
    if (options_.calibration != "self") TQ_RETURN_IF_ERROR(ReadCalibrationText());
  }
  const fs::path parent = fs::absolute(path).parent_path();
  TQ_ASSIGN_OR_RETURN(const uint64_t free, FreeDiskBytes(parent));
  if (needed > free) {
    return ResourceExhausted("{}: {} bytes are free, the job needs {}", parent.string(), free,
                             needed);
  }
  TQ_ASSIGN_OR_RETURN(const Hash128 fingerprint, Fingerprint(kind, details));
  std::string description =
      fmt::format("{} {}, {}, seed {}", kind, options_.model.string(), details, options_.seed);
  if (NeedsCalibration()) {
    description += fmt::format(", calibration {} ({} tokens)", options_.calibration,
                               options_.calibration_tokens);
  }
  description += DevicesOf(options_);
  TQ_ASSIGN_OR_RETURN(work_, WorkFolder::Open(path, fingerprint, description, options_.fresh));
  parts_.emplace(*source_, options_, *work_, executor_, progress_);
  return OkStatus();
}

Status CompressionJob::SampleTokensIfNeeded() {
  if (!NeedsCalibration() || options_.calibration != "self" || texts_.text.windows() > 0) {
    return OkStatus();
  }
  constexpr std::string_view kPart = "calibration";
  CalibrationTokens all;
  if (auto part = work_->Load(kPart); part && part->size() == 1) {
    const Tensor& ids = part->front().tensor;
    all.context = ids.shape().back();
    all.ids.resize(ids.num_elements());
    std::memcpy(all.ids.data(), ids.data(), ids.num_bytes());
  } else {
    const uint64_t context = std::min({options_.calibration_context, options_.calibration_tokens,
                                       uint64_t{source_->config().max_position}});
    const uint64_t apart = MeasuresSensitivity() ? kMaxHeldApart * context : 0;
    TQ_ASSIGN_OR_RETURN(all, SampleCalibrationTokens(*source_, tokenizer_->bos(),
                                                     options_.calibration_tokens + apart, context,
                                                     options_.seed, executor_, progress_));
    TQ_ASSIGN_OR_RETURN(Tensor ids, Tensor::FromValues<int32_t>(
                                        DType::kI32, {all.windows(), all.context}, all.ids));
    TQ_RETURN_IF_ERROR(work_->Store(kPart, {{"ids", std::move(ids)}}));
  }
  // Sequences are independent: the last ones are held apart.
  const uint64_t apart = MeasuresSensitivity() ? kMaxHeldApart * all.context : 0;
  const auto end = all.ids.end() - static_cast<ptrdiff_t>(apart);
  texts_.text.context = texts_.held_apart.context = all.context;
  texts_.text.ids.assign(all.ids.begin(), end);
  texts_.held_apart.ids.assign(end, all.ids.end());
  return OkStatus();
}

StatusOr<SensitivityMeasure> CompressionJob::MeasureThatFits(const CalibrationTokens& probe) {
  constexpr std::string_view kPart = "measure";
  std::optional<SensitivityMeasure> begun;
  if (auto part = work_->Load(kPart); part && part->size() == 1) {
    const Tensor& stored = part->front().tensor;
    if (stored.dtype() == DType::kU8 && stored.num_elements() == 1) {
      begun = stored.as<uint8_t>()[0] != 0 ? SensitivityMeasure::kKl : SensitivityMeasure::kHessian;
    }
  }
  if (begun == SensitivityMeasure::kHessian) return *begun;
  const bool fits = KlProbe::Fits(*source_, probe.ids.size());
  const uint64_t needed_mib = KlProbe::MemoryNeeded(*source_, probe.ids.size()) >> 20;
  const uint64_t available_mib = AvailableMemory() >> 20;
  if (begun && !fits) {
    return ResourceExhausted(
        "sensitivity by KL, with which this job was begun, takes {} MiB of memory, {} MiB are "
        "available; free some, or start over with --fresh",
        needed_mib, available_mib);
  }
  if (!fits) {
    Warn(
        "sensitivity by KL takes {} MiB of memory (the model as float32), {} MiB are available: "
        "rates are chosen by Hessians",
        needed_mib, available_mib);
  }
  const uint8_t kl[] = {fits};
  TQ_ASSIGN_OR_RETURN(Tensor tensor, Tensor::FromValues<uint8_t>(DType::kU8, {1}, kl));
  TQ_RETURN_IF_ERROR(work_->Store(kPart, {{"kl", std::move(tensor)}}));
  return fits ? SensitivityMeasure::kKl : SensitivityMeasure::kHessian;
}

StatusOr<std::optional<SensitivityTable>> CompressionJob::KnownSensitivity(
    SensitivityMeasure measure) {
  const fs::path& file = options_.sensitivity_file;
  std::error_code error;
  if (file.empty() || !fs::exists(file, error)) return std::optional<SensitivityTable>();
  TQ_ASSIGN_OR_RETURN(const Hash128 model, Model());
  TQ_ASSIGN_OR_RETURN(const SensitivityTable table, ReadSensitivity(file, model, outline_));
  return table.By(measure);
}

StatusOr<SensitivityTable> CompressionJob::Sensitivity(SensitivityMeasure measure) {
  TQ_CHECK(measure != SensitivityMeasure::kNone);
  TQ_ASSIGN_OR_RETURN(std::optional<SensitivityTable> known, KnownSensitivity(measure));
  if (known) return *std::move(known);
  TQ_RETURN_IF_ERROR(SampleTokensIfNeeded());
  const CalibrationTokens probe = ShortWindows(texts_.text, kProbeTokens, kProbeContext);
  if (measure == SensitivityMeasure::kKl) {
    TQ_ASSIGN_OR_RETURN(measure, MeasureThatFits(probe));
    TQ_ASSIGN_OR_RETURN(known, KnownSensitivity(measure));
    if (known) return *std::move(known);
  }
  QuantizeOptions options = options_;
  options.sensitivity = measure;
  TQ_ASSIGN_OR_RETURN(
      SensitivityTable table,
      MeasureSensitivity(*source_, outline_, options, SomeWindows(texts_.text, kSensitivityTokens),
                         probe, *work_, executor_, progress_));
  TQ_ASSIGN_OR_RETURN(table.model, Model());
  const fs::path& file = options_.sensitivity_file;
  if (!file.empty()) TQ_RETURN_IF_ERROR(WriteSensitivity(file, table));
  return table;
}

Status CompressionJob::MakeParts(std::span<const ModelPlan> plans) {
  TQ_ASSIGN_OR_RETURN(const bool missing, parts_->FindMissing(plans));
  if (!missing) return OkStatus();
  TQ_RETURN_IF_ERROR(SampleTokensIfNeeded());
  return parts_->MakeMissing(NeedsCalibration() ? texts_.text : CalibrationTokens{});
}

Status CompressionJob::WriteModel(const ModelPlan& plan, const fs::path& output) {
  std::vector<OutputTensor> tensors;
  for (const PlannedMatrix& m : plan.matrices) {
    TQ_RETURN_IF_ERROR(parts_->AppendTensors(m, tensors));
  }
  std::map<std::string, Tensor> finished;
  for (OutputTensor& t : tensors) finished.emplace(std::move(t.name), std::move(t.tensor));
  PackedModelContents contents;
  contents.config = source_->config();
  contents.staging = work_->path();  // where the next run clears what a killed one leaves
  contents.method = NameOf(plan.method);
  contents.options = {{"seed", static_cast<int64_t>(options_.seed)}};
  if (IsScalar(plan.method)) {
    contents.options["group_size"] = static_cast<int64_t>(options_.group_size);
    if (plan.method != Method::kTernary) contents.options["symmetric"] = options_.symmetric;
    if (plan.method == Method::kGptq) contents.options["act_order"] = options_.act_order;
  }
  if (options_.budget_bytes > 0) {
    contents.options["budget_bytes"] = static_cast<int64_t>(options_.budget_bytes);
  } else {
    contents.options["bits"] = options_.bits;
  }
  TQ_ASSIGN_OR_RETURN(contents.files, TokenizerFiles(options_.model, source_->gguf()));
  for (const OutputSpec& spec : plan.tensors) {
    const auto found = finished.find(spec.name);
    if (found != finished.end()) {
      TQ_CHECK(found->second.shape() == spec.shape && found->second.dtype() == spec.dtype);
      contents.tensors.push_back({spec.name, found->second});
    } else {
      TQ_ASSIGN_OR_RETURN(Tensor plain, source_->LoadStored(spec.name));
      contents.tensors.push_back({spec.name, std::move(plain)});
    }
  }
  return WritePackedModel(output, options_.model, std::move(contents));
}

StatusOr<EvaluateResult> CompressionJob::Score(const ModelPlan& plan,
                                               StreamedReference& reference) {
  const std::string name = HashOfCodes(plan.matrices).Hex();
  const std::string part = "score." + name;
  if (auto stored = work_->Load(part); stored && stored->size() == 1) {
    if (auto result = ScoreFromTensor(stored->front().tensor)) return *result;
  }
  // A model that is looked at and thrown away; a killed run's is cleared by its name.
  const fs::path folder = work_->path() / ("candidate.tmp." + name);
  std::error_code error;
  fs::remove_all(folder, error);
  TQ_RETURN_IF_ERROR(WriteModel(plan, folder));
  StatusOr<EvaluateResult> result = reference.Score(folder, progress_);
  fs::remove_all(folder, error);
  TQ_RETURN_IF_ERROR(result.status());
  TQ_ASSIGN_OR_RETURN(Tensor tensor, ScoreToTensor(*result));
  TQ_RETURN_IF_ERROR(work_->Store(part, {{"score", std::move(tensor)}}));
  return result;
}

StatusOr<std::unique_ptr<StreamedReference>> CompressionJob::Reference(CalibrationTokens text) {
  return StreamedReference::Create(*source_, std::move(text), options_.calibration_memory,
                                   work_->path(), executor_, progress_, options_.dense.get());
}

StatusOr<std::unique_ptr<StreamedReference>> CompressionJob::HeldApartReference() {
  TQ_RETURN_IF_ERROR(SampleTokensIfNeeded());
  return Reference(texts_.held_apart);
}

StatusOr<std::vector<MatrixReport>> CompressionJob::Reports(const ModelPlan& plan) const {
  std::vector<MatrixReport> reports;
  for (const PlannedMatrix& m : plan.matrices) {
    TQ_ASSIGN_OR_RETURN(MatrixReport report, parts_->Report(m));
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace tq
