// Viterbi searches of the encoder elsewhere than on the processor, with the same paths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "kernels/trellis/trellis_code.h"

namespace tq {

// Threads may share one.
class PathSearch {
 public:
  // One thread's searches.
  class Lane {
   public:
    virtual ~Lane() = default;
    // As viterbi::Args: targets [tiles, steps, words] to states [tiles, steps].
    virtual Status FindPaths(trellis::Code code, int steps, int reach, const int32_t* targets,
                             size_t tiles, uint16_t* states) = 0;
  };
  virtual ~PathSearch() = default;

  virtual bool Has(trellis::Code code, int steps) const = 0;
  virtual StatusOr<std::unique_ptr<Lane>> NewLane() const = 0;
  // Tiles of a call, at most: as many as keep it busy.
  virtual size_t batch() const = 0;
};

// On the first CUDA device; an error that says so in builds without TQ_CUDA.
StatusOr<std::shared_ptr<const PathSearch>> MakeCudaPathSearch();

}  // namespace tq
