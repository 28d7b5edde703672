#include "compress/plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <set>
#include <utility>

#include "base/checked.h"
#include "checkpoint/packed_model.h"
#include "checkpoint/safetensors.h"

namespace tq {
namespace {

// Shares of the vocabulary that are considered for the higher rate: eighths.
constexpr int kVocabularySteps = 8;

// The last coordinate below gives each matrix its own rounding of the split row, so that
// rates of the whole model can be met to a few rows (golden-ratio sequence).
double RoundingPhase(size_t matrix) {
  const double golden = 0.6180339887498949 * static_cast<double>(matrix + 1);
  return golden - std::floor(golden);
}

// Bits per weight of the codes of segments.
double CodeBits(const PlannedMatrix& m) {
  double bits = 0;
  for (const Segment& s : m.segments) {
    bits += s.code.rate() * static_cast<double>((s.row_end - s.row_begin) * m.cols);
  }
  return bits;
}

// All matrices of the model, in the order of work, without rates: those of the layers, then the
// head and the embedding.
std::vector<PlannedMatrix> ListMatrices(const ModelConfig& config) {
  std::vector<PlannedMatrix> matrices, vocabulary;
  for (const TensorSpec& spec : ModelTensors(config)) {
    if (!spec.is_coded()) continue;
    PlannedMatrix m;
    m.name = spec.name.substr(0, spec.name.size() - std::string_view(".weight").size());
    m.group = GroupName(m.name);
    m.rows = spec.shape[0];
    m.cols = spec.shape[1];
    m.vocabulary = m.group == m.name;
    (m.vocabulary ? vocabulary : matrices).push_back(std::move(m));
  }
  std::move(vocabulary.rbegin(), vocabulary.rend(), std::back_inserter(matrices));
  return matrices;
}

Status FixRates(const QuantizeOptions& options, std::vector<PlannedMatrix>& matrices) {
  if (options.overrides.empty()) return OkStatus();
  std::vector<std::string> names;
  for (const PlannedMatrix& m : matrices) names.push_back(m.name);
  TQ_ASSIGN_OR_RETURN(const std::vector<double> rates,
                      ApplyOverrides(options.overrides, names, LowestRate(), HighestRate()));
  for (size_t i = 0; i < matrices.size(); ++i) matrices[i].fixed_rate = rates[i];
  return OkStatus();
}

// The plain tensors of the source: everything that gets no codes.
StatusOr<std::vector<OutputSpec>> PlainTensors(const ModelSource& source,
                                               const std::vector<PlannedMatrix>& matrices) {
  std::set<std::string> names;
  for (const PlannedMatrix& m : matrices) names.insert(m.name + ".weight");
  // A tied head that is stored all the same is not needed.
  if (source.config().tie_embeddings) names.insert("lm_head.weight");
  std::vector<OutputSpec> plain;
  for (const SourceTensorInfo& info : source.tensors()) {
    if (names.contains(info.name)) continue;
    plain.push_back({info.name, PlainTensorType(info), info.shape});
  }
  return plain;
}

void AppendSpecs(const PlannedMatrix& m, std::set<std::string>& groups,
                 std::vector<OutputSpec>& specs) {
  if (IsScalar(m.method)) {
    const GroupedLayout& layout = m.layout;
    specs.push_back({m.name + ".codes", DType::kU8, {m.rows, layout.code_bytes()}});
    specs.push_back({m.name + ".scale", DType::kF16, {m.rows, layout.groups()}});
    TQ_CHECK(layout.zeros != ZeroKind::kHalf);
    if (layout.zeros == ZeroKind::kPacked) {
      specs.push_back({m.name + ".zero", DType::kU8, {m.rows, layout.packed_zero_bytes()}});
    }
    if (layout.ordered) specs.push_back({m.name + ".order", DType::kI32, {m.cols}});
    specs.push_back({m.name + ".layout", DType::kI32, {LayoutToInts(layout).size()}});
    return;
  }
  uint64_t bytes = 0;
  for (const Segment& segment : m.segments) bytes += SegmentBytes(segment, m.cols);
  specs.push_back({m.name + ".codes", DType::kU8, {bytes}});
  specs.push_back({m.name + ".out_scale", DType::kF16, {m.rows}});
  specs.push_back({m.name + ".layout", DType::kI32, {LayoutSize(m.segments.size())}});
  if (groups.insert(m.group).second) {
    specs.push_back({m.group + ".in_scale", DType::kF16, {m.cols}});
  }
}

// The uniform plan: one rate for the decoder, one for embedding and head.
class UniformPlanner {
 public:
  UniformPlanner(const ModelOutline& outline, const QuantizeOptions& options)
      : outline_(outline), options_(options) {}

  std::vector<PlannedMatrix> Matrices(double decoder_x, RatePosition vocabulary) const {
    std::vector<PlannedMatrix> matrices = outline_.matrices;
    for (size_t i = 0; i < matrices.size(); ++i) {
      matrices[i].segments = Segments(i, decoder_x, vocabulary);
    }
    return matrices;
  }
  ModelPlan Build(double decoder_x, RatePosition vocabulary) const {
    return FinishPlan(outline_, Matrices(decoder_x, vocabulary));
  }

  double lowest() const { return PositionNumber(options_.min_bits); }
  double highest() const { return PositionNumber(options_.max_bits); }

  // The largest decoder position whose plan has at most `budget` bytes; negative if none.
  double LargestPosition(uint64_t budget, RatePosition vocabulary) const {
    return LargestThat([&](double x) { return Build(x, vocabulary).bytes <= budget; });
  }
  // The same by the bytes of codes alone: fast, and right but for digits of the file's header.
  double LargestPositionOfCodes(uint64_t budget, RatePosition vocabulary) const {
    return LargestThat([&](double x) { return CodeBytes(x, vocabulary) <= budget; });
  }
  uint64_t CodeBytes(double decoder_x, RatePosition vocabulary) const {
    uint64_t bytes = 0;
    for (size_t i = 0; i < outline_.matrices.size(); ++i) {
      bytes += BytesOfSegments(Segments(i, decoder_x, vocabulary), outline_.matrices[i].cols);
    }
    return bytes;
  }

  // Predicted loss of the rates, up to a factor.
  static double Loss(double decoder_x, RatePosition vocabulary) {
    return ExpectedError(PositionAt(decoder_x), HigherRows::kLast) +
           kVocabularyShare * ExpectedError(vocabulary, HigherRows::kFirst);
  }

  // The rates of embedding and head that are tried, rising.
  std::vector<RatePosition> VocabularyCandidates() const {
    std::vector<RatePosition> candidates;
    for (double x = 0; x <= kLargestPosition; x += 1.0 / kVocabularySteps) {
      if (x >= lowest() && x <= highest()) candidates.push_back(PositionAt(x));
    }
    return candidates;
  }

 private:
  std::vector<Segment> Segments(size_t matrix, double decoder_x, RatePosition vocabulary) const {
    const PlannedMatrix& m = outline_.matrices[matrix];
    RatePosition position = m.vocabulary ? vocabulary : PositionAt(decoder_x);
    if (m.fixed_rate > 0) position = PositionOfRate(m.fixed_rate);
    const double phase = m.vocabulary || m.fixed_rate > 0 ? 0.5 : RoundingPhase(matrix);
    return SplitRows(m.rows, position, phase, HigherRowsOf(m), VariantOf(options_));
  }

  template <typename Fits>
  double LargestThat(const Fits& fits) const {
    double low = lowest(), high = highest();
    if (!fits(low)) return -1;
    if (fits(high)) return high;
    // Splits move in steps of 1/units of a matrix: 2^-16 is finer than any that matters.
    while (high - low > 0x1p-16) {
      const double middle = (low + high) / 2;
      (fits(middle) ? low : high) = middle;
    }
    return low;
  }

  static double PositionNumber(double rate) {
    const RatePosition p = PositionOfRate(rate);
    return static_cast<double>(p.index) + p.fraction;
  }

  const ModelOutline& outline_;
  const QuantizeOptions& options_;
};

Status CheckWidth(const QuantizeOptions& options) {
  if (IsWidth(options.method, options.bits)) return OkStatus();
  if (options.method == Method::kTernary) {
    return InvalidArgument("bits: ternary has codes of {} bits alone, not {}", kTernaryRate,
                           options.bits);
  }
  return InvalidArgument("bits: {} needs a whole number from 2 to 8, not {}",
                         NameOf(options.method), options.bits);
}

// The options' layout of a matrix of the decoder.
GroupedLayout LayoutOf(const QuantizeOptions& options, const PlannedMatrix& m) {
  GroupedLayout layout;
  layout.rows = m.rows;
  layout.cols = m.cols;
  // More columns than a group may have are refused by CheckGroupedLayout.
  const uint64_t size = options.group_size != 0 ? options.group_size : m.cols;
  layout.group_size = static_cast<uint32_t>(std::min<uint64_t>(size, UINT32_MAX));
  if (options.method == Method::kTernary) {
    layout.bits = kTernaryBits;
    layout.zeros = ZeroKind::kSymmetric;
    return layout;
  }
  layout.bits = static_cast<uint32_t>(options.bits);
  layout.zeros = options.symmetric ? ZeroKind::kSymmetric : ZeroKind::kPacked;
  layout.ordered = options.method == Method::kGptq && options.act_order;
  return layout;
}

}  // namespace

DType PlainTensorType(const SourceTensorInfo& info) {
  const std::optional<DType> type = DTypeFromName(info.type);
  if (type == DType::kF16 || type == DType::kBF16) return *type;
  return DType::kF32;
}

uint64_t SafetensorsFileBytes(const std::vector<OutputSpec>& tensors) {
  SafetensorsHeader header;
  for (const OutputSpec& t : tensors) {
    uint64_t bytes = DTypeSize(t.dtype);
    for (uint64_t dim : t.shape) bytes *= dim;
    header.Add(t.name, t.dtype, t.shape, bytes);
  }
  return header.Bytes().size() + header.data_bytes();
}

StatusOr<ModelOutline> OutlineModel(const ModelSource& source, const QuantizeOptions& options) {
  ModelOutline outline;
  outline.matrices = ListMatrices(source.config());
  TQ_RETURN_IF_ERROR(FixRates(options, outline.matrices));
  TQ_ASSIGN_OR_RETURN(outline.plain, PlainTensors(source, outline.matrices));
  outline.parameters = source.num_parameters();
  return outline;
}

std::vector<MatrixGroup> GroupsOf(const std::vector<PlannedMatrix>& matrices, bool tied) {
  constexpr std::string_view kLayers = "model.layers.";
  std::vector<MatrixGroup> groups;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const PlannedMatrix& m = matrices[i];
    if (i > 0 && m.group == matrices[i - 1].group) {
      groups.back().end = i + 1;
      continue;
    }
    MatrixGroup group{i, i + 1, -1, "", false};
    if (!m.vocabulary) {
      group.layer = std::stoll(m.group.substr(kLayers.size()));
      group.suffix = m.group.substr(m.group.rfind('.') + 1);
      group.expert = ExpertOf(m.group);
    } else {
      // An embedding that is no head is only looked up.
      group.is_head = tied || m.group == "lm_head";
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

uint64_t BytesOfSegments(const std::vector<Segment>& segments, uint64_t cols) {
  uint64_t bytes = (LayoutSize(segments.size()) - LayoutSize(0)) * sizeof(int32_t);
  for (const Segment& segment : segments) bytes += SegmentBytes(segment, cols);
  return bytes;
}

double CodeRate(const PlannedMatrix& matrix) {
  if (IsScalar(matrix.method)) return matrix.layout.rate();
  return CodeBits(matrix) / static_cast<double>(matrix.rows * matrix.cols);
}

Hash128 HashOfCodes(std::span<const PlannedMatrix> matrices) {
  Hasher hasher;
  const auto number = [&](uint64_t value) { hasher.Update(&value, sizeof(value)); };
  for (const PlannedMatrix& m : matrices) {
    hasher.UpdateString(m.name);
    number(static_cast<uint64_t>(m.method));
    for (const int32_t field : LayoutToInts(m.layout)) number(static_cast<uint64_t>(field));
    number(m.segments.size());
    for (const Segment& s : m.segments) {
      number(s.row_end);
      number(static_cast<uint64_t>(s.code.values));
      number(static_cast<uint64_t>(s.code.bits));
      number(static_cast<uint64_t>(s.code.state_bits));
    }
  }
  return hasher.Digest();
}

HigherRows HigherRowsOf(const PlannedMatrix& matrix) {
  return matrix.vocabulary ? HigherRows::kFirst : HigherRows::kLast;
}

CodeVariant VariantOf(const QuantizeOptions& options) {
  return {.v1 = options.v1, .twelve_bits = options.fast};
}

ModelPlan FinishPlan(const ModelOutline& outline, std::vector<PlannedMatrix> matrices) {
  ModelPlan plan;
  plan.matrices = std::move(matrices);
  std::set<std::string> groups;
  double bits[2] = {0, 0}, weights[2] = {0, 0};  // of decoder, of vocabulary
  for (const PlannedMatrix& m : plan.matrices) {
    AppendSpecs(m, groups, plan.tensors);
    bits[m.vocabulary] += CodeBits(m);
    weights[m.vocabulary] += static_cast<double>(m.rows * m.cols);
  }
  plan.tensors.insert(plan.tensors.end(), outline.plain.begin(), outline.plain.end());
  // As checkpoint writes them: codes first.
  std::stable_partition(plan.tensors.begin(), plan.tensors.end(),
                        [](const OutputSpec& t) { return t.name.ends_with(".codes"); });
  plan.decoder_rate = bits[0] / weights[0];
  plan.embedding_rate = bits[1] / weights[1];
  plan.bytes = SafetensorsFileBytes(plan.tensors);
  plan.parameters = outline.parameters;
  plan.bits_per_weight = outline.BitsPerWeight(plan.bytes);
  return plan;
}

uint64_t SmallestBytes(const ModelOutline& outline, const QuantizeOptions& options) {
  const UniformPlanner planner(outline, options);
  return planner.Build(planner.lowest(), planner.VocabularyCandidates().front()).bytes;
}

StatusOr<uint64_t> TargetBytes(const ModelOutline& outline, const QuantizeOptions& options) {
  const UniformPlanner planner(outline, options);
  const std::vector<RatePosition> vocabulary = planner.VocabularyCandidates();
  const ModelPlan smallest = planner.Build(planner.lowest(), vocabulary.front());
  const ModelPlan largest = planner.Build(planner.highest(), vocabulary.back());
  if (options.budget_bytes > 0) {
    if (options.budget_bytes < smallest.bytes) {
      return ResourceExhausted(
          "budget: {} bytes for weights is too few; the smallest possible is {}",
          options.budget_bytes, smallest.bytes);
    }
    return std::min(options.budget_bytes, largest.bytes);
  }
  const double bytes = options.bits * static_cast<double>(outline.parameters) / 8;
  if (!(bytes >= static_cast<double>(smallest.bytes))) {  // NaN too
    return InvalidArgument("bits: {} is too few for this model; the smallest possible is {:.3f}",
                           options.bits, smallest.bits_per_weight);
  }
  if (options.bits > largest.bits_per_weight + 0.05) {
    return InvalidArgument(
        "bits: {} is more than trellis codes give; the largest possible is {:.3f}", options.bits,
        largest.bits_per_weight);
  }
  return std::min(static_cast<uint64_t>(bytes), largest.bytes);
}

StatusOr<ModelPlan> PlanUniform(const ModelOutline& outline, const QuantizeOptions& options,
                                const PlanLoss& loss) {
  TQ_ASSIGN_OR_RETURN(const uint64_t budget, TargetBytes(outline, options));
  const UniformPlanner planner(outline, options);
  const std::vector<RatePosition> vocabulary = planner.VocabularyCandidates();
  // Scales, norms and header: what the smallest plan has beside its codes.
  const uint64_t fixed = planner.Build(planner.lowest(), vocabulary.front()).bytes -
                         planner.CodeBytes(planner.lowest(), vocabulary.front());
  double best_loss = INFINITY;
  RatePosition best = vocabulary.front();
  for (const RatePosition& candidate : vocabulary) {
    const double x = planner.LargestPositionOfCodes(budget - fixed, candidate);
    if (x < 0) break;  // no larger one fits either
    const double candidate_loss =
        loss ? loss(planner.Matrices(x, candidate)) : UniformPlanner::Loss(x, candidate);
    if (candidate_loss < best_loss) {
      best_loss = candidate_loss;
      best = candidate;
    }
  }
  double x = planner.LargestPosition(budget, best);
  if (x < 0) {  // by a few digits
    best = vocabulary.front();
    x = planner.LargestPosition(budget, best);
  }
  TQ_CHECK(x >= 0);  // TargetBytes allows nothing smaller than the smallest plan
  return planner.Build(x, best);
}

bool IsWidth(Method method, double bits) {
  if (method == Method::kTernary) return bits == kTernaryRate;
  return bits >= 2 && bits <= 8 && bits == std::floor(bits);
}

Status CheckScalarOptions(const QuantizeOptions& options) {
  const std::string_view method = NameOf(options.method);
  if (options.budget_bytes > 0 || options.memory_bytes > 0) {
    return InvalidArgument("memory: {} has one width of code; give its bits", method);
  }
  if (NeedsHessian(options.method) && options.no_hessian) {
    return InvalidArgument("{}: rounds with Hessians; it cannot do without", method);
  }
  for (const auto& [on, name] : {std::pair{options.v1, "v1"},
                                 {options.no_rotation, "no rotation"},
                                 {options.hessian_without_scales, "Hessian without scales"}}) {
    if (on) return InvalidArgument("{}: is of the method trellis, not {}", name, method);
  }
  return OkStatus();
}

StatusOr<ModelPlan> PlanScalar(const ModelOutline& outline, const QuantizeOptions& options) {
  const double bits = options.bits;
  TQ_RETURN_IF_ERROR(CheckWidth(options));
  const uint32_t size = options.group_size;
  if (size != 0 && size != 32 && size != 64 && size != 128) {
    return InvalidArgument("group size: {} must be 32, 64 or 128, or 0 for whole rows", size);
  }
  std::vector<PlannedMatrix> matrices = outline.matrices;
  for (PlannedMatrix& m : matrices) {
    if (m.vocabulary) {
      const double rate = m.fixed_rate > 0 ? m.fixed_rate : bits;
      m.segments =
          SplitRows(m.rows, PositionOfRate(rate), 0.5, HigherRowsOf(m), VariantOf(options));
      continue;
    }
    if (m.fixed_rate > 0) {
      return InvalidArgument(
          "override: {} is of the decoder, which has codes of one width with the method {}; only "
          "embedding and head have rates of their own",
          m.name, NameOf(options.method));
    }
    if (options.method == Method::kAwq && ExpertOf(m.name)) {
      return Unimplemented(
          "method awq: {} is of an expert; scales for models with experts are not implemented, "
          "gptq is",
          m.name);
    }
    m.method = options.method;
    m.layout = LayoutOf(options, m);
    TQ_RETURN_IF_ERROR(CheckGroupedLayout(m.layout).WithContext(m.name));
  }
  ModelPlan plan = FinishPlan(outline, std::move(matrices));
  plan.method = options.method;
  plan.decoder_rate = bits;
  return plan;
}

}  // namespace tq
