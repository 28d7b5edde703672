#include "tokenizer/byte_spelling.h"

#include <gtest/gtest.h>

#include <set>

namespace tq {
namespace {

TEST(ByteSpelling, KnownCharacters) {
  EXPECT_EQ(SpellBytes("a~! \n"), "a~!\u0120\u010A");
  EXPECT_EQ(SpellByte(0x00), "\u0100");
  EXPECT_EQ(SpellByte(0x7F), "\u0121");
  EXPECT_EQ(SpellByte(0xA0), "\u0142");
  EXPECT_EQ(SpellByte(0xAD), "\u0143");
  EXPECT_EQ(SpellByte(0xC3), "\u00C3");
}

TEST(ByteSpelling, EveryByteThereAndBack) {
  std::set<std::string> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelled = SpellByte(static_cast<uint8_t>(byte));
    seen.insert(spelled);
    EXPECT_EQ(UnspellBytes(spelled), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(seen.size(), 256u);
}

TEST(ByteSpelling, RefusesOtherCharacters) {
  for (const char* text : {" ", "\n", "\u0144", "\u00AD", "a\u20AC", "\xFF"}) {
    EXPECT_FALSE(UnspellBytes(text).has_value()) << text;
  }
  EXPECT_EQ(UnspellBytes(""), "");
}

}  // namespace
}  // namespace tq
