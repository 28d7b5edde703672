#include "compress/methods/trellis/round_matrix.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/checked.h"
#include "codec/trellis_encoder.h"
#include "compress/feedback.h"

namespace tq {
namespace {

// Rows of a segment on which the scale is searched.
constexpr uint64_t kSampleRows = 64;
// Candidates: BestScale times kScaleStep^i. Feedback adds power to the targets, so more of
// them lie above.
constexpr double kScaleStep = 1.06;
constexpr int kLowestStep = -3, kHighestStep = 6;
// Tiles that a search elsewhere than on the processor should have at least.
constexpr uint64_t kSearchTiles = 128;
// Bits of the state in the search: ten times faster, and by what factor feedback moves the best
// scale does not depend on them.
constexpr int kSearchStateBits = 12;

// Encodes the column blocks of some rows of a segment.
class RowEncoder {
 public:
  // `codes`: of the rows' first tile, or null to decode only; tiles of a row follow each
  // other. Scratch is the calling thread's.
  RowEncoder(const TrellisEncoder& encoder, TrellisEncoder::Scratch& scratch, uint64_t rows,
             uint64_t cols, float scale, uint8_t* codes)
      : encoder_(encoder),
        scratch_(scratch),
        rows_(rows),
        tiles_down_(CeilDiv<uint64_t>(rows, encoder.shape().rows)),
        tiles_across_(CeilDiv<uint64_t>(cols, encoder.shape().columns)),
        scale_(scale),
        codes_(codes),
        values_(tiles_down_ * encoder.shape().values()),
        bytes_(tiles_down_ * encoder.shape().bytes()) {}

  // The first error of the search; blocks after it are left out.
  const Status& status() const { return status_; }

  void operator()(uint64_t column_block, const float* target, float* decoded) {
    if (!status_.ok()) return;
    const uint64_t n = rows_ * encoder_.shape().columns;
    const float inverse = 1 / scale_;
    for (uint64_t i = 0; i < n; ++i) values_[i] = target[i] * inverse;
    std::fill(values_.begin() + static_cast<ptrdiff_t>(n), values_.end(), 0.0f);
    status_ = encoder_.Encode(values_.data(), tiles_down_, scratch_, bytes_.data(), values_.data());
    if (!status_.ok()) return;
    for (uint64_t i = 0; i < n; ++i) decoded[i] = values_[i] * scale_;
    if (codes_ == nullptr) return;
    const uint64_t tile_bytes = encoder_.shape().bytes();
    for (uint64_t tile = 0; tile < tiles_down_; ++tile) {
      std::copy_n(bytes_.data() + tile * tile_bytes, tile_bytes,
                  codes_ + (tile * tiles_across_ + column_block) * tile_bytes);
    }
  }

 private:
  const TrellisEncoder& encoder_;
  TrellisEncoder::Scratch& scratch_;
  uint64_t rows_, tiles_down_, tiles_across_;
  float scale_;
  uint8_t* codes_;
  std::vector<float> values_;  // a stack of tiles
  std::vector<uint8_t> bytes_;
  Status status_;
};

StatusOr<std::vector<TrellisEncoder::Scratch>> MakeScratches(const TrellisEncoder& encoder,
                                                             size_t count) {
  std::vector<TrellisEncoder::Scratch> scratches;
  for (size_t i = 0; i < count; ++i) {
    TQ_ASSIGN_OR_RETURN(auto scratch, encoder.MakeScratch());
    scratches.push_back(std::move(scratch));
  }
  return scratches;
}

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
double BestStep(const std::vector<double>& losses) {
  const auto least = std::min_element(losses.begin(), losses.end()) - losses.begin();
  const auto last = static_cast<ptrdiff_t>(losses.size()) - 1;
  double shift = 0;
  if (least > 0 && least < last) {
    const double below = losses[least - 1], at = losses[least], above = losses[least + 1];
    const double curvature = below - 2 * at + above;
    if (curvature > 0) shift = std::clamp(0.5 * (below - above) / curvature, -0.5, 0.5);
  }
  return kLowestStep + static_cast<double>(least) + shift;
}

// The scale of a segment, w [rows, cols], that loses least on a sample of its rows.
StatusOr<float> SearchScale(trellis::Code code, const float* w, uint64_t rows, uint64_t cols,
                            const Feedback& feedback, Executor& executor) {
  const std::vector<float> sample = SampleRows(w, rows, cols);
  const uint64_t count = sample.size() / cols;
  double rms = Rms(w, rows * cols);
  if (!(rms > 0)) rms = 1;  // zeros: any scale does
  const double unit = rms / trellis::kValueSigma;
  const double without_feedback = BestScale(code) * unit;
  code.state_bits = kSearchStateBits;
  const double start = BestScale(code) * unit;
  TQ_ASSIGN_OR_RETURN(const TrellisEncoder encoder, TrellisEncoder::Create(code));
  TQ_ASSIGN_OR_RETURN(auto scratches, MakeScratches(encoder, executor.threads()));
  std::vector<double> losses(kHighestStep - kLowestStep + 1);
  executor.ParallelFor(losses.size(), 1, [&](size_t begin, size_t end, size_t worker) {
    for (size_t i = begin; i < end; ++i) {
      const double scale = start * std::pow(kScaleStep, kLowestStep + static_cast<double>(i));
      std::vector<float> error = sample;
      RowEncoder rounder(encoder, scratches[worker], count, cols, static_cast<float>(scale),
                         nullptr);
      losses[i] = feedback.Round(error.data(), count, std::ref(rounder));
    }
  });
  return static_cast<float>(without_feedback * std::pow(kScaleStep, BestStep(losses)));
}

// Encodes a segment, w [rows of it, cols], into `codes` (of its first tile).
Status EncodeSegment(const Segment& segment, uint64_t cols, const Feedback& feedback,
                     const std::shared_ptr<const PathSearch>& search, float* w, uint8_t* codes,
                     Executor& executor, RoundedMatrix& result) {
  TQ_ASSIGN_OR_RETURN(const TrellisEncoder encoder, TrellisEncoder::Create(segment.code, search));
  TQ_ASSIGN_OR_RETURN(auto scratches, MakeScratches(encoder, executor.threads()));
  const uint64_t rows = segment.row_end - segment.row_begin;
  const uint64_t tile_rows = encoder.shape().rows;
  const uint64_t tiles = CeilDiv(rows, tile_rows);
  // Rows do not depend on each other: any cut gives the same codes.
  // Another search than the processor's wants many tiles at once, but feedback to run beside it.
  const uint64_t least =
      search == nullptr ? 1 : std::min<uint64_t>(CeilDiv<uint64_t>(tiles, 2), kSearchTiles);
  const uint64_t per_item =
      std::clamp<uint64_t>(std::max(tiles / executor.threads(), least), 1, encoder.batch());
  const uint64_t row_bytes =
      TileColumns(segment.code, cols) * static_cast<uint64_t>(encoder.shape().bytes());
  std::vector<double> losses(CeilDiv(tiles, per_item)), norms(losses.size());
  std::vector<Status> statuses(losses.size());
  executor.ParallelFor(losses.size(), 1, [&](size_t begin, size_t end, size_t worker) {
    for (size_t item = begin; item < end; ++item) {
      const uint64_t tile = item * per_item;
      const uint64_t row = tile * tile_rows;
      const uint64_t count = std::min(rows - row, per_item * tile_rows);
      float* chunk = w + row * cols;
      norms[item] = feedback.Norm(chunk, count);
      RowEncoder rounder(encoder, scratches[worker], count, cols, segment.scale,
                         codes + tile * row_bytes);
      losses[item] = feedback.Round(chunk, count, std::ref(rounder));
      statuses[item] = rounder.status();
    }
  });
  for (const Status& status : statuses) TQ_RETURN_IF_ERROR(status);
  for (size_t item = 0; item < losses.size(); ++item) {
    result.loss += losses[item];
    result.norm += norms[item];
  }
  return OkStatus();
}

}  // namespace

StatusOr<RoundedMatrix> RoundMatrix(uint64_t rows, uint64_t cols,
                                    const std::vector<Segment>& segments,
                                    const HessianFactor* factor, float* w, Executor& executor,
                                    std::shared_ptr<const PathSearch> search) {
  TQ_CHECK(!segments.empty() && segments.back().row_end == rows);
  RoundedMatrix result;
  result.segments = segments;
  uint64_t bytes = 0;
  for (Segment& segment : result.segments) {
    segment.byte_offset = bytes;
    bytes += SegmentBytes(segment, cols);
  }
  TQ_ASSIGN_OR_RETURN(result.codes, Tensor::Zeros(DType::kU8, {bytes}));
  for (Segment& segment : result.segments) {
    const Feedback feedback(factor, cols, trellis::ShapeOf(segment.code).columns);
    float* part = w + segment.row_begin * cols;
    TQ_ASSIGN_OR_RETURN(segment.scale,
                        SearchScale(segment.code, part, segment.row_end - segment.row_begin, cols,
                                    feedback, executor));
    TQ_RETURN_IF_ERROR(EncodeSegment(segment, cols, feedback, search, part,
                                     result.codes.mutable_data() + segment.byte_offset, executor,
                                     result));
  }
  return result;
}

}  // namespace tq
