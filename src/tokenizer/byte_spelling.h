// GPT-2's spelling of bytes: every byte is written as one printable character, so that a
// vocabulary of byte strings can be kept in text files. The 188 printable characters of
// Latin-1 stand for themselves; the other bytes, in ascending order, for U+0100, U+0101, ...
// (Radford et al. 2019, the released encoder). A space is written as U+0120.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tq {

// The character that stands for a byte, as UTF-8.
const std::string& SpellByte(uint8_t byte);

// Each byte of a text spelled.
std::string SpellBytes(std::string_view bytes);

// The bytes that a token stands for, or nothing when a character of it stands for no byte
// or it is not UTF-8.
std::optional<std::string> UnspellBytes(std::string_view token);

}  // namespace tq
