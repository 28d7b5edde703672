#include "tokenizer/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace tq {
namespace {

std::string Encoded(uint32_t c) {
  std::string out;
  if (c < 0x80) {
    out = {static_cast<char>(c)};
  } else if (c < 0x800) {
    out = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
  } else if (c < 0x10000) {
    out = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
           static_cast<char>(0x80 | (c & 0x3F))};
  } else {
    out = {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
           static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
  }
  return out;
}

TEST(Utf8, EveryCodePoint) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    const std::string text = Encoded(c);
    if (c >= 0xD800 && c < 0xE000) {
      ASSERT_EQ(Utf8CharSize(text), 0u) << c;
      continue;
    }
    std::string appended;
    AppendUtf8(c, appended);
    ASSERT_EQ(appended, text);
    ASSERT_EQ(Utf8CharSize(text + "x"), text.size()) << c;
    ASSERT_EQ(Utf8CodePoint(text, text.size()), c);
    ASSERT_EQ(Utf8CharSize(text.substr(0, text.size() - 1)), 0u) << "truncated " << c;
  }
}

TEST(Utf8, RefusesWhatIsNotWellFormed) {
  for (const char* text : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                           "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFE",
                           "\xFF", "\xC3(", "\xE2\x82(", "\xF0\x9F\x98("}) {
    EXPECT_EQ(Utf8CharSize(text), 0u) << text;
  }
}

TEST(Utf8, ValidPrefix) {
  EXPECT_EQ(Utf8ValidPrefix(""), 0u);
  EXPECT_EQ(Utf8ValidPrefix("a\xC3\xA9"), 3u);
  EXPECT_EQ(Utf8ValidPrefix("a\xC3\xA9\xC3"), 3u);
  EXPECT_EQ(Utf8ValidPrefix(std::string_view("\0\xFFz", 3)), 1u);
}

TEST(Utf8, ReplacesWhatIsNotWellFormed) {
  EXPECT_EQ(ReplaceInvalidUtf8(""), "");
  EXPECT_EQ(ReplaceInvalidUtf8("a\xC3\xA9z"), "a\xC3\xA9z");
  EXPECT_EQ(ReplaceInvalidUtf8("\xFF"
                               "a\xE2\x82"),
            "�a��");
}

}  // namespace
}  // namespace tq
