#include "cli/quantize_flags.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/log.h"

namespace tq::cli {
namespace {

constexpr Method kMethods[] = {Method::kTrellis, Method::kGptq, Method::kAwq, Method::kRtn,
                               Method::kTernary};

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Null, said by a warning, where a library is missing that rounding does without.
StatusOr<std::shared_ptr<const DenseDevice>> DenseDeviceOrWarning() {
  auto device = MakeCudaDenseDevice();
  if (device.ok() || device.status().code() != StatusCode::kNotFound) return device;
  Warn("calibration runs on the processor: {}", device.status().message());
  return std::shared_ptr<const DenseDevice>();
}

}  // namespace

void QuantizeFlags::AddTo(CLI::App& app) {
  AddModelArgument(app, options_.model);
  app.add_option("--calibration", options_.calibration,
                 "A text file, or self: text sampled from the model")
      ->capture_default_str();
  app.add_option("--calibration-tokens", options_.calibration_tokens, "Tokens to calibrate with")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--calibration-memory", calibration_mib_,
                 "MiB of activations kept in memory; more go to the work folder")
      ->capture_default_str();
  app.add_option("--sensitivity-file", options_.sensitivity_file,
                 "Keep the measured sensitivities here, and use them when they are there");
  app.add_option("--override", overrides_,
                 "REGEX=BITS: matrices whose names match get codes of BITS (0.5 to 8); the "
                 "others make up for it. May be given several times")
      ->allow_extra_args(false);
  app.add_option("--min-bits", options_.min_bits, "No codes of fewer bits per weight")
      ->capture_default_str();
  app.add_option("--max-bits", options_.max_bits, "No codes of more bits per weight")
      ->capture_default_str();
  app.add_option("--group-size", group_size_,
                 "rtn, gptq, awq, ternary: columns that share a scale: 32, 64, 128, or row")
      ->check(CLI::IsMember({"32", "64", "128", "row"}))
      ->capture_default_str();
  app.add_flag("--symmetric", options_.symmetric, "rtn, gptq, awq: no zero points");
  app.add_flag("--act-order,!--no-act-order", options_.act_order,
               "gptq: columns by descending activation (the default), stored in that order; or as "
               "they are");
  app.add_option("--seed", options_.seed, "Seed of all random choices")->capture_default_str();
  app.add_flag("--fast", options_.fast, "Search 12-bit states: ten times faster, a little worse");
  app.add_flag("--fresh", options_.fresh, "Start over instead of resuming");
  app.add_option("--ablate", ablations_,
                 "For research: leave a part out (rotation, hessian, hessian-scales, or v1: one "
                 "value per step at 2 bits)")
      ->check(CLI::IsMember({"rotation", "hessian", "hessian-scales", "v1"}));
  app.add_option("--device", device_,
                 "Where the original's layers are multiplied and matrices rounded: cpu, or cuda "
                 "(sooner; sums round otherwise)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", threads_, "Threads (0: all processors this process may use)")
      ->capture_default_str();
}

void CheckFlagsOfMethods(const CLI::App& app, std::span<const Method> methods) {
  struct Flag {
    const char* name;
    std::vector<Method> methods;  // that it is for
  };
  const std::vector<Method> trellis = {Method::kTrellis},
                            widths = {Method::kRtn, Method::kGptq, Method::kAwq},
                            scalar = {Method::kRtn, Method::kGptq, Method::kAwq, Method::kTernary};
  const Flag flags[] = {
      {"--memory", trellis},           {"--uniform", trellis},          {"--sensitivity", trellis},
      {"--sensitivity-file", trellis}, {"--no-verify", trellis},        {"--rates", trellis},
      {"--min-bits", trellis},         {"--max-bits", trellis},         {"--group-size", scalar},
      {"--symmetric", widths},         {"--act-order", {Method::kGptq}}};
  const auto names = [](std::span<const Method> list) {
    std::vector<std::string_view> all;
    for (const Method method : list) all.push_back(NameOf(method));
    return fmt::format("{}", fmt::join(all, ", "));
  };
  for (const Flag& flag : flags) {
    const CLI::Option* option = app.get_option_no_throw(flag.name);
    if (option == nullptr || option->count() == 0) continue;
    const bool used = std::ranges::any_of(methods, [&](Method method) {
      return std::ranges::find(flag.methods, method) != flag.methods.end();
    });
    if (used) continue;
    throw CLI::ValidationError(flag.name, fmt::format("is for the method {}, not {}",
                                                      names(flag.methods), names(methods)));
  }
}

std::vector<std::string> MethodNames() {
  std::vector<std::string> names;
  for (const Method method : kMethods) names.emplace_back(NameOf(method));
  return names;
}

Method MethodNamed(std::string_view name) {
  for (const Method method : kMethods) {
    if (name == NameOf(method)) return method;
  }
  TQ_CHECK(false);  // the option takes these names alone
  return Method::kTrellis;
}

StatusOr<QuantizeOptions> QuantizeFlags::Options() const {
  QuantizeOptions options = options_;
  options.calibration_memory = calibration_mib_ * kMiB;
  options.group_size = 0;
  if (group_size_ != "row") options.group_size = static_cast<uint32_t>(std::stoul(group_size_));
  if (device_ == "cuda") {
    TQ_ASSIGN_OR_RETURN(options.rounding, MakeCudaRounding());
    TQ_ASSIGN_OR_RETURN(options.dense, DenseDeviceOrWarning());
  }
  for (const std::string& text : overrides_) {
    TQ_ASSIGN_OR_RETURN(RateOverride parsed, ParseRateOverride(text));
    options.overrides.push_back(std::move(parsed));
  }
  for (const std::string& part : ablations_) {
    if (part == "rotation") options.no_rotation = true;
    if (part == "hessian") options.no_hessian = true;
    if (part == "hessian-scales") options.hessian_without_scales = true;
    if (part == "v1") options.v1 = true;
  }
  return options;
}

}  // namespace tq::cli
