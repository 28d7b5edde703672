// Options of the commands that quantise.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "compress/quantize.h"

namespace tq::cli {

// What options of methods take, and the method of one of these names.
std::vector<std::string> MethodNames();
Method MethodNamed(std::string_view name);

// Throws CLI::ValidationError that names a flag which was given and is for none of the methods.
void CheckFlagsOfMethods(const CLI::App& app, std::span<const Method> methods);

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
  std::string device_ = "cpu", group_size_ = "128";
  uint64_t calibration_mib_ = 4096;
  size_t threads_ = 0;
};

}  // namespace tq::cli
