#include "tokenizer/nfc.h"

#include <gtest/gtest.h>

#include <string>

#include "tokenizer/unicode_tables.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

// The expected texts are those of UAX #15 and of Python's unicodedata.
TEST(ComposeNfc, Examples) {
  EXPECT_EQ(ComposeNfc(""), "");
  EXPECT_EQ(ComposeNfc("plain text\n"), "plain text\n");
  EXPECT_EQ(ComposeNfc("e\u0301"), "\u00E9");
  EXPECT_EQ(ComposeNfc("\u212B"), "\u00C5") << "a singleton";
  EXPECT_EQ(ComposeNfc("s\u0307\u0323"), "\u1E69") << "marks are put in order first";
  EXPECT_EQ(ComposeNfc("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(ComposeNfc("a\u0301\u0301"), "\u00E1\u0301") << "the same class blocks";
  EXPECT_EQ(ComposeNfc("\u0301a"), "\u0301a");
  EXPECT_EQ(ComposeNfc("\u0958"), "\u0915\u093C") << "excluded from composition";
  EXPECT_EQ(ComposeNfc("\u1100\u1161\u11A8"), "\uAC01") << "Hangul";
  EXPECT_EQ(ComposeNfc("\uAC00\u11A8"), "\uAC01");
  EXPECT_EQ(ComposeNfc("\uAC00\u11A7"), "\uAC00\u11A7") << "no trailing consonant";
  EXPECT_EQ(ComposeNfc("\u0344"), "\u0308\u0301");
  EXPECT_EQ(ComposeNfc("\U0001D15E"), "\U0001D157\U0001D165");
}

TEST(ComposeNfc, EveryCodePointComesToRest) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    const std::string once = ComposeNfc(text);
    ASSERT_EQ(ComposeNfc(once), once) << c;
  }
  for (const CanonicalDecomposition& d : kCanonicalDecompositions) {
    std::string composed, parts;
    AppendUtf8(d.code_point, composed);
    AppendUtf8(d.first, parts);
    if (d.second != 0) AppendUtf8(d.second, parts);
    ASSERT_EQ(ComposeNfc(parts), ComposeNfc(composed)) << d.code_point;
    ASSERT_EQ(ComposeNfc(composed) == composed, d.composes) << d.code_point;
  }
}

TEST(ComposeNfc, BytesThatAreNotUtf8StayAndSeparate) {
  EXPECT_EQ(ComposeNfc("e\xFF\u0301"), "e\xFF\u0301");
  EXPECT_EQ(ComposeNfc("\xCC"), "\xCC");
  EXPECT_EQ(ComposeNfc("e\u0301\xE2\x82"), "\u00E9\xE2\x82");
  EXPECT_EQ(ComposeNfc("\xED\xA0\x80"), "\xED\xA0\x80");
}

// A million marks of two classes after one letter.
TEST(ComposeNfc, LongRunsOfMarks) {
  std::string text = "a", expected = "\u1EA1";
  constexpr int kCount = 1 << 19;
  for (int i = 0; i < kCount; ++i) text += "\u0308\u0323";
  for (int i = 1; i < kCount; ++i) expected += "\u0323";
  for (int i = 0; i < kCount; ++i) expected += "\u0308";
  EXPECT_EQ(ComposeNfc(text), expected);
}

}  // namespace
}  // namespace tq
