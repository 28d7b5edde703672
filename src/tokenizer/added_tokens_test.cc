#include "tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"

namespace tq {
namespace {

TEST(AddedTokens, LeftmostThenLongest) {
  AddedTokens tokens;
  tokens.Add("<a>", 1, true);
  tokens.Add("<a><b>", 2, true);
  tokens.Add("<", 3, false);
  tokens.Add("b>c", 4, false);
  tokens.Finish();
  const auto expect = [&](std::string_view text, size_t from, bool control, size_t begin,
                          size_t size, int32_t id) {
    const auto match = tokens.Find(text, from, control);
    EXPECT_EQ(match.begin, begin) << text;
    EXPECT_EQ(match.size, size) << text;
    EXPECT_EQ(match.id, id) << text;
  };
  expect("x<a><b>c", 0, true, 1, 6, 2);
  expect("x<a><b>c", 0, false, 1, 1, 3);
  expect("x<a><b>c", 2, false, 4, 1, 3);
  expect("x<a><b>c", 5, false, 5, 3, 4);
  expect("<a><bc", 0, true, 0, 3, 1);
  EXPECT_EQ(tokens.Find("a>b", 0, true).size, 0u);
  EXPECT_EQ(tokens.Find("", 0, true).size, 0u);
  EXPECT_EQ(tokens.Find("<", 1, true).size, 0u);
}

TEST(AddedTokens, OfEqualTextsTheFirstCounts) {
  AddedTokens tokens;
  tokens.Add("ab", 7, false);
  tokens.Add("ab", 3, false);
  tokens.Finish();
  EXPECT_EQ(tokens.Find(std::string_view("ab\0\0", 4), 0, true).id, 7);
}

// Control tokens of which no byte is untrusted; the others anywhere.
TEST(AddedTokens, ControlTokensOfTrustedBytes) {
  AddedTokens tokens;
  tokens.Add("<a>", 1, true);
  tokens.Add("<a><b>", 2, true);
  tokens.Add("<c>", 3, false);
  tokens.Finish();
  const std::string_view text = "<a><b><c><a>";
  const auto id = [&](size_t from, std::vector<TextSpan> untrusted, size_t offset = 0) {
    return tokens.FindTrusted(text, from, untrusted, offset).id;
  };
  EXPECT_EQ(id(0, {}), 2);
  EXPECT_EQ(id(0, {{6, 9}}), 2);
  EXPECT_EQ(id(0, {{5, 9}}), 1);  // the longer one is cut
  EXPECT_EQ(id(0, {{3, 4}, {7, 8}}), 1);
  EXPECT_EQ(id(0, {{2, 3}}), 3);
  EXPECT_EQ(id(0, {{0, 12}}), 3);
  EXPECT_EQ(id(7, {{0, 12}}), -1);
  EXPECT_EQ(id(7, {{0, 9}}), 1);
  EXPECT_EQ(id(7, {{0, 10}}), -1);
  EXPECT_EQ(id(7, {{11, 12}}), -1);
  // The spans of a text that this one is a part of.
  EXPECT_EQ(id(0, {{0, 100}, {105, 109}}, 100), 1);
  EXPECT_EQ(id(7, {{0, 100}, {112, 120}}, 100), 1);
}

TEST(AddedTokens, EqualsTryingThemAll) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, "added_tokens_test");
    const auto text_of = [&](uint64_t most) {
      std::string text;
      for (uint64_t n = 1 + random.NextBelow(most); n > 0; --n)
        text += "ab\xFF"[random.NextBelow(3)];
      return text;
    };
    std::vector<std::string> texts;
    AddedTokens tokens;
    for (int i = 0; i < 12; ++i) {
      const std::string text = text_of(5);
      if (std::find(texts.begin(), texts.end(), text) != texts.end()) continue;
      tokens.Add(text, static_cast<int32_t>(texts.size()), texts.size() % 2 == 0);
      texts.push_back(text);
    }
    tokens.Finish();
    const std::string text = text_of(30);
    for (const bool control : {false, true}) {
      size_t begin = 0, size = 0;
      int32_t id = -1;
      for (size_t at = 0; at < text.size() && size == 0; ++at) {
        for (size_t i = 0; i < texts.size(); ++i) {
          if (!control && i % 2 == 0) continue;
          if (texts[i].size() <= size || text.compare(at, texts[i].size(), texts[i]) != 0) continue;
          begin = at, size = texts[i].size(), id = static_cast<int32_t>(i);
        }
      }
      const auto match = tokens.Find(text, 0, control);
      EXPECT_EQ(match.size, size);
      EXPECT_EQ(match.id, id);
      if (size > 0) {
        EXPECT_EQ(match.begin, begin);
      }
    }
  }
}

}  // namespace
}  // namespace tq
