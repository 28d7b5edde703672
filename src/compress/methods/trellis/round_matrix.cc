#include "compress/methods/trellis/round_matrix.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/checked.h"
#include "codec/trellis_encoder.h"

namespace tq {
namespace {

// Rows of a segment on which the scale is searched.
constexpr uint64_t kSampleRows = 64;
// Candidates: BestScale times kScaleStep^i. Feedback adds power to the targets, so more of
// them lie above.
constexpr double kScaleStep = 1.06;
constexpr int kLowestStep = -3, kHighestStep = 6;
// Bits of the state in the search: ten times faster, and by what factor feedback moves the best
// scale does not depend on them.
constexpr int kSearchStateBits = 12;

double Rms(const float* values, uint64_t n) {
  double sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += static_cast<double>(values[i]) * values[i];
  return std::sqrt(sum / static_cast<double>(n));
}

// Evenly spaced rows of w [rows, cols].
std::vector<float> SampleRows(const float* w, uint64_t rows, uint64_t cols) {
  const uint64_t count = std::min(kSampleRows, rows);
  std::vector<float> sample(count * cols);
  for (uint64_t i = 0; i < count; ++i) {
    std::copy_n(w + i * rows / count * cols, cols, sample.data() + i * cols);
  }
  return sample;
}

// The step at which a parabola through the least loss and its neighbours is least.
double BestStep(const std::vector<RoundingLoss>& losses) {
  const auto least = std::ranges::min_element(losses, {}, &RoundingLoss::loss) - losses.begin();
  const auto last = static_cast<ptrdiff_t>(losses.size()) - 1;
  double shift = 0;
  if (least > 0 && least < last) {
    const double below = losses[least - 1].loss, at = losses[least].loss;
    const double above = losses[least + 1].loss;
    const double curvature = below - 2 * at + above;
    if (curvature > 0) shift = std::clamp(0.5 * (below - above) / curvature, -0.5, 0.5);
  }
  return kLowestStep + static_cast<double>(least) + shift;
}

// The scale of a segment, w [rows, cols], that loses least on a sample of its rows.
StatusOr<float> SearchScale(trellis::Code code, const float* w, uint64_t rows, uint64_t cols,
                            Rounding& rounding) {
  constexpr size_t kCandidates = kHighestStep - kLowestStep + 1;
  std::vector<float> sample = SampleRows(w, rows, cols);
  double rms = Rms(w, rows * cols);
  if (!(rms > 0)) rms = 1;  // zeros: any scale does
  const double unit = rms / trellis::kValueSigma;
  const double without_feedback = BestScale(code) * unit;
  code.state_bits = kSearchStateBits;
  const double start = BestScale(code) * unit;
  std::vector<float> scales;
  for (size_t i = 0; i < kCandidates; ++i) {
    const double step = kLowestStep + static_cast<double>(i);
    scales.push_back(static_cast<float>(start * std::pow(kScaleStep, step)));
  }
  TQ_ASSIGN_OR_RETURN(const std::vector<RoundingLoss> losses,
                      rounding.Round({code, sample.size() / cols, scales, sample.data(), nullptr}));
  return static_cast<float>(without_feedback * std::pow(kScaleStep, BestStep(losses)));
}

}  // namespace

StatusOr<RoundedMatrix> RoundMatrix(uint64_t rows, uint64_t cols,
                                    const std::vector<Segment>& segments,
                                    const HessianFactor* factor, float* w, Executor& executor,
                                    const RoundingDevice& device) {
  TQ_CHECK(!segments.empty() && segments.back().row_end == rows);
  RoundedMatrix result;
  result.segments = segments;
  uint64_t bytes = 0;
  for (Segment& segment : result.segments) {
    segment.byte_offset = bytes;
    bytes += SegmentBytes(segment, cols);
  }
  TQ_ASSIGN_OR_RETURN(result.codes, Tensor::Zeros(DType::kU8, {bytes}));
  std::unique_ptr<Rounding> on_device, on_processor;  // for all segments
  for (Segment& segment : result.segments) {
    const bool has = device.Has(segment.code);
    std::unique_ptr<Rounding>& rounding = has ? on_device : on_processor;
    if (rounding == nullptr) {
      const RoundingDevice& where = has ? device : ProcessorRounding();
      TQ_ASSIGN_OR_RETURN(rounding, where.Start(factor, cols, executor));
    }
    const uint64_t count = segment.row_end - segment.row_begin;
    float* part = w + segment.row_begin * cols;
    TQ_ASSIGN_OR_RETURN(segment.scale, SearchScale(segment.code, part, count, cols, *rounding));
    TQ_ASSIGN_OR_RETURN(const std::vector<RoundingLoss> losses,
                        rounding->Round({segment.code,
                                         count,
                                         {&segment.scale, 1},
                                         part,
                                         result.codes.mutable_data() + segment.byte_offset}));
    result.loss += losses[0].loss;
    result.norm += losses[0].norm;
  }
  return result;
}

}  // namespace tq
