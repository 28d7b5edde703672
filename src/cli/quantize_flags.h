// Options of the commands that quantise.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "compress/quantize.h"

namespace tq::cli {

inline constexpr Method kMethods[] = {Method::kTrellis, Method::kRtn, Method::kGptq, Method::kAwq};
// Their names, for options; a name back to its method.
inline const std::vector<std::string> kMethodNames = {"trellis", "rtn", "gptq", "awq"};
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
