#include "tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/random.h"

namespace tq {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Words(std::string_view text, PreTokenizerKind kind) {
  const auto splitter = PreTokenizer::Create(kind);
  std::vector<std::string_view> views;
  (*splitter)->Split(text, views);
  return std::vector<std::string>(views.begin(), views.end());
}
std::vector<std::string> Gpt2(std::string_view text) {
  return Words(text, PreTokenizerKind::kGpt2);
}
std::vector<std::string> SmolLm(std::string_view text) {
  return Words(text, PreTokenizerKind::kSmolLm);
}

// The expected words are those of PyPI tokenizers 0.23.3.
TEST(PreTokenizer, Gpt2Words) {
  EXPECT_THAT(Gpt2("Hello world"), ElementsAre("Hello", " world"));
  EXPECT_THAT(Gpt2("we'll they'RE 's"), ElementsAre("we", "'ll", " they", "'", "RE", " '", "s"));
  EXPECT_THAT(Gpt2("a1234b"), ElementsAre("a", "1234", "b"));
  EXPECT_THAT(Gpt2("a  b   "), ElementsAre("a", " ", " b", "   "));
  EXPECT_THAT(Gpt2("a\r\n\r\n b"), ElementsAre("a", "\r\n\r\n", " b"));
  EXPECT_THAT(Gpt2("x\t\ty"), ElementsAre("x", "\t", "\t", "y"));
  EXPECT_THAT(Gpt2(" (3)!?"), ElementsAre(" (", "3", ")!?"));
  EXPECT_TRUE(Gpt2("").empty());
}

TEST(PreTokenizer, SmolLmWords) {
  EXPECT_THAT(SmolLm("a  1"), ElementsAre("a", "  ", "1"));
  EXPECT_THAT(SmolLm("  12 b"), ElementsAre("  ", "1", "2", " b"));
  EXPECT_THAT(SmolLm("x\u00BD 2"), ElementsAre("x", "\u00BD", " ", "2"));
  EXPECT_THAT(SmolLm("\n\n3 \t"), ElementsAre("\n\n", "3", " \t"));
  EXPECT_THAT(SmolLm("1's 's"), ElementsAre("1", "'s", " '", "s"));
}

TEST(PreTokenizer, UnicodeClasses) {
  // U+0085 and U+3000 are spaces; U+180E, U+200B and U+001C are not.
  EXPECT_THAT(Gpt2("!\u0085\u3000"), ElementsAre("!", "\u0085\u3000"));
  EXPECT_THAT(Gpt2("!\u180E\u200B\x1C"), ElementsAre("!\u180E\u200B\x1C"));
  // Combining marks are no letters: they go with the signs.
  EXPECT_THAT(Gpt2("e\u0301x"), ElementsAre("e", "\u0301", "x"));
  EXPECT_THAT(Gpt2("\u65E5\u672C\u2167"), ElementsAre("\u65E5\u672C", "\u2167"));
  // New in Unicode 14: Vithkuqi letters and Tangsa digits.
  EXPECT_THAT(Gpt2("a\U00010570"), ElementsAre("a\U00010570"));
  EXPECT_THAT(Gpt2("1\U00016AC0"), ElementsAre("1\U00016AC0"));
}

TEST(PreTokenizer, BytesThatAreNotUtf8AreWordsOfTheirOwn) {
  EXPECT_THAT(Gpt2("ab\xFF\xFE"
                   "cd"),
              ElementsAre("ab", "\xFF\xFE", "cd"));
  EXPECT_THAT(Gpt2("a  \xC3"), ElementsAre("a", "  ", "\xC3"));
  EXPECT_THAT(Gpt2("\xED\xA0\x80"), ElementsAre("\xED\xA0\x80"));
  EXPECT_THAT(SmolLm(std::string_view("\0\0"
                                      "1\x80",
                                      4)),
              ElementsAre(std::string(2, '\0'), "1", "\x80"));
}

TEST(PreTokenizer, WordsAreTheText) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, "pre_tokenizer_test");
    std::string text;
    for (uint64_t n = random.NextBelow(200); n > 0; --n) {
      text += random.NextBelow(2) ? static_cast<char>(random.NextBelow(256))
                                  : "  \n'sa1\xC3\xA9\xE2"[random.NextBelow(10)];
    }
    for (const auto kind : {PreTokenizerKind::kGpt2, PreTokenizerKind::kSmolLm}) {
      std::string joined;
      for (const std::string& word : Words(text, kind)) {
        EXPECT_FALSE(word.empty());
        joined += word;
      }
      EXPECT_EQ(joined, text);
    }
  }
}

TEST(PreTokenizer, LongRunsInOneWord) {
  constexpr size_t kSize = size_t{1} << 20;
  for (const char c : {'a', ' ', '\n', '!', '7', '\0', '\xFF'}) {
    SCOPED_TRACE(c);
    EXPECT_THAT(Gpt2(std::string(kSize, c)), ElementsAre(std::string(kSize, c)));
  }
  EXPECT_EQ(SmolLm(std::string(kSize, '7')).size(), kSize);
  std::string spaces(kSize, ' ');
  spaces += 'x';
  EXPECT_THAT(Gpt2(spaces), ElementsAre(std::string(kSize - 1, ' '), " x"));
}

}  // namespace
}  // namespace tq
