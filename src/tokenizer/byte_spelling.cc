#include "tokenizer/byte_spelling.h"

#include <array>

#include "tokenizer/utf8.h"

namespace tq {
namespace {

// The characters lie below U+0100 + 68 = U+0144.
constexpr uint32_t kEnd = 0x144;

bool StandsForItself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

struct Tables {
  std::array<std::string, 256> spelling;
  std::array<int16_t, kEnd> byte_of;  // by code point; -1: none

  Tables() {
    byte_of.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t code_point = StandsForItself(byte) ? byte : next++;
      AppendUtf8(code_point, spelling[byte]);
      byte_of[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const Tables& GetTables() {
  static const Tables tables;
  return tables;
}

}  // namespace

const std::string& SpellByte(uint8_t byte) { return GetTables().spelling[byte]; }

std::string SpellBytes(std::string_view bytes) {
  std::string token;
  for (const char byte : bytes) token += SpellByte(static_cast<uint8_t>(byte));
  return token;
}

std::optional<std::string> UnspellBytes(std::string_view token) {
  const Tables& tables = GetTables();
  std::string bytes;
  while (!token.empty()) {
    const size_t size = Utf8CharSize(token);
    if (size == 0) return std::nullopt;
    const uint32_t code_point = Utf8CodePoint(token, size);
    if (code_point >= kEnd || tables.byte_of[code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(tables.byte_of[code_point]);
    token.remove_prefix(size);
  }
  return bytes;
}

}  // namespace tq
