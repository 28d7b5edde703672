#include "compress/assign_rates.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/checked.h"
#include "compress/allocate.h"

namespace tq {
namespace {

constexpr int kMaxRounds = 8;

// Up to this many bits per weight rates by Hessians alone compete with those by KL: among so much
// noise they are sometimes the better ones (docs/allocation.md).
constexpr double kHessianPlanBits = 1.5;

// What an item of the table may become: one choice per rate, and the segments of each.
struct Candidate {
  AllocationItem item;
  std::vector<std::vector<Segment>> segments;  // by choice; rows count from the item's first
  size_t matrix = 0;                           // of the outline
};

// Matrices by name: models with experts have tens of thousands.
std::map<std::string_view, const PlannedMatrix*> ByName(std::span<const PlannedMatrix> matrices) {
  std::map<std::string_view, const PlannedMatrix*> by_name;
  for (const PlannedMatrix& m : matrices) by_name.emplace(m.name, &m);
  return by_name;
}

double ErrorOf(const trellis::Code& code) {
  return ExpectedError(PositionOfRate(code.rate()), HigherRows::kLast);
}

// Expected error of segments, over the rows that lie in [begin, end).
double MeanError(const std::vector<Segment>& segments, uint64_t begin, uint64_t end) {
  double sum = 0;
  for (const Segment& s : segments) {
    const uint64_t from = std::max(begin, s.row_begin), to = std::min(end, s.row_end);
    if (from < to) sum += ErrorOf(s.code) * static_cast<double>(to - from);
  }
  return sum / static_cast<double>(end - begin);
}

StatusOr<Candidate> MakeCandidate(const SensitivityItem& item, double weight,
                                  const PlannedMatrix& m, const QuantizeOptions& options) {
  Candidate candidate;
  candidate.item.name = item.matrix;
  const uint64_t rows = item.row_end - item.row_begin;
  std::vector<double> rates(AllocationRates().begin(), AllocationRates().end());
  if (m.fixed_rate > 0) rates = {m.fixed_rate};
  for (const double rate : rates) {
    if (m.fixed_rate == 0 && (rate < options.min_bits || rate > options.max_bits)) continue;
    const RatePosition position = PositionOfRate(rate);
    // A slice has one code: splits would exceed the segments that a matrix may have.
    if (m.vocabulary && position.fraction > 0 && m.fixed_rate == 0) continue;
    std::vector<Segment> segments =
        SplitRows(rows, position, 0.5, HigherRows::kLast, VariantOf(options));
    const uint64_t bytes = BytesOfSegments(segments, m.cols);
    // A small matrix may have no rows to split.
    if (!candidate.item.choices.empty() && bytes <= candidate.item.choices.back().bytes) continue;
    candidate.item.choices.push_back(
        {rate, bytes, weight * item.Loss(MeanError(segments, 0, rows))});
    candidate.segments.push_back(std::move(segments));
  }
  if (candidate.item.choices.empty()) {
    return InvalidArgument("{}: no rate in [{}, {}] bits", item.matrix, options.min_bits,
                           options.max_bits);
  }
  return candidate;
}

// Adds segments to those of a matrix from `row` on; neighbours with the same code become one.
void AppendSegments(const std::vector<Segment>& from, uint64_t row, std::vector<Segment>& to) {
  for (Segment segment : from) {
    segment.row_begin += row;
    segment.row_end += row;
    if (!to.empty() && to.back().code == segment.code) {
      to.back().row_end = segment.row_end;
    } else {
      to.push_back(segment);
    }
  }
}

}  // namespace

StatusOr<PredictedPlan> PlanAllocated(const ModelOutline& outline, const QuantizeOptions& options,
                                      const SensitivityTable& table, uint64_t budget) {
  std::vector<Candidate> candidates;
  std::vector<AllocationItem> items;
  const std::vector<double> weights = table.AllocationWeights(outline.BitsPerWeight(budget));
  const auto by_name = ByName(outline.matrices);
  for (size_t i = 0; i < table.items.size(); ++i) {
    // The table was checked against the outline.
    const PlannedMatrix* m = by_name.at(table.items[i].matrix);
    TQ_ASSIGN_OR_RETURN(Candidate candidate,
                        MakeCandidate(table.items[i], weights[i], *m, options));
    candidate.matrix = static_cast<size_t>(m - outline.matrices.data());
    items.push_back(candidate.item);
    candidates.push_back(std::move(candidate));
  }
  const auto build = [&](const Allocation& allocation) {
    std::vector<PlannedMatrix> matrices = outline.matrices;
    for (size_t i = 0; i < candidates.size(); ++i) {
      PlannedMatrix& m = matrices[candidates[i].matrix];
      if (m.vocabulary && m.fixed_rate > 0) {
        m.segments = SplitRows(m.rows, PositionOfRate(m.fixed_rate), 0.5, HigherRows::kFirst,
                               VariantOf(options));
        continue;
      }
      AppendSegments(candidates[i].segments[allocation.choice[i]], table.items[i].row_begin,
                     m.segments);
    }
    return FinishPlan(outline, std::move(matrices));
  };
  Allocation smallest;
  smallest.choice.resize(items.size(), 0);
  ModelPlan plan = build(smallest);
  if (plan.bytes > budget) {
    return ResourceExhausted("budget: {} bytes is too few; the smallest possible is {}", budget,
                             plan.bytes);
  }
  // Scales, norms and header: what the largest plan has beside its items. The header's length
  // changes by a few digits, and merged segments save entries: hence the rounds.
  TQ_ASSIGN_OR_RETURN(const Allocation largest, Allocate(items, UINT64_MAX >> 1));
  const uint64_t largest_bytes = build(largest).bytes;
  uint64_t fixed = largest_bytes > largest.bytes ? largest_bytes - largest.bytes : 0;
  for (int round = 0; round < kMaxRounds && fixed <= budget; ++round) {
    const StatusOr<Allocation> allocation = Allocate(items, budget - fixed);
    if (!allocation.ok()) {
      if (allocation.status().code() != StatusCode::kResourceExhausted) return allocation.status();
      break;  // by a few digits: only the smallest plan fits
    }
    ModelPlan filled = build(*allocation);
    if (filled.bytes <= budget) {
      plan = std::move(filled);
      break;
    }
    fixed += filled.bytes - budget;
  }
  const double loss = PredictLoss(table, plan.matrices);
  return PredictedPlan{std::move(plan), loss};
}

StatusOr<ModelPlan> PlanUniform(const ModelOutline& outline, const QuantizeOptions& options,
                                const SensitivityTable& table) {
  return PlanUniform(outline, options,
                     [&](std::span<const PlannedMatrix> m) { return PredictLoss(table, m); });
}

std::string_view NameOf(PlanKind kind) {
  switch (kind) {
    case PlanKind::kScalar:
      return "one width";
    case PlanKind::kUniform:
      return "uniform";
    case PlanKind::kAllocated:
      return "allocated";
    case PlanKind::kByHessians:
      return "by-hessians";
  }
  return "";
}

std::vector<PlanKind> PlansToCompare(const ModelOutline& outline, const QuantizeOptions& options,
                                     SensitivityMeasure measure, uint64_t budget) {
  if (IsScalar(options.method)) return {PlanKind::kScalar};
  if (measure == SensitivityMeasure::kNone) return {PlanKind::kUniform};
  if (!options.verify) return {PlanKind::kAllocated};
  if (measure == SensitivityMeasure::kKl && outline.BitsPerWeight(budget) <= kHessianPlanBits) {
    return {PlanKind::kAllocated, PlanKind::kByHessians, PlanKind::kUniform};
  }
  return {PlanKind::kAllocated, PlanKind::kUniform};
}

double PredictLoss(const SensitivityTable& table, const PlannedMatrix& matrix) {
  double loss = 0;
  for (const SensitivityItem& item : table.items) {
    if (item.matrix != matrix.name) continue;
    loss += item.Loss(MeanError(matrix.segments, item.row_begin, item.row_end));
  }
  return loss;
}

double PredictLoss(const SensitivityTable& table, std::span<const PlannedMatrix> matrices) {
  const auto by_name = ByName(matrices);
  double loss = 0;
  for (size_t i = 0; i < table.items.size();) {
    const std::string& name = table.items[i].matrix;  // whose items follow one another
    const auto found = by_name.find(name);
    double of_matrix = 0;
    for (; i < table.items.size() && table.items[i].matrix == name; ++i) {
      const SensitivityItem& item = table.items[i];
      if (found == by_name.end()) continue;
      of_matrix += item.Loss(MeanError(found->second->segments, item.row_begin, item.row_end));
    }
    loss += of_matrix;
  }
  return loss;
}

}  // namespace tq
