// Python's operations on texts: white space, characters, splitting, how values are spelled.
// Texts are UTF-8; positions and lengths that templates see count characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/jinja/budget.h"
#include "tokenizer/marked_text.h"

namespace tq::jinja {

// Bytes of white space (str.isspace) at the start and at the end of a text.
size_t LeadingSpace(std::string_view text);
size_t TrailingSpace(std::string_view text);

// Characters of a text, and the byte where one begins (the size when there are fewer).
size_t CountCharacters(std::string_view text);
size_t ByteOffset(std::string_view text, size_t character);

// Where `needle` is, or npos. Linear time, unlike std::string_view::find.
size_t Find(std::string_view text, std::string_view needle, size_t from = 0);

enum class Side { kLeft, kRight, kBoth };
// Without white space, or without the characters of `characters`.
MarkedText Strip(const MarkedText& text, const std::optional<std::string_view>& characters,
                 Side side);
// At each `separator` (not empty), or at runs of white space without one; at most `most` cuts
// (negative: all).
StatusOr<std::vector<MarkedText>> Split(const MarkedText& text,
                                        const std::optional<std::string_view>& separator,
                                        int64_t most, Budget& budget);
// str.splitlines().
StatusOr<std::vector<MarkedText>> SplitLines(const MarkedText& text, Budget& budget);
// At most `most` occurrences (negative: all).
StatusOr<MarkedText> Replace(const MarkedText& text, std::string_view old, const MarkedText& with,
                             int64_t most, Budget& budget);

// How the letters of a text are changed. kTitle: str.title(); kWords: the filter `title`, whose
// words end at white space, hyphens and opening brackets.
enum class LetterCase { kUpper, kLower, kCapitalize, kTitle, kWords };
// An error for letters beyond ASCII: their cases need tables.
StatusOr<std::string> ChangeCase(std::string_view text, LetterCase to);

// repr() of a text; characters that are not assigned in Unicode are shown as they are.
std::string Repr(std::string_view text);
// repr() of a float: the shortest digits that give it back.
std::string FloatText(double value);

}  // namespace tq::jinja
