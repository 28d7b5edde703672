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

TEST(PreTokenizer, Llama3Words) {
  const auto words = [](std::string_view text) { return Words(text, PreTokenizerKind::kLlama3); };
  EXPECT_THAT(words("Hello world"), ElementsAre("Hello", " world"));
  // The long s is a small letter S, too.
  EXPECT_THAT(words("x'\u017F we'LL 'S"), ElementsAre("x", "'\u017F", " we", "'LL", " '", "S"));
  EXPECT_THAT(words("1234567 89"), ElementsAre("123", "456", "7", " ", "89"));
  EXPECT_THAT(words("(a) -- b"), ElementsAre("(a", ")", " --", " b"));
  EXPECT_THAT(words("x!?\r\n\n y"), ElementsAre("x", "!?\r\n\n", " y"));
  EXPECT_THAT(words("a  \n  b   "), ElementsAre("a", "  \n", " ", " b", "   "));
  EXPECT_THAT(words("\ta\t\tb"), ElementsAre("\ta", "\t", "\tb"));
  EXPECT_THAT(words("e\u0301x"), ElementsAre("e", "\u0301x"));
}

TEST(PreTokenizer, Qwen2Words) {
  const auto words = [](std::string_view text) { return Words(text, PreTokenizerKind::kQwen2); };
  EXPECT_THAT(words("it's 123\n"), ElementsAre("it", "'s", " ", "1", "2", "3", "\n"));
}

TEST(PreTokenizer, TekkenWords) {
  const auto words = [](std::string_view text) { return Words(text, PreTokenizerKind::kTekken); };
  EXPECT_THAT(words("camelCaseHTTPServer"), ElementsAre("camel", "Case", "HTTPServer"));
  EXPECT_THAT(words("it's 12"), ElementsAre("it", "'s", " ", "1", "2"));
  EXPECT_THAT(words("a//\n/b \u65E5\u672CX"), ElementsAre("a", "//\n/", "b", " \u65E5\u672C", "X"));
  EXPECT_THAT(words("e\u0301A"), ElementsAre("e\u0301", "A"));
}

TEST(PreTokenizer, WithoutPatterns) {
  const std::string text = "\u2581a b\u2581\u2581\xFF";
  EXPECT_THAT(Words(text, PreTokenizerKind::kNone), ElementsAre(text));
  EXPECT_THAT(Words(text, PreTokenizerKind::kMetaspace), ElementsAre(text));
  EXPECT_THAT(Words(text, PreTokenizerKind::kMetaspaceWords),
              ElementsAre("\u2581a b", "\u2581", "\u2581\xFF"));
  for (const auto kind : {PreTokenizerKind::kNone, PreTokenizerKind::kMetaspaceWords}) {
    EXPECT_TRUE(Words("", kind).empty());
  }
}

TEST(PreTokenizer, PatternsAreKnownByTheirSpelling) {
  for (const auto kind :
       {PreTokenizerKind::kLlama3, PreTokenizerKind::kQwen2, PreTokenizerKind::kTekken}) {
    ASSERT_TRUE(PatternOf(kind));
    EXPECT_EQ(KindOfPattern(*PatternOf(kind)), kind);
  }
  EXPECT_FALSE(PatternOf(PreTokenizerKind::kGpt2));
  EXPECT_FALSE(KindOfPattern("\\s+"));
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
    for (const auto kind :
         {PreTokenizerKind::kGpt2, PreTokenizerKind::kSmolLm, PreTokenizerKind::kLlama3,
          PreTokenizerKind::kQwen2, PreTokenizerKind::kTekken, PreTokenizerKind::kNone,
          PreTokenizerKind::kMetaspaceWords}) {
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
  // Runs that the later patterns look through before they cut them otherwise.
  for (const auto kind :
       {PreTokenizerKind::kLlama3, PreTokenizerKind::kQwen2, PreTokenizerKind::kTekken}) {
    for (const std::string_view unit : {"a", "A", "Aa", " ", "\n", "\n ", "! ", "!\n", "\u0301"}) {
      SCOPED_TRACE(unit);
      std::string text;
      while (text.size() < kSize) text += unit;
      text += "x";
      std::string joined;
      for (const std::string& word : Words(text, kind)) joined += word;
      EXPECT_EQ(joined, text);
    }
  }
  std::string spaces(kSize, ' ');
  spaces += 'x';
  EXPECT_THAT(Gpt2(spaces), ElementsAre(std::string(kSize - 1, ' '), " x"));
}

}  // namespace
}  // namespace tq
