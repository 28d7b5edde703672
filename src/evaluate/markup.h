// Text and numbers for HTML and SVG.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tq {

// Text for an element's content or a quoted attribute, in HTML and in XML: & < > " ' become
// references; bytes that are not UTF-8 and characters that XML forbids become U+FFFD.
std::string EscapeMarkup(std::string_view text);

// The first `limit` characters of `text`, and an ellipsis when there are more. Not escaped.
std::string Shorten(std::string_view text, size_t limit);

// Three significant digits: "0.0812", "18.4", "1250", "3.20×10⁻⁶"; "–" for NaN and infinity.
std::string FormatNumber(double value);

// As short as possible, for the ticks of an axis: "0.002", "20", "10⁻⁷".
std::string FormatTick(double value);

// With as many digits as the error allows: "0.0812 ± 0.0013". The value alone when the error is
// not finite, not positive, or below a millionth of the value.
std::string FormatWithError(double value, double error);

// 0.8731 is "87.3 %".
std::string FormatShare(double share);

// "134,515,008".
std::string FormatCount(uint64_t count);

}  // namespace tq
