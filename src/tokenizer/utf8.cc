#include "tokenizer/utf8.h"

namespace tq {
namespace {

// Whether the byte at `i` exists and lies in [low, high].
bool InRange(std::string_view text, size_t i, uint8_t low, uint8_t high) {
  if (i >= text.size()) return false;
  const auto byte = static_cast<uint8_t>(text[i]);
  return byte >= low && byte <= high;
}

}  // namespace

size_t Utf8CharSize(std::string_view text) {
  if (text.empty()) return 0;
  const auto lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return 1;
  // The second byte's range excludes overlong forms, surrogates and values above U+10FFFF.
  uint8_t low = 0x80, high = 0xBF;
  size_t size = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    size = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    size = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    size = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (!InRange(text, 1, low, high)) return 0;
  for (size_t i = 2; i < size; ++i) {
    if (!InRange(text, i, 0x80, 0xBF)) return 0;
  }
  return size;
}

size_t Utf8ValidPrefix(std::string_view text) {
  size_t valid = 0;
  while (valid < text.size()) {
    const size_t size = Utf8CharSize(text.substr(valid));
    if (size == 0) break;
    valid += size;
  }
  return valid;
}

uint32_t Utf8CodePoint(std::string_view text, size_t size) {
  const auto lead = static_cast<uint8_t>(text[0]);
  if (size == 1) return lead;
  uint32_t code_point = lead & (0x7Fu >> size);
  for (size_t i = 1; i < size; ++i) {
    code_point = code_point << 6 | (static_cast<uint8_t>(text[i]) & 0x3Fu);
  }
  return code_point;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t valid = Utf8ValidPrefix(text);
    out.append(text.substr(0, valid));
    if (valid == text.size()) break;
    out += "\xEF\xBF\xBD";
    text.remove_prefix(valid + 1);
  }
  return out;
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
    return;
  }
  const int trailing = code_point < 0x800 ? 1 : code_point < 0x10000 ? 2 : 3;
  // The lead byte starts with one more 1 than there are trailing bytes.
  const uint32_t lead = 0xFF00u >> (trailing + 1) & 0xFFu;
  out += static_cast<char>(lead | code_point >> 6 * trailing);
  for (int i = trailing - 1; i >= 0; --i) {
    out += static_cast<char>(0x80 | (code_point >> 6 * i & 0x3F));
  }
}

}  // namespace tq
