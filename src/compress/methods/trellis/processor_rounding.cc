// Rounding on the processor's threads: rows do not depend on each other, so any cut of them gives
// the same codes.
#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "codec/trellis_encoder.h"
#include "compress/feedback.h"
#include "compress/methods/trellis/rounding.h"

namespace tq {
namespace {

// Encodes the column blocks of some rows.
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

  void operator()(uint64_t column_block, const float* target, float* decoded) {
    const uint64_t n = rows_ * encoder_.shape().columns;
    const float inverse = 1 / scale_;
    for (uint64_t i = 0; i < n; ++i) values_[i] = target[i] * inverse;
    std::fill(values_.begin() + static_cast<ptrdiff_t>(n), values_.end(), 0.0f);
    encoder_.Encode(values_.data(), tiles_down_, scratch_, bytes_.data(), values_.data());
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
};

class OnProcessor final : public Rounding {
 public:
  OnProcessor(const HessianFactor* factor, uint64_t cols, Executor& executor)
      : factor_(factor), cols_(cols), executor_(executor) {}

  StatusOr<std::vector<RoundingLoss>> Round(const RowRuns& runs) override {
    TQ_ASSIGN_OR_RETURN(const TrellisEncoder encoder, TrellisEncoder::Create(runs.code));
    std::vector<TrellisEncoder::Scratch> scratches;
    for (size_t i = 0; i < executor_.threads(); ++i) {
      TQ_ASSIGN_OR_RETURN(auto scratch, encoder.MakeScratch());
      scratches.push_back(std::move(scratch));
    }
    const trellis::TileShape shape = encoder.shape();
    const Feedback feedback(factor_, cols_, shape.columns);
    const uint64_t tiles = CeilDiv<uint64_t>(runs.rows, shape.rows);  // down a run
    const uint64_t row_bytes = CeilDiv<uint64_t>(cols_, shape.columns) * shape.bytes();
    const uint64_t num_runs = runs.scales.size();
    // Losses that are compared are of whole runs: a sum in pieces would depend on the threads.
    const uint64_t per_piece =
        runs.codes == nullptr
            ? tiles
            : std::clamp<uint64_t>(tiles / executor_.threads(), 1, encoder.batch());
    const uint64_t pieces = CeilDiv(tiles, per_piece);
    std::vector<RoundingLoss> losses(num_runs * pieces);
    executor_.ParallelFor(losses.size(), 1, [&](size_t begin, size_t end, size_t worker) {
      for (size_t item = begin; item < end; ++item) {
        const uint64_t run = item / pieces, tile = item % pieces * per_piece;
        const uint64_t row = tile * shape.rows;
        const uint64_t count = std::min(runs.rows - row, per_piece * shape.rows);
        std::vector<float> copy;
        float* w = runs.w + (run * runs.rows + row) * cols_;
        uint8_t* codes = nullptr;
        if (runs.codes == nullptr) {
          copy.assign(runs.w, runs.w + count * cols_);
          w = copy.data();
        } else {
          codes = runs.codes + (run * tiles + tile) * row_bytes;
          losses[item].norm = feedback.Norm(w, count);
        }
        RowEncoder rounder(encoder, scratches[worker], count, cols_, runs.scales[run], codes);
        losses[item].loss = feedback.Round(w, count, std::ref(rounder));
      }
    });
    std::vector<RoundingLoss> sums(num_runs);
    for (size_t item = 0; item < losses.size(); ++item) {
      sums[item / pieces].loss += losses[item].loss;
      sums[item / pieces].norm += losses[item].norm;
    }
    return sums;
  }

 private:
  const HessianFactor* factor_;
  uint64_t cols_;
  Executor& executor_;
};

class Processor final : public RoundingDevice {
 public:
  const std::string& name() const override { return name_; }
  bool Has(trellis::Code) const override { return true; }
  StatusOr<std::unique_ptr<Rounding>> Start(const HessianFactor* factor, uint64_t cols,
                                            Executor& executor) const override {
    return std::unique_ptr<Rounding>(std::make_unique<OnProcessor>(factor, cols, executor));
  }

 private:
  std::string name_ = "cpu";
};

}  // namespace

const RoundingDevice& ProcessorRounding() {
  static const Processor kProcessor;
  return kProcessor;
}

}  // namespace tq
