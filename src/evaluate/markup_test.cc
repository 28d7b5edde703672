#include "evaluate/markup.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tq {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Markup, EscapesWhatHasAMeaning) {
  EXPECT_EQ(EscapeMarkup("<script>\"a\" & 'b'</script>"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;");
  EXPECT_EQ(EscapeMarkup("&amp;"), "&amp;amp;");
  EXPECT_EQ(EscapeMarkup("é→漢😀\n\t"), "é→漢😀\n\t");
}

TEST(Markup, ReplacesWhatIsNoCharacterOfXml) {
  EXPECT_EQ(EscapeMarkup("a\xC3(\xFF"), "a�(�");
  EXPECT_EQ(EscapeMarkup(std::string_view("\0\x01\x1B[\x7F\r", 6)), "���[��");
  EXPECT_EQ(EscapeMarkup("\xEF\xBF\xBE|\xEF\xBF\xBF"), "�|�");
}

TEST(Markup, ShortensByCharacters) {
  EXPECT_EQ(Shorten("日本語", 3), "日本語");
  EXPECT_EQ(Shorten("日本語", 2), "日本…");
  EXPECT_EQ(Shorten("\xFFxy", 1), "�…");
  EXPECT_EQ(Shorten("", 0), "");
}

TEST(Markup, Numbers) {
  EXPECT_EQ(FormatNumber(0.08123), "0.0812");
  EXPECT_EQ(FormatNumber(18.44), "18.4");
  EXPECT_EQ(FormatNumber(1250.4), "1250");
  EXPECT_EQ(FormatNumber(-0.5), "-0.500");
  EXPECT_EQ(FormatNumber(3.2e-6), "3.20×10⁻⁶");
  EXPECT_EQ(FormatNumber(1e300), "1.00×10³⁰⁰");
  EXPECT_EQ(FormatNumber(5e-324), "4.94×10⁻³²⁴");
  EXPECT_EQ(FormatNumber(0), "0");
  EXPECT_EQ(FormatNumber(kNan), "–");
  EXPECT_EQ(FormatNumber(-kInfinity), "–");
}

TEST(Markup, Ticks) {
  EXPECT_EQ(FormatTick(0.002), "0.002");
  EXPECT_EQ(FormatTick(0.1 * 3), "0.3");
  EXPECT_EQ(FormatTick(2000), "2000");
  EXPECT_EQ(FormatTick(1e-7), "10⁻⁷");
  EXPECT_EQ(FormatTick(std::pow(10.0, -23)), "10⁻²³");
  EXPECT_EQ(FormatTick(2e12), "2×10¹²");
  EXPECT_EQ(FormatTick(kNan), "–");
}

TEST(Markup, ErrorsSetTheDigits) {
  EXPECT_EQ(FormatWithError(0.08123, 0.00131), "0.0812 ± 0.0013");
  EXPECT_EQ(FormatWithError(18.4321, 0.21), "18.43 ± 0.21");
  EXPECT_EQ(FormatWithError(3.2e-6, 1.1e-7), "(3.20 ± 0.11)×10⁻⁶");
  EXPECT_EQ(FormatWithError(0, 0.02), "0.000 ± 0.020");
  EXPECT_EQ(FormatWithError(120, 35), "120 ± 35");
  EXPECT_EQ(FormatWithError(1e-9, 5e-324), "1.00×10⁻⁹");
  EXPECT_EQ(FormatWithError(0.5, 0), "0.500");
  EXPECT_EQ(FormatWithError(0.5, kNan), "0.500");
  EXPECT_EQ(FormatWithError(kNan, 1), "–");
}

TEST(Markup, SharesAndCounts) {
  EXPECT_EQ(FormatShare(0.8731), "87.3 %");
  EXPECT_EQ(FormatShare(1), "100.0 %");
  EXPECT_EQ(FormatShare(0.99999), "99.99 %");
  EXPECT_EQ(FormatShare(0), "0.0 %");
  EXPECT_EQ(FormatShare(0.0000123), "0.00123 %");
  EXPECT_EQ(FormatShare(kNan), "–");
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(134515008), "134,515,008");
}

}  // namespace
}  // namespace tq
