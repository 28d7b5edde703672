// Options of the commands that quantise.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "compress/quantize.h"

namespace tq::cli {

class QuantizeFlags {
 public:
  // MODEL, calibration, how rates are chosen, seed, threads.
  void AddTo(CLI::App& app);
  // Everything but method, size and output.
  StatusOr<QuantizeOptions> Options() const;
  size_t threads() const { return threads_; }

 private:
  QuantizeOptions options_;
  std::vector<std::string> ablations_, overrides_;
  std::string device_ = "cpu";
  uint64_t calibration_mib_ = 4096;
  size_t threads_ = 0;
};

}  // namespace tq::cli
