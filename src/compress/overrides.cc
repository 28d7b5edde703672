#include "compress/overrides.h"

#include <charconv>

#include "tokenizer/pcre2_handles.h"

namespace tq {
namespace {

std::string ErrorMessage(int error) {
  PCRE2_UCHAR message[128] = {};
  pcre2_get_error_message(error, message, sizeof(message));
  return reinterpret_cast<const char*>(message);
}

class Pattern {
 public:
  static StatusOr<Pattern> Compile(const std::string& text) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    Pattern pattern;
    pattern.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                      &error, &offset, nullptr));
    if (!pattern.code_) {
      return InvalidArgument("override '{:.64}': {} at byte {}", text, ErrorMessage(error), offset);
    }
    pattern.match_.reset(pcre2_match_data_create(1, nullptr));
    if (!pattern.match_) return ResourceExhausted("override '{:.64}': out of memory", text);
    return pattern;
  }

  // Whether `name` contains a match. InvalidArgument when PCRE2 gives up before it knows.
  StatusOr<bool> FoundIn(const std::string& name) const {
    const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()),
                                   name.size(), 0, 0, match_.get(), nullptr);
    if (result >= 0) return true;
    if (result == PCRE2_ERROR_NOMATCH) return false;
    return InvalidArgument("{}: {}", name, ErrorMessage(result));
  }

 private:
  Pcre2Code code_;
  Pcre2MatchData match_;
};

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
    TQ_ASSIGN_OR_RETURN(const Pattern pattern, Pattern::Compile(o.pattern));
    bool found = false;
    for (size_t i = 0; i < names.size(); ++i) {
      const StatusOr<bool> in_name = pattern.FoundIn(names[i]);
      if (!in_name.ok()) {
        return in_name.status().WithContext(fmt::format("override '{:.64}'", o.pattern));
      }
      if (!*in_name) continue;
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
