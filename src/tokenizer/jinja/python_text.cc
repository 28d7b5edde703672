#include "tokenizer/jinja/python_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>

#include "tokenizer/utf8.h"

namespace tq::jinja {
namespace {

// str.isspace(): white space of Unicode, and the separators U+001C to U+001F.
bool IsSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

// Ends of lines for str.splitlines(), "\r\n" apart.
bool IsLineEnd(uint32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

// Bytes of the character that starts at `at`; texts are well-formed.
size_t SizeAt(std::string_view text, size_t at) {
  return std::max<size_t>(1, Utf8CharSize(text.substr(at, 4)));
}

uint32_t CodePointAt(std::string_view text, size_t at) {
  return Utf8CodePoint(text.substr(at), SizeAt(text, at));
}

// Where the last character before `end` begins.
size_t Before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

template <class Predicate>
size_t LeadingBytes(std::string_view text, Predicate strip) {
  size_t at = 0;
  while (at < text.size() && strip(CodePointAt(text, at))) at += SizeAt(text, at);
  return at;
}

template <class Predicate>
size_t TrailingBytes(std::string_view text, Predicate strip) {
  size_t end = text.size();
  while (end > 0) {
    const size_t at = Before(text, end);
    if (!strip(CodePointAt(text, at))) break;
    end = at;
  }
  return text.size() - end;
}

template <class Predicate>
MarkedText StripIf(const MarkedText& text, Side side, Predicate strip) {
  const std::string_view bytes = text.bytes();
  const size_t begin = side == Side::kRight ? 0 : LeadingBytes(bytes, strip);
  const std::string_view rest = bytes.substr(begin);
  const size_t end = side == Side::kLeft ? 0 : TrailingBytes(rest, strip);
  return text.Substr(begin, rest.size() - end);
}

// Categories that repr() escapes: controls, format characters, private use, and all white space
// but " ". Unassigned code points would need a table.
bool IsPrintable(uint32_t c) {
  if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD || IsSpace(c)) return c == 0x20;
  if ((c >= 0x600 && c <= 0x605) || c == 0x61C || c == 0x6DD || c == 0x70F || c == 0x180E) {
    return false;
  }
  if ((c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
      (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFB)) {
    return false;
  }
  return !(c >= 0xE000 && c <= 0xF8FF) && c < 0xE0000 && (c & 0xFFFE) != 0xFFFE;
}

bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }
char ToUpper(char c) { return IsLower(c) ? static_cast<char>(c - 'a' + 'A') : c; }
char ToLower(char c) { return IsUpper(c) ? static_cast<char>(c - 'A' + 'a') : c; }

// Whether the letter behind `previous` begins a word; previous is 0 at the start.
bool BeginsWord(char previous, LetterCase to) {
  if (previous == 0) return true;
  if (to == LetterCase::kCapitalize) return false;
  if (to == LetterCase::kTitle) return !IsLower(previous) && !IsUpper(previous);
  return std::string_view("-({[<").find(previous) != std::string_view::npos ||
         IsSpace(static_cast<uint8_t>(previous));
}

}  // namespace

size_t LeadingSpace(std::string_view text) { return LeadingBytes(text, IsSpace); }
size_t TrailingSpace(std::string_view text) { return TrailingBytes(text, IsSpace); }

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

size_t ByteOffset(std::string_view text, size_t character) {
  size_t at = 0;
  while (at < text.size() && character > 0) {
    at += SizeAt(text, at);
    --character;
  }
  return at;
}

size_t Find(std::string_view text, std::string_view needle, size_t from) {
  if (needle.empty()) return from <= text.size() ? from : std::string_view::npos;
  if (from >= text.size()) return std::string_view::npos;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

MarkedText Strip(const MarkedText& text, const std::optional<std::string_view>& characters,
                 Side side) {
  if (!characters) return StripIf(text, side, IsSpace);
  std::vector<uint32_t> set;
  for (size_t at = 0; at < characters->size(); at += SizeAt(*characters, at)) {
    set.push_back(CodePointAt(*characters, at));
  }
  std::sort(set.begin(), set.end());
  return StripIf(text, side,
                 [&](uint32_t c) { return std::binary_search(set.begin(), set.end(), c); });
}

StatusOr<std::vector<MarkedText>> Split(const MarkedText& text,
                                        const std::optional<std::string_view>& separator,
                                        int64_t most, Budget& budget) {
  TQ_RETURN_IF_ERROR(budget.Use(text.size()));
  std::vector<MarkedText> parts;
  const std::string_view bytes = text.bytes();
  size_t begin = 0;
  if (!separator) {
    begin = LeadingSpace(bytes);
    while (begin < bytes.size()) {
      TQ_RETURN_IF_ERROR(budget.UseSteps(1));
      size_t end = begin;
      if (most >= 0 && static_cast<int64_t>(parts.size()) >= most) {
        end = bytes.size() - TrailingSpace(bytes);
        parts.push_back(text.Substr(begin, end - begin));
        break;
      }
      while (end < bytes.size() && !IsSpace(CodePointAt(bytes, end))) end += SizeAt(bytes, end);
      parts.push_back(text.Substr(begin, end - begin));
      begin = end + LeadingSpace(bytes.substr(end));
    }
    return parts;
  }
  if (separator->empty()) return InvalidArgument("split: the separator is empty");
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t at = Find(bytes, *separator, begin);
    if (at == std::string_view::npos) break;
    TQ_RETURN_IF_ERROR(budget.UseSteps(1));
    parts.push_back(text.Substr(begin, at - begin));
    begin = at + separator->size();
  }
  parts.push_back(text.Substr(begin, bytes.size() - begin));
  return parts;
}

StatusOr<std::vector<MarkedText>> SplitLines(const MarkedText& text, Budget& budget) {
  TQ_RETURN_IF_ERROR(budget.Use(text.size()));
  std::vector<MarkedText> lines;
  const std::string_view bytes = text.bytes();
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = SizeAt(bytes, at);
    if (!IsLineEnd(CodePointAt(bytes, at))) {
      at += size;
      continue;
    }
    TQ_RETURN_IF_ERROR(budget.UseSteps(1));
    lines.push_back(text.Substr(begin, at - begin));
    at += bytes.substr(at).starts_with("\r\n") ? 2 : size;
    begin = at;
  }
  if (begin < bytes.size()) lines.push_back(text.Substr(begin, bytes.size() - begin));
  return lines;
}

StatusOr<MarkedText> Replace(const MarkedText& text, std::string_view old, const MarkedText& with,
                             int64_t most, Budget& budget) {
  if (old.empty()) return Unimplemented("replace: the text to be replaced is empty");
  const std::string_view bytes = text.bytes();
  MarkedText out;
  size_t begin = 0;
  for (int64_t count = 0; most < 0 || count < most; ++count) {
    const size_t at = Find(bytes, old, begin);
    if (at == std::string_view::npos) break;
    TQ_RETURN_IF_ERROR(budget.UseSteps(1));
    TQ_RETURN_IF_ERROR(budget.Use(with.size()));
    out.Append(text.Substr(begin, at - begin));
    out.Append(with);
    begin = at + old.size();
    TQ_RETURN_IF_ERROR(budget.CheckTextSize(out.size()));
  }
  out.Append(text.Substr(begin, bytes.size() - begin));
  TQ_RETURN_IF_ERROR(budget.UseText(out.size()));
  return out;
}

StatusOr<std::string> ChangeCase(std::string_view text, LetterCase to) {
  std::string out;
  out.reserve(text.size());
  char previous = 0;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) >= 0x80) {
      return Unimplemented("changing the case of letters beyond ASCII");
    }
    const bool upper =
        to == LetterCase::kUpper || (to != LetterCase::kLower && BeginsWord(previous, to));
    out += upper ? ToUpper(c) : ToLower(c);
    previous = c == 0 ? ' ' : c;
  }
  return out;
}

std::string Repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t size = SizeAt(text, at);
    const uint32_t c = CodePointAt(text, at);
    if (c == '\\' || c == static_cast<uint32_t>(quote)) {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (IsPrintable(c)) {
      out += text.substr(at, size);
    } else if (c <= 0xFF) {
      out += fmt::format("\\x{:02x}", c);
    } else if (c <= 0xFFFF) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out += fmt::format("\\U{:08x}", c);
    }
    at += size;
  }
  return out + quote;
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer;
  // Python changes to an exponent below 1e-4 and from 1e16 on.
  const double size = std::fabs(value);
  const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto [end, error] =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                    scientific ? std::chars_format::scientific : std::chars_format::fixed);
  TQ_CHECK(error == std::errc());
  std::string text(buffer.data(), end);
  if (!scientific && text.find('.') == std::string::npos) text += ".0";
  return text;
}

}  // namespace tq::jinja
