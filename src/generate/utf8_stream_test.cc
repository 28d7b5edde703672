#include "generate/utf8_stream.h"

#include <gtest/gtest.h>

#include <string>

#include "base/random.h"

namespace tq {
namespace {

constexpr const char* kBad = "\xEF\xBF\xBD";

std::string Whole(std::string_view bytes) {
  Utf8Stream stream;
  std::string text = stream.Push(bytes);
  return text + stream.Finish();
}

TEST(Utf8Stream, HoldsBackWhatIsIncomplete) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xE2"), "a");
  EXPECT_EQ(stream.Push("\x82"), "");
  EXPECT_EQ(stream.Push("\xAC!"), "\xE2\x82\xAC!");
  EXPECT_EQ(stream.Push("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.Push("\x80\xF0"), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.Finish(), kBad);
  EXPECT_EQ(stream.Finish(), "");
  EXPECT_EQ(stream.Push("x"), "x");
}

TEST(Utf8Stream, ReplacesIllFormedBytes) {
  const std::string bad = kBad;
  EXPECT_EQ(Whole("\x80"), bad);
  EXPECT_EQ(Whole("\xFFz"), bad + "z");
  EXPECT_EQ(Whole("\xC0\xAF"), bad + bad);                      // overlong
  EXPECT_EQ(Whole("\xE0\x80\x80"), bad + bad + bad);            // overlong
  EXPECT_EQ(Whole("\xED\xA0\x80"), bad + bad + bad);            // surrogate
  EXPECT_EQ(Whole("\xF4\x90\x80\x80"), bad + bad + bad + bad);  // above U+10FFFF
  EXPECT_EQ(Whole("\xF5\x80"), bad + bad);
  EXPECT_EQ(Whole("\xE2\x82z"), bad + "z");  // one for the maximal part
  EXPECT_EQ(Whole("\xE2\xE2\x82\xAC"), bad + "\xE2\x82\xAC");
  EXPECT_EQ(Whole("\xF0\x9F\x98"), bad);
}

// The example of Unicode 14, table 3-11.
TEST(Utf8Stream, UnicodesOwnExample) {
  const std::string bad = kBad;
  EXPECT_EQ(Whole("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a" + bad + bad + bad + "b" + bad + "c" + bad + bad + "d");
}

TEST(Utf8Stream, CutsDoNotMatter) {
  Random random(7, "utf8");
  for (int round = 0; round < 500; ++round) {
    std::string bytes;
    const std::string_view pieces[] = {"a",    "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                                       "\xED", "\x80",     "\xF4",         "\xE0",
                                       "\xFF"};
    for (int i = 0; i < 12; ++i) bytes += pieces[random.NextBelow(std::size(pieces))];
    Utf8Stream stream;
    std::string text;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = 1 + random.NextBelow(3);
      const std::string out = stream.Push(bytes.substr(at, n));
      EXPECT_EQ(Whole(out), out) << "a piece is not well-formed by itself, round " << round;
      text += out;
      at += n;
    }
    text += stream.Finish();
    ASSERT_EQ(text, Whole(bytes)) << round;
  }
}

}  // namespace
}  // namespace tq
