#include "tokenizer/jinja/string_literal.h"

#include <charconv>
#include <cstdint>

#include "checkpoint/quote.h"

namespace tq::jinja {
namespace {

void AppendCodePoint(uint32_t c, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

// \x41, \u0041, \U00000041: digits from `at`. Returns the bytes used.
StatusOr<size_t> AppendHex(std::string_view source, size_t at, size_t digits, std::string& out) {
  const std::string_view hex = source.substr(at, digits);
  uint32_t c = 0;
  const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), c, 16);
  if (hex.size() < digits || error != std::errc() || end != hex.data() + hex.size()) {
    return InvalidArgument("the escape {} needs {} hexadecimal digits",
                           Quote(source.substr(at - 2, digits + 2)), digits);
  }
  if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) {
    return InvalidArgument("the escape {} is no character",
                           Quote(source.substr(at - 2, digits + 2)));
  }
  AppendCodePoint(c, out);
  return digits;
}

// The escape whose letter is source[at]; returns the bytes used, letter included.
StatusOr<size_t> AppendEscape(std::string_view source, size_t at, std::string& out) {
  constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeanings = "\a\b\f\n\r\t\v\\'\"";
  const char letter = source[at];
  if (const size_t known = kLetters.find(letter); known != std::string_view::npos) {
    out += kMeanings[known];
    return size_t{1};
  }
  if (letter == '\n') return size_t{1};  // a line that goes on
  if (letter == 'x' || letter == 'u' || letter == 'U') {
    TQ_ASSIGN_OR_RETURN(const size_t used, AppendHex(source, at + 1,
                                                     letter == 'x'   ? 2
                                                     : letter == 'u' ? 4
                                                                     : 8,
                                                     out));
    return 1 + used;
  }
  if (letter == 'N') return Unimplemented("the escape \\N in a string");
  if (letter >= '0' && letter <= '7') {
    uint32_t c = 0;
    size_t used = 0;
    for (; used < 3 && at + used < source.size(); ++used) {
      const char digit = source[at + used];
      if (digit < '0' || digit > '7') break;
      c = c * 8 + static_cast<uint32_t>(digit - '0');
    }
    AppendCodePoint(c, out);
    return used;
  }
  out += '\\';  // Python keeps the backslash of escapes that it does not know
  out += letter;
  return size_t{1};
}

}  // namespace

StatusOr<StringLiteral> ReadStringLiteral(std::string_view source) {
  StringLiteral literal;
  const char quote = source[0];
  for (size_t at = 1; at < source.size();) {
    if (source[at] == quote) {
      literal.size = at + 1;
      return literal;
    }
    if (source[at] != '\\') {
      literal.value += source[at++];
      continue;
    }
    if (++at == source.size()) break;
    TQ_ASSIGN_OR_RETURN(const size_t used, AppendEscape(source, at, literal.value));
    at += used;
  }
  return InvalidArgument("a string that does not end");
}

}  // namespace tq::jinja
