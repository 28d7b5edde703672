#include "cli/quantize_flags.h"

#include <memory>
#include <utility>

#include "base/log.h"

namespace tq::cli {
namespace {

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

StatusOr<QuantizeOptions> QuantizeFlags::Options() const {
  QuantizeOptions options = options_;
  options.calibration_memory = calibration_mib_ * kMiB;
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
