// What quantising would make and take: `tq quantize --dry-run`.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "base/random.h"
#include "codec/dense_device.h"
#include "codec/dense_matmul.h"
#include "compress/assign_rates.h"
#include "compress/job.h"
#include "compress/kl_probe.h"
#include "compress/memory_budget.h"
#include "compress/methods/trellis/rounding.h"
#include "compress/quantize.h"

namespace tq {
namespace {

// Wall time of each measurement: long against a call, short for people.
constexpr double kMeasureSeconds = 0.3;
// Stated by docs/scaling.md for a pass that quantises.
constexpr uint64_t kWorkBytes = uint64_t{256} << 20;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Values that are encoded per second where codes are rounded; on the processor, by all threads.
StatusOr<double> EncodeSpeed(trellis::Code code, const RoundingDevice* device, Executor& executor) {
  const bool has = device != nullptr && device->Has(code);
  const RoundingDevice& where = has ? *device : ProcessorRounding();
  const trellis::TileShape shape = trellis::ShapeOf(code);
  const auto columns = static_cast<uint64_t>(shape.columns);
  // One thread alone: a search takes memory.
  InlineExecutor one;
  TQ_ASSIGN_OR_RETURN(const auto rounding, where.Start(nullptr, columns, one));
  const auto seconds_of = [&](uint64_t tiles) -> StatusOr<double> {
    const uint64_t rows = tiles * static_cast<uint64_t>(shape.rows);
    Random random(1, "encode speed");
    std::vector<float> w(rows * columns);
    for (float& v : w) v = static_cast<float>(trellis::kValueSigma * random.NextNormal());
    std::vector<uint8_t> codes(tiles * static_cast<uint64_t>(shape.bytes()));
    const float scale = 1;
    const auto start = std::chrono::steady_clock::now();
    TQ_RETURN_IF_ERROR(rounding->Round({code, rows, {&scale, 1}, w.data(), codes.data()}).status());
    return SecondsSince(start);
  };
  if (has) TQ_RETURN_IF_ERROR(seconds_of(1).status());  // the first call loads and allocates
  for (uint64_t tiles = 4;; tiles *= 2) {
    TQ_ASSIGN_OR_RETURN(const double seconds, seconds_of(tiles));
    if (seconds < kMeasureSeconds / 2) continue;
    const auto values = static_cast<double>(tiles * static_cast<uint64_t>(shape.values()));
    return values / seconds * (has ? 1.0 : static_cast<double>(executor.threads()));
  }
}

// Floating-point operations per second of a product in float32, where layers are multiplied.
StatusOr<double> MatmulSpeed(const DenseDevice* device, Executor& executor) {
  constexpr uint64_t kRows = 256, kSize = 1024;
  std::vector<float> x(kRows * kSize, 0.5f), y(kRows * kSize);
  std::vector<Tensor> w(1);
  TQ_ASSIGN_OR_RETURN(w[0], Tensor::FromValues<float>(DType::kF32, {kSize, kSize},
                                                      std::vector<float>(kSize * kSize, 0.25f)));
  std::unique_ptr<DenseDevice::Weights> on_device;
  if (device != nullptr) {
    TQ_ASSIGN_OR_RETURN(on_device, device->Upload(w, "the speed of products"));
  }
  const auto multiply = [&]() -> Status {
    float* out[] = {y.data()};
    if (on_device != nullptr) return on_device->Multiply(x.data(), kRows, executor, out);
    DenseMatmul(x.data(), kRows, kSize, w[0].as<float>(), kSize, executor, y.data());
    return OkStatus();
  };
  TQ_RETURN_IF_ERROR(multiply());  // the first call on a device loads
  const auto start = std::chrono::steady_clock::now();
  double done = 0;
  do {
    TQ_RETURN_IF_ERROR(multiply());
    done += 2.0 * kRows * kSize * kSize;
  } while (SecondsSince(start) < kMeasureSeconds);
  return done / SecondsSince(start);
}

// Operations of the float products, by part of the work (docs/scaling.md derives them).
struct Operations {
  double forward = 0;   // of a token through the decoder
  double hessians = 0;  // of a token in the sums of x x^T
  double factors = 0;   // of all Hessians
  double feedback = 0;  // of all matrices
  double scales = 0;    // of AWQ's search
};

Operations CountOperations(const ModelOutline& outline, const ModelConfig& config) {
  Operations ops;
  for (const MatrixGroup& group : GroupsOf(outline.matrices, config.tie_embeddings)) {
    const double n = static_cast<double>(outline.matrices[group.begin].cols);
    // The share of tokens that an expert sees.
    const double seen =
        group.expert ? static_cast<double>(config.experts_per_token) / config.num_experts : 1;
    ops.hessians += seen * n * n;
    ops.factors += n * n * n / 3 + 8 * n * n;
    for (size_t i = group.begin; i < group.end; ++i) {
      const double rows = static_cast<double>(outline.matrices[i].rows);
      if (group.layer >= 0) ops.forward += seen * 2 * rows * n;
      ops.feedback += 2 * rows * n * n;
      // Twenty scales, each a product with H.
      if (group.layer >= 0) ops.scales += 20 * 2 * rows * n * n;
    }
  }
  return ops;
}

// Of the pass that measures sensitivities (sensitivity.h).
double MeasuringOperations(const ModelOutline& outline, SensitivityMeasure measure, bool tied,
                           const Operations& ops) {
  double total = static_cast<double>(kSensitivityTokens) * (ops.forward + ops.hessians) +
                 ops.factors + ops.feedback;
  if (measure != SensitivityMeasure::kKl) return total;
  double probes = 0, head = 0;
  for (const MatrixGroup& group : GroupsOf(outline.matrices, tied)) {
    const PlannedMatrix& m = outline.matrices[group.begin];
    if (group.is_head) head = 2 * static_cast<double>(m.rows * m.cols);
    if (group.expert.value_or(0) > 0) continue;  // measured with the first
    // A change in a layer runs the later half of the layers, on average.
    probes += group.layer >= 0 ? 0.5 : static_cast<double>(VocabularySlices(m.rows).size() - 1);
  }
  const double tokens = static_cast<double>(kProbeTokens);
  return total + static_cast<double>(kProbeLevels) *
                     (probes * tokens * ops.forward + 2 * probes * tokens / 2 * head);
}

// Of quantising: a group and its Hessian (gptq: and its factor), and half a layer, or an expert,
// with the Hessians of all its groups (awq: a group and its error), in float32.
uint64_t QuantizingBytes(const ModelOutline& outline, Method method, bool tied) {
  uint64_t largest_group = 0, layer_hessians = 0, half = 0, scaled = 0;
  for (const MatrixGroup& group : GroupsOf(outline.matrices, tied)) {
    const uint64_t n = outline.matrices[group.begin].cols;
    uint64_t weights = 0;
    for (size_t i = group.begin; i < group.end; ++i) weights += outline.matrices[i].rows * n;
    const uint64_t hessians = method == Method::kGptq ? 2 * n * n : n * n;
    largest_group = std::max(largest_group, 4 * (weights + hessians));
    if (group.layer != 0 || group.expert.value_or(0) > 0) continue;
    layer_hessians += 4 * n * n;
    if (group.suffix == "gate_up" || group.suffix == "down") half += 4 * weights;
    if (method == Method::kAwq) scaled = std::max(scaled, 8 * weights);
  }
  return std::max(largest_group, std::max(half, scaled) + layer_hessians) + kWorkBytes;
}

// How the rates will be chosen, as far as that can be known without measuring.
struct ChosenPlan {
  ModelPlan plan;
  // What decides; its sensitivities are known already, or will be measured.
  SensitivityMeasure measure = SensitivityMeasure::kNone;
  bool known = false;
  size_t candidates = 1;  // that are quantised
  bool Measures() const { return measure != SensitivityMeasure::kNone && !known; }
};

StatusOr<ChosenPlan> ChoosePlan(CompressionJob& job, const QuantizeOptions& options,
                                QuantizePreview& preview) {
  const ModelOutline& outline = job.outline();
  ChosenPlan chosen;
  if (IsScalar(options.method)) {
    TQ_ASSIGN_OR_RETURN(chosen.plan, PlanScalar(outline, options));
    preview.budget_bytes = chosen.plan.bytes;
    preview.rates = NameOf(PlanKind::kScalar);
    return chosen;
  }
  TQ_ASSIGN_OR_RETURN(preview.budget_bytes, TargetBytes(outline, options));
  chosen.measure = options.sensitivity;
  std::optional<SensitivityTable> table;
  if (chosen.measure != SensitivityMeasure::kNone) {
    TQ_ASSIGN_OR_RETURN(table, job.KnownSensitivity(chosen.measure));
  }
  if (chosen.measure == SensitivityMeasure::kKl && !table &&
      !KlProbe::Fits(job.source(), kProbeTokens)) {
    chosen.measure = SensitivityMeasure::kHessian;
    TQ_ASSIGN_OR_RETURN(table, job.KnownSensitivity(chosen.measure));
  }
  chosen.known = table.has_value();
  chosen.candidates = PlansToCompare(outline, options, chosen.measure, preview.budget_bytes).size();
  if (!table) {
    TQ_ASSIGN_OR_RETURN(chosen.plan, PlanUniform(outline, options));
    preview.rates = "uniform";
    return chosen;
  }
  TQ_ASSIGN_OR_RETURN(PredictedPlan allocated,
                      PlanAllocated(outline, options, *table, preview.budget_bytes));
  preview.predicted_kl = table->TotalKl(allocated.loss);
  preview.rates = "allocated";
  chosen.plan = std::move(allocated.plan);
  return chosen;
}

// With what comes before quantising: drawing the text from the model, and measuring by KL (by
// Hessians it takes what quantising does).
uint64_t PeakBytes(const CompressionJob& job, const QuantizeOptions& options,
                   const ChosenPlan& chosen, bool tied) {
  uint64_t peak = QuantizingBytes(job.outline(), options.method, tied);
  if (options.no_hessian) return peak;
  if (options.calibration == "self") {
    peak = std::max(peak, SampleMemoryNeeded(job.source(), options.calibration_tokens,
                                             options.calibration_context));
  }
  if (chosen.measure == SensitivityMeasure::kKl && chosen.Measures()) {
    peak = std::max(peak, KlProbe::MemoryNeeded(job.source(), kProbeTokens));
  }
  return peak;
}

// All candidates are quantised in one pass; measuring passes over fewer tokens.
StatusOr<double> EstimateSeconds(const ModelOutline& outline, const QuantizeOptions& options,
                                 const ChosenPlan& chosen, const ModelConfig& config,
                                 Executor& executor) {
  const bool tied = config.tie_embeddings;
  const Operations ops = CountOperations(outline, config);
  const double candidates = static_cast<double>(chosen.candidates);
  const double tokens = options.no_hessian ? 0 : static_cast<double>(options.calibration_tokens);
  double operations = tokens * (ops.forward + ops.hessians);
  if (options.calibration == "self") operations += tokens * ops.forward;
  if (options.method == Method::kAwq) operations += ops.scales;
  if (!options.no_hessian) {
    operations += ops.factors + candidates * ops.feedback;
    if (chosen.Measures()) {
      operations += MeasuringOperations(outline, chosen.measure, tied, ops);
    }
    // The original and each candidate on the windows held apart.
    if (chosen.candidates > 1) {
      operations += (1 + candidates) * static_cast<double>(kMaxHeldApart) *
                    static_cast<double>(options.calibration_context) * ops.forward;
    }
  }
  TQ_ASSIGN_OR_RETURN(const double speed_of_products, MatmulSpeed(options.dense.get(), executor));
  double encoded = 0;  // weights with trellis codes
  for (const PlannedMatrix& m : chosen.plan.matrices) {
    if (m.method == Method::kTrellis) encoded += static_cast<double>(m.rows * m.cols);
  }
  const bool scalar = IsScalar(options.method);
  const RatePosition position =
      PositionOfRate(scalar ? chosen.plan.embedding_rate : chosen.plan.decoder_rate);
  trellis::Code code = trellis::kNativeCodes[position.index];
  if (options.fast) code.state_bits = 12;
  TQ_ASSIGN_OR_RETURN(const double speed, EncodeSpeed(code, options.rounding.get(), executor));
  return operations / speed_of_products + candidates * encoded / speed;
}

}  // namespace

StatusOr<QuantizePreview> PreviewQuantize(const QuantizeOptions& asked, Executor& executor) {
  QuantizeOptions options = asked;
  NullProgress progress;
  CompressionJob job(options, executor, progress);
  TQ_RETURN_IF_ERROR(job.Open());
  const ModelOutline& outline = job.outline();
  const bool tied = job.source().config().tie_embeddings;
  QuantizePreview preview;
  preview.parameters = outline.parameters;
  if (options.memory_bytes > 0) {
    TQ_ASSIGN_OR_RETURN(preview.memory, BudgetMemory(job.source().config(), outline, options));
    options.budget_bytes = preview.memory->weights;
  }
  TQ_ASSIGN_OR_RETURN(const ChosenPlan chosen, ChoosePlan(job, options, preview));
  const ModelPlan& plan = chosen.plan;
  preview.decoder_rate = plan.decoder_rate;
  preview.embedding_rate = plan.embedding_rate;
  preview.bytes = plan.bytes;
  preview.bits_per_weight = plan.bits_per_weight;
  if (preview.memory) preview.memory->weights = plan.bytes;
  TQ_ASSIGN_OR_RETURN(preview.seconds,
                      EstimateSeconds(outline, options, chosen, job.source().config(), executor));
  preview.peak_bytes = PeakBytes(job, options, chosen, tied);
  preview.disk_bytes = WorkBytes(chosen.candidates, plan.bytes);
  return preview;
}

}  // namespace tq
