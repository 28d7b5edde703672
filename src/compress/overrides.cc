#include "compress/overrides.h"

#include <charconv>
#include <optional>
#include <regex>

namespace tq {
namespace {

// The library's compiler recurses with the pattern.
constexpr size_t kMaxPatternBytes = 256;

std::optional<std::regex> Compile(const std::string& pattern) {
  try {
    return std::regex(pattern, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error&) {
    return std::nullopt;
  }
}

}  // namespace

StatusOr<RateOverride> ParseRateOverride(std::string_view text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) {
    return InvalidArgument("override: '{}' is not REGEX=BITS", text);
  }
  RateOverride result{std::string(text.substr(0, equals)), 0};
  const std::string_view bits = text.substr(equals + 1);
  const auto [end, error] = std::from_chars(bits.data(), bits.data() + bits.size(), result.bits);
  if (error != std::errc() || end != bits.data() + bits.size()) {
    return InvalidArgument("override '{}': '{}' is no number", text, bits);
  }
  return result;
}

StatusOr<std::vector<double>> ApplyOverrides(std::span<const RateOverride> overrides,
                                             std::span<const std::string> names, double lowest,
                                             double highest) {
  std::vector<double> rates(names.size(), 0);
  for (const RateOverride& o : overrides) {
    if (!(o.bits >= lowest && o.bits <= highest)) {
      return InvalidArgument("override '{}': {} bits is not in [{}, {}]", o.pattern, o.bits, lowest,
                             highest);
    }
    if (o.pattern.size() > kMaxPatternBytes) {
      return InvalidArgument("override: a pattern of {} bytes; the limit is {}", o.pattern.size(),
                             kMaxPatternBytes);
    }
    const std::optional<std::regex> regex = Compile(o.pattern);
    if (!regex) {
      return InvalidArgument("override '{}': not a regular expression", o.pattern);
    }
    bool found = false;
    for (size_t i = 0; i < names.size(); ++i) {
      if (!std::regex_search(names[i], *regex)) continue;
      found = true;
      if (rates[i] != 0 && rates[i] != o.bits) {
        return InvalidArgument("override '{}': {} has {} bits by another override, {} by this",
                               o.pattern, names[i], rates[i], o.bits);
      }
      rates[i] = o.bits;
    }
    if (!found) {
      return InvalidArgument("override '{}': matches no matrix; names are like {}", o.pattern,
                             names.empty() ? "" : names.front());
    }
  }
  return rates;
}

}  // namespace tq
