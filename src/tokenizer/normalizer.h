// What happens to a text before it is cut into words.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace tq {

// SentencePiece's sign for a space, U+2581.
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

// `text` with its spaces (U+0020) as marks, and with its marks as spaces.
std::string MarkSpaces(std::string_view text);
std::string UnmarkSpaces(std::string_view text);

// `text` must not be empty. Bytes that are not UTF-8 stay as they are.
std::string Normalize(const Normalization& normalization, std::string_view text);

}  // namespace tq
