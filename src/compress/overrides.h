// Rates that a person gives to matrices by name: --override REGEX=BITS.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tq {

struct RateOverride {
  std::string pattern;  // of PCRE2; found anywhere in the name
  double bits = 0;      // of the codes
};

// "REGEX=BITS", split at the last '='. InvalidArgument quotes what is wrong.
StatusOr<RateOverride> ParseRateOverride(std::string_view text);

// The rate of each name, 0 where none is given. InvalidArgument when a pattern is no regular
// expression, takes too long to match or matches no name, a rate is not in [lowest, highest], or
// two patterns give one name different rates.
StatusOr<std::vector<double>> ApplyOverrides(std::span<const RateOverride> overrides,
                                             std::span<const std::string> names, double lowest,
                                             double highest);

}  // namespace tq
