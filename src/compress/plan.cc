#include "compress/plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "base/checked.h"
#include "checkpoint/packed_model.h"
#include "checkpoint/safetensors.h"

namespace tq {
namespace {

using trellis::Code;

// How much a relative error of embedding and head weighs in the KL against the same error
// of the decoder. It does not grow with the vocabulary: a token meets its own row. Measured at
// 2.0 bits, L = 12, KL with embeddings of 1.56 / 1.69 / 2.06 / 2.63 bits: SmolLM2-135M
// 1.308 / 1.264 / 1.360 / 1.630; with 1.63 / 2.06 bits: llama-30m .450 / .411.
constexpr double kVocabularyShare = 0.3;

// Byte-pair vocabularies are in the order of their merges: frequent tokens first. The first
// share f of the rows carries about f^kFrequencyPower of the loss. llama-30m at 2.0 bits,
// KL .451 with 2.5 bits for all rows, .429 with 3 for the first half and 2 for the rest
// (the same bytes); .443 with 3 for the first quarter, .449 with 4 for an eighth.
constexpr double kFrequencyPower = 0.25;
// Shares of the vocabulary that are considered for the higher rate: eighths.
constexpr int kVocabularySteps = 8;

// Relative squared error of the native codes on Gaussian values, in the order of
// trellis::kNativeCodes (up to 4 bits the design's: 256-value tail-biting streams, best scale;
// above, bench_codec).
constexpr double kCodeError[] = {.526,  .379,  .269,   .138,    .0711,   .0368,
                                 .0174, .0045, .00114, .000301, .0000212};
constexpr size_t kNumCodes = std::size(kCodeError);
static_assert(kNumCodes == std::size(trellis::kNativeCodes));

Code NativeCode(size_t index, const QuantizeOptions& options) {
  Code code = trellis::kNativeCodes[index];
  if (options.v1 && code == Code{2, 4}) code = {1, 2};
  if (options.fast) code.state_bits = 12;
  return code;
}

// A rate: code `index`, and `index` + 1 for a share `fraction` of the rows.
struct RatePosition {
  size_t index = 0;
  double fraction = 0;
};

RatePosition PositionAt(double x) {
  const size_t index = std::min(static_cast<size_t>(x), kNumCodes - 1);
  return {index, index + 1 < kNumCodes ? x - static_cast<double>(index) : 0.0};
}

// The position of a rate in [0.5, 8].
RatePosition PositionOfRate(double rate) {
  size_t index = 0;
  while (index + 1 < kNumCodes && trellis::kNativeCodes[index + 1].rate() <= rate) ++index;
  if (index + 1 == kNumCodes) return {index, 0};
  const double low = trellis::kNativeCodes[index].rate();
  return {index, (rate - low) / (trellis::kNativeCodes[index + 1].rate() - low)};
}

// The last coordinate below gives each matrix its own rounding of the split row, so that
// rates of the whole model can be met to a few rows (golden-ratio sequence).
double RoundingPhase(size_t matrix) {
  const double golden = 0.6180339887498949 * static_cast<double>(matrix + 1);
  return golden - std::floor(golden);
}

// Which rows get the higher rate: the last, or (a vocabulary's frequent tokens) the first.
enum class HigherRows { kLast, kFirst };

std::vector<Segment> SplitRows(uint64_t rows, RatePosition position, double phase,
                               HigherRows higher, const QuantizeOptions& options) {
  const uint64_t units = CeilDiv(rows, kSegmentRowMultiple);
  uint64_t high = 0;
  if (position.fraction > 0) {
    high = std::min(units,
                    static_cast<uint64_t>(position.fraction * static_cast<double>(units) + phase));
  }
  const bool first = higher == HigherRows::kFirst;
  const uint64_t split = std::min(rows, (first ? high : units - high) * kSegmentRowMultiple);
  std::vector<Segment> segments;
  const auto add = [&](uint64_t begin, uint64_t end, size_t index) {
    if (begin == end) return;
    Segment segment;
    segment.row_begin = begin;
    segment.row_end = end;
    segment.code = NativeCode(index, options);
    segments.push_back(segment);
  };
  add(0, split, position.index + (first ? 1 : 0));
  add(split, rows, position.index + (first ? 0 : 1));
  return segments;
}

// Bits per weight of the codes of segments.
double CodeBits(const PlannedMatrix& m) {
  double bits = 0;
  for (const Segment& s : m.segments) {
    bits += s.code.rate() * static_cast<double>((s.row_end - s.row_begin) * m.cols);
  }
  return bits;
}

// Relative squared error of a position; `share`: of the loss, that falls to the higher code.
double PositionError(RatePosition p, double share) {
  return p.fraction > 0 ? (1 - share) * kCodeError[p.index] + share * kCodeError[p.index + 1]
                        : kCodeError[p.index];
}

// All matrices of the model, in the order of work, without rates.
std::vector<PlannedMatrix> ListMatrices(const ModelConfig& c) {
  std::vector<PlannedMatrix> matrices;
  const auto add = [&](std::string name, uint64_t rows, uint64_t cols, bool vocabulary) {
    PlannedMatrix m;
    m.group = GroupName(name);
    m.name = std::move(name);
    m.rows = rows;
    m.cols = cols;
    m.vocabulary = vocabulary;
    matrices.push_back(std::move(m));
  };
  for (uint32_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    add(prefix + "self_attn.q_proj", c.q_size(), c.hidden_size, false);
    add(prefix + "self_attn.k_proj", c.kv_size(), c.hidden_size, false);
    add(prefix + "self_attn.v_proj", c.kv_size(), c.hidden_size, false);
    add(prefix + "self_attn.o_proj", c.hidden_size, c.q_size(), false);
    add(prefix + "mlp.gate_proj", c.intermediate_size, c.hidden_size, false);
    add(prefix + "mlp.up_proj", c.intermediate_size, c.hidden_size, false);
    add(prefix + "mlp.down_proj", c.hidden_size, c.intermediate_size, false);
  }
  if (!c.tie_embeddings) add("lm_head", c.vocab_size, c.hidden_size, true);
  add("model.embed_tokens", c.vocab_size, c.hidden_size, true);
  return matrices;
}

Status FixRates(const QuantizeOptions& options, std::vector<PlannedMatrix>& matrices) {
  if (options.overrides.empty()) return OkStatus();
  if (options.method != Method::kTrellis) {
    return InvalidArgument("override: only trellis codes have a rate for each matrix");
  }
  std::vector<std::string> names;
  for (const PlannedMatrix& m : matrices) names.push_back(m.name);
  TQ_ASSIGN_OR_RETURN(const std::vector<double> rates,
                      ApplyOverrides(options.overrides, names, trellis::kNativeCodes[0].rate(),
                                     trellis::kNativeCodes[kNumCodes - 1].rate()));
  for (size_t i = 0; i < matrices.size(); ++i) matrices[i].fixed_rate = rates[i];
  return OkStatus();
}

// The plain tensors of the source (norms): everything that is no matrix.
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
  if (m.rtn_bits > 0) {
    const uint64_t groups_per_row = CeilDiv<uint64_t>(m.cols, kRtnGroupSize);
    specs.push_back(
        {m.name + ".codes", DType::kU8, {m.rows, CeilDiv<uint64_t>(m.cols * m.rtn_bits, 8)}});
    specs.push_back({m.name + ".scale", DType::kF16, {m.rows, groups_per_row}});
    specs.push_back({m.name + ".zero", DType::kF16, {m.rows, groups_per_row}});
    specs.push_back({m.name + ".layout", DType::kI32, {6}});
    return;
  }
  uint64_t bytes = 0;
  for (const Segment& segment : m.segments) bytes += SegmentBytes(segment, m.cols);
  specs.push_back({m.name + ".codes", DType::kU8, {bytes}});
  specs.push_back({m.name + ".out_scale", DType::kF16, {m.rows}});
  specs.push_back({m.name + ".layout", DType::kI32, {8 + 4 * m.segments.size()}});
  if (groups.insert(m.group).second) {
    specs.push_back({m.group + ".in_scale", DType::kF16, {m.cols}});
  }
}

// Sizes of the plan with given rates.
class Planner {
 public:
  Planner(const QuantizeOptions& options, std::vector<PlannedMatrix> matrices,
          std::vector<OutputSpec> plain, uint64_t parameters)
      : options_(options),
        matrices_(std::move(matrices)),
        plain_(std::move(plain)),
        parameters_(parameters) {}

  // Trellis, or with rtn_bits > 0 round to nearest.
  ModelPlan Build(double decoder_x, RatePosition vocabulary, uint32_t rtn_bits) const {
    ModelPlan plan;
    plan.matrices = matrices_;
    std::set<std::string> groups;
    double bits[2] = {0, 0}, weights[2] = {0, 0};  // of decoder, of vocabulary
    for (size_t i = 0; i < plan.matrices.size(); ++i) {
      PlannedMatrix& m = plan.matrices[i];
      m.rtn_bits = rtn_bits;
      if (rtn_bits == 0) {
        RatePosition position = m.vocabulary ? vocabulary : PositionAt(decoder_x);
        if (m.fixed_rate > 0) position = PositionOfRate(m.fixed_rate);
        m.segments = m.vocabulary
                         ? SplitRows(m.rows, position, 0.5, HigherRows::kFirst, options_)
                         : SplitRows(m.rows, position, m.fixed_rate > 0 ? 0.5 : RoundingPhase(i),
                                     HigherRows::kLast, options_);
      }
      AppendSpecs(m, groups, plan.tensors);
      bits[m.vocabulary] += CodeBits(m);
      weights[m.vocabulary] += static_cast<double>(m.rows * m.cols);
    }
    plan.tensors.insert(plan.tensors.end(), plain_.begin(), plain_.end());
    // As checkpoint writes them: codes first.
    std::stable_partition(plan.tensors.begin(), plan.tensors.end(),
                          [](const OutputSpec& t) { return t.name.ends_with(".codes"); });
    plan.decoder_rate = rtn_bits > 0 ? rtn_bits : bits[0] / weights[0];
    plan.embedding_rate = rtn_bits > 0 ? rtn_bits : bits[1] / weights[1];
    plan.bytes = SafetensorsFileBytes(plan.tensors);
    plan.parameters = parameters_;
    plan.bits_per_weight = 8.0 * static_cast<double>(plan.bytes) / static_cast<double>(parameters_);
    return plan;
  }

  // The largest decoder position whose plan has at most `bits`; negative if none.
  double LargestPosition(double bits, RatePosition vocabulary) const {
    const auto fits = [&](double x) { return Build(x, vocabulary, 0).bits_per_weight <= bits; };
    double low = 0, high = static_cast<double>(kNumCodes - 1);
    if (!fits(low)) return -1;
    if (fits(high)) return high;
    // Splits move in steps of 1/units of a matrix: 2^-16 is finer than any that matters.
    while (high - low > 0x1p-16) {
      const double middle = (low + high) / 2;
      (fits(middle) ? low : high) = middle;
    }
    return low;
  }

  // Predicted loss of the rates, up to a factor.
  static double Loss(double decoder_x, RatePosition vocabulary) {
    const RatePosition p = PositionAt(decoder_x);
    return PositionError(p, p.fraction) +
           kVocabularyShare *
               PositionError(vocabulary, std::pow(vocabulary.fraction, kFrequencyPower));
  }

 private:
  const QuantizeOptions& options_;
  std::vector<PlannedMatrix> matrices_;
  std::vector<OutputSpec> plain_;
  uint64_t parameters_;
};

// The rates of embedding and head that are tried.
std::vector<RatePosition> VocabularyCandidates() {
  std::vector<RatePosition> candidates;
  for (size_t code = 0; code < kNumCodes; ++code) {
    for (int step = 0; step < kVocabularySteps; ++step) {
      if (step > 0 && code + 1 == kNumCodes) continue;
      candidates.push_back({code, static_cast<double>(step) / kVocabularySteps});
    }
  }
  return candidates;
}

StatusOr<ModelPlan> PlanTrellis(const Planner& planner, const QuantizeOptions& options) {
  const std::vector<RatePosition> candidates = VocabularyCandidates();
  double best_loss = INFINITY, best_x = -1;
  RatePosition best;
  for (const RatePosition& vocabulary : candidates) {
    const double x = planner.LargestPosition(options.bits, vocabulary);
    if (x < 0) continue;
    const double loss = Planner::Loss(x, vocabulary);
    if (loss < best_loss) {
      best_loss = loss;
      best_x = x;
      best = vocabulary;
    }
  }
  if (best_x < 0) {
    return InvalidArgument("bits: {} is too few for this model; the smallest possible is {:.3f}",
                           options.bits, planner.Build(0, candidates.front(), 0).bits_per_weight);
  }
  const ModelPlan largest = planner.Build(static_cast<double>(kNumCodes - 1), candidates.back(), 0);
  if (options.bits > largest.bits_per_weight + 0.05) {
    return InvalidArgument(
        "bits: {} is more than trellis codes give; the largest possible is {:.3f}", options.bits,
        largest.bits_per_weight);
  }
  return planner.Build(best_x, best, 0);
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

StatusOr<ModelPlan> MakePlan(const ModelSource& source, const QuantizeOptions& options) {
  std::vector<PlannedMatrix> matrices = ListMatrices(source.config());
  TQ_RETURN_IF_ERROR(FixRates(options, matrices));
  TQ_ASSIGN_OR_RETURN(std::vector<OutputSpec> plain, PlainTensors(source, matrices));
  const Planner planner(options, std::move(matrices), std::move(plain), source.num_parameters());
  if (options.method == Method::kTrellis) return PlanTrellis(planner, options);
  const double bits = options.bits;
  if (!(bits >= 2 && bits <= 8) || bits != std::floor(bits)) {
    return InvalidArgument("bits: rtn needs a whole number from 2 to 8, not {}", bits);
  }
  return planner.Build(0, RatePosition{}, static_cast<uint32_t>(bits));
}

}  // namespace tq
