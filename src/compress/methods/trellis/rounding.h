// Rounding rows to trellis codes with feedback, on the processor or on a device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/hessian.h"
#include "device/executor.h"
#include "kernels/trellis/trellis_code.h"

namespace tq {

// Runs of rows to round, each with a scale of its own.
struct RowRuns {
  trellis::Code code;
  uint64_t rows = 0;              // of a run
  std::span<const float> scales;  // [runs]
  float* w = nullptr;             // [runs, rows, cols]; becomes the error E = W' - What'
  // Of every run its rows of tiles, [tiles down, tiles across, bytes of a tile]. Null: only losses
  // are wanted, with each of the scales of the same rows; w [rows, cols] stays.
  uint8_t* codes = nullptr;
};

// Of a run.
struct RoundingLoss {
  double loss = 0;  // tr(E H E^T)
  double norm = 0;  // tr(W' H W'^T); 0 where only losses are wanted
};

// Matrices that share a Hessian.
class Rounding {
 public:
  virtual ~Rounding() = default;
  // A loss for each run.
  virtual StatusOr<std::vector<RoundingLoss>> Round(const RowRuns& runs) = 0;
};

// Where rows are rounded.
class RoundingDevice {
 public:
  virtual ~RoundingDevice() = default;

  virtual const std::string& name() const = 0;
  virtual bool Has(trellis::Code code) const = 0;
  // For rows of `cols` values. `factor` (null: no Hessian, the identity) and `executor` must
  // outlive what it gives.
  virtual StatusOr<std::unique_ptr<Rounding>> Start(const HessianFactor* factor, uint64_t cols,
                                                    Executor& executor) const = 0;
};

// The executor's threads; codes depend neither on their number nor on the instruction set.
const RoundingDevice& ProcessorRounding();
// The first CUDA device: the arithmetic of the processor but for products of more than 128 columns,
// whose sums round in another order. Codes of up to 5 bits per step whose costs fit into a thread
// block's memory (compute capability 8.0 and 9.0: all). Rows go there in pieces that fit into
// `memory_bytes` beside the factor; 0: into what is free; the pieces change no bit. An error that
// says so in builds without TQ_CUDA.
StatusOr<std::shared_ptr<const RoundingDevice>> MakeCudaRounding(uint64_t memory_bytes = 0);

}  // namespace tq
