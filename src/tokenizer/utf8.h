// UTF-8: how much of a text is well-formed, and single code points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tq {

// Bytes of the well-formed character at the start of `text` (1 to 4), or 0 when there is
// none: truncated, overlong, a surrogate, above U+10FFFF (Unicode 14, table 3-7).
size_t Utf8CharSize(std::string_view text);

// The length of the longest well-formed prefix.
size_t Utf8ValidPrefix(std::string_view text);

// The code point of the well-formed character of `size` bytes at the start of `text`.
uint32_t Utf8CodePoint(std::string_view text, size_t size);

// `text` with U+FFFD for every byte that belongs to no well-formed character.
std::string ReplaceInvalidUtf8(std::string_view text);

// Appends a code point of at most U+10FFFF.
void AppendUtf8(uint32_t code_point, std::string& out);

}  // namespace tq
