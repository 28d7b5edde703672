#include "evaluate/markup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tokenizer/utf8.h"

namespace tq {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Below, powers of ten are written out.
constexpr int kLeastPlainExponent = -4;
constexpr int kMostPlainExponent = 6;

// A smaller error, relative to the value, would only give the value digits that nobody reads.
constexpr double kLeastError = 1e-6;

// "×10⁻⁷".
std::string TimesPowerOfTen(int exponent) {
  const char* const digits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = "×10";
  if (exponent < 0) text += "⁻";
  for (const char c : fmt::format("{}", std::abs(exponent))) text += digits[c - '0'];
  return text;
}

int Exponent(double value) { return static_cast<int>(std::floor(std::log10(std::abs(value)))); }

bool IsPlain(int exponent) {
  return exponent >= kLeastPlainExponent && exponent < kMostPlainExponent;
}

// In two steps, since the power itself underflows for a value near the least double.
double OverPowerOfTen(double value, int exponent) {
  const int half = exponent / 2;
  return value / std::pow(10.0, half) / std::pow(10.0, exponent - half);
}

}  // namespace

std::string EscapeMarkup(std::string_view text) {
  const std::string valid = ReplaceInvalidUtf8(text);
  std::string out;
  out.reserve(valid.size());
  for (size_t i = 0; i < valid.size(); ++i) {
    const char c = valid[i];
    const auto byte = static_cast<uint8_t>(c);
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else if ((byte < 0x20 && c != '\t' && c != '\n') || byte == 0x7F) {
      out += kReplacement;
    } else if (valid.compare(i, 3, "\xEF\xBF\xBE") == 0 ||
               valid.compare(i, 3, "\xEF\xBF\xBF") == 0) {
      out += kReplacement;  // U+FFFE and U+FFFF are no characters of XML
      i += 2;
    } else {
      out += c;
    }
  }
  return out;
}

std::string Shorten(std::string_view text, size_t limit) {
  const std::string valid = ReplaceInvalidUtf8(text);
  const std::string_view view = valid;
  size_t at = 0;
  for (size_t i = 0; i < limit && at < view.size(); ++i) at += Utf8CharSize(view.substr(at));
  if (at == view.size()) return valid;
  return valid.substr(0, at) + "…";
}

std::string FormatNumber(double value) {
  if (!std::isfinite(value)) return "–";
  if (value == 0) return "0";
  const int exponent = Exponent(value);
  if (!IsPlain(exponent)) {
    return fmt::format("{:.2f}", OverPowerOfTen(value, exponent)) + TimesPowerOfTen(exponent);
  }
  return fmt::format("{:.{}f}", value, std::max(0, 2 - exponent));
}

std::string FormatTick(double value) {
  if (!std::isfinite(value)) return "–";
  if (value == 0) return "0";
  // Ticks are computed as multiples of steps and may miss their power of ten by a rounding.
  const int exponent = Exponent(value * (1 + 1e-12));
  if (IsPlain(exponent)) return fmt::format("{:.6g}", value);
  const std::string mantissa = fmt::format("{:.3g}", OverPowerOfTen(value, exponent));
  const std::string power = TimesPowerOfTen(exponent);
  return mantissa == "1" ? power.substr(std::string_view("×").size()) : mantissa + power;
}

std::string FormatWithError(double value, double error) {
  const bool shown = std::isfinite(error) && error > 0 && error > kLeastError * std::abs(value);
  if (!std::isfinite(value) || !shown) return FormatNumber(value);
  const int exponent = Exponent(std::max(std::abs(value), error));
  if (!IsPlain(exponent)) {
    const double scaled = OverPowerOfTen(error, exponent);
    const int decimals = scaled == 0 ? 2 : std::clamp(1 - Exponent(scaled), 0, 4);
    return fmt::format("({:.{}f} ± {:.{}f})", OverPowerOfTen(value, exponent), decimals, scaled,
                       decimals) +
           TimesPowerOfTen(exponent);
  }
  const int decimals = std::clamp(1 - Exponent(error), 0, 8);
  return fmt::format("{:.{}f} ± {:.{}f}", value, decimals, error, decimals);
}

std::string FormatShare(double share) {
  if (!std::isfinite(share)) return "–";
  const double percent = 100 * share;
  // Rounded to 100.0 or 0.0, a share would claim to be all or nothing.
  if (percent > 99.95 && percent < 100) return fmt::format("{:.4g} %", std::min(percent, 99.99));
  if (percent < 1 && percent > 0) return FormatNumber(percent) + " %";
  return fmt::format("{:.1f} %", percent);
}

std::string FormatCount(uint64_t count) {
  std::string text = fmt::format("{}", count);
  for (size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, 1, ',');
  }
  return text;
}

}  // namespace tq
