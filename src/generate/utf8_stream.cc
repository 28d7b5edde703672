#include "generate/utf8_stream.h"

#include <cstddef>
#include <cstdint>

namespace tq {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Scan {
  size_t length = 0;      // bytes that belong together, at least 1
  bool complete = false;  // they are a character
  bool open = false;      // they start a character that the text's end cuts off
};

// The character, or the maximal part of one, at the start of non-empty `text`.
Scan ScanCharacter(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and points above U+10FFFF.
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {i, false, true};
    if (byte(i) < low || byte(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true, false};
}

}  // namespace

std::string Utf8Stream::Push(std::string_view bytes) {
  held_.append(bytes);
  const std::string_view all = held_;
  std::string text;
  size_t at = 0;
  while (at < held_.size()) {
    const Scan scan = ScanCharacter(all.substr(at));
    if (scan.open) break;
    if (scan.complete) {
      text.append(held_, at, scan.length);
    } else {
      text.append(kReplacement);
    }
    at += scan.length;
  }
  held_.erase(0, at);
  return text;
}

std::string Utf8Stream::Finish() {
  const bool cut = !held_.empty();
  held_.clear();
  return cut ? std::string(kReplacement) : std::string();
}

}  // namespace tq
