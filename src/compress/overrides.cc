#include "compress/overrides.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <charconv>
#include <memory>

namespace tq {
namespace {

struct FreePattern {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

class Pattern {
 public:
  static StatusOr<Pattern> Compile(const std::string& text) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    Pattern pattern;
    pattern.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                      &error, &offset, nullptr));
    if (!pattern.code_) {
      PCRE2_UCHAR message[128] = {};
      pcre2_get_error_message(error, message, sizeof(message));
      return InvalidArgument("override '{:.64}': {} at byte {}", text,
                             reinterpret_cast<const char*>(message), offset);
    }
    pattern.match_.reset(pcre2_match_data_create(1, nullptr));
    if (!pattern.match_) return ResourceExhausted("override '{:.64}': out of memory", text);
    return pattern;
  }

  // Whether `name` contains a match; patterns that take for ever to tell do not match.
  bool FoundIn(const std::string& name) const {
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                       match_.get(), nullptr) >= 0;
  }

 private:
  std::unique_ptr<pcre2_code, FreePattern> code_;
  std::unique_ptr<pcre2_match_data, FreePattern> match_;
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
      if (!pattern.FoundIn(names[i])) continue;
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
