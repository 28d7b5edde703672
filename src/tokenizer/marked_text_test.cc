#include "tokenizer/marked_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tq {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

MarkedText Sample() {
  MarkedText text = MarkedText::Trusted("<a>");
  text.Append(MarkedText::Untrusted("xy"));
  text.Append(MarkedText::Untrusted("z"));
  text.Append("</a>");
  return text;
}

TEST(MarkedTextTest, SpansFollowTheirBytes) {
  const MarkedText text = Sample();
  EXPECT_EQ(text.bytes(), "<a>xyz</a>");
  EXPECT_THAT(text.untrusted(), ElementsAre(TextSpan{3, 6}));
  EXPECT_THAT(text.Substr(4, 4).untrusted(), ElementsAre(TextSpan{0, 2}));
  EXPECT_EQ(text.Substr(4, 4).bytes(), "yz</");
  EXPECT_THAT(text.Substr(0, 3).untrusted(), IsEmpty());
  EXPECT_THAT(text.Substr(6, 4).untrusted(), IsEmpty());
  MarkedText twice = text;
  twice.Append(text);
  EXPECT_THAT(twice.untrusted(), ElementsAre(TextSpan{3, 6}, TextSpan{13, 16}));
}

TEST(MarkedTextTest, OtherBytesKeepTheSuspicion) {
  EXPECT_THAT(Sample().WithBytes("<A>").untrusted(), ElementsAre(TextSpan{0, 3}));
  EXPECT_THAT(MarkedText::Trusted("a").WithBytes("A").untrusted(), IsEmpty());
  EXPECT_THAT(MarkedText::Untrusted("").untrusted(), IsEmpty());
}

}  // namespace
}  // namespace tq
