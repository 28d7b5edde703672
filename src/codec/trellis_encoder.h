// Quantises tiles of values with a trellis code: a tail-biting Viterbi search per tile
// (kernels/viterbi), the codes packed as kernels/trellis/trellis_code.h lays down.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "kernels/isa.h"
#include "kernels/trellis/trellis_code.h"

namespace tq {

// Immutable once made, so threads may share one; what a call writes is in its Scratch.
// The codes depend on the values alone: not on the instruction set, nor on how tiles are
// spread over calls and threads.
class TrellisEncoder {
 public:
  // One thread's working memory, for use with the encoder that made it. At most 9 MiB at
  // L = 16 (batch() tiles of winning predecessors), 1 MiB at L = 12.
  class Scratch {
   public:
    size_t bytes() const { return bytes_; }

   private:
    friend class TrellisEncoder;
    std::shared_ptr<uint8_t> memory_;
    std::vector<int32_t> targets_;
    std::vector<uint16_t> states_;
    size_t bytes_ = 0;
  };

  // The encoder's table takes 0.25 (V = 1), 0.5 (V = 2) or 0.75 MiB (V = 4) at L = 16.
  static StatusOr<TrellisEncoder> Create(trellis::Code code);
  static StatusOr<TrellisEncoder> Create(trellis::Code code, Isa isa);

  trellis::Code code() const { return code_; }
  const trellis::TileShape& shape() const { return shape_; }
  // Tiles searched side by side; calls with a multiple of it are fastest.
  int batch() const { return batch_; }

  StatusOr<Scratch> MakeScratch() const;

  // tiles: [count, rows, columns] in units of decoded integers (W' / scale).
  // codes: [count, shape().bytes()].
  // decoded: what the codes decode to, [count, rows, columns], or null; may be `tiles`.
  // NaN counts as 0; values beyond 640 (V = 4: 1000) as that limit.
  void Encode(const float* tiles, size_t count, Scratch& scratch, uint8_t* codes,
              float* decoded) const;

 private:
  TrellisEncoder() = default;
  void EncodeBatch(const float* tiles, int count, Scratch& scratch, uint8_t* codes,
                   float* decoded) const;

  trellis::Code code_;
  trellis::TileShape shape_{};
  Isa isa_ = Isa::kReference;
  int batch_ = 1;
  std::shared_ptr<const int32_t> table_;
};

// Half the steps of the free search of a tile (viterbi::Args). Its length trades squared error for
// time: at 2 bits (V = 2, L = 16) 4, 6, 8, 10 and 16 state lengths on each side give .0717, .0715,
// .0713, .0711 and .0709, and 10 take a sixth less time than 16.
int SearchReach(trellis::Code code);

// The scale that makes the least squared error on a Gaussian source, in units of
// sigma / kValueSigma: W' of standard deviation sigma is best divided by
// scale = BestScale(code) * sigma / kValueSigma. Grows with the rate.
double BestScale(trellis::Code code);

}  // namespace tq
