#include "generate/stop_text.h"

#include <gtest/gtest.h>

namespace tq {
namespace {

// What is shown of `text` when it arrives in pieces of `size` bytes.
std::string Shown(std::string_view text, size_t size) {
  StopText stop("\nUser:");
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) out += stop.Push(text.substr(i, size));
  return out + stop.Flush();
}

TEST(StopTextTest, CutsAtTheStopSequenceHoweverItArrives) {
  for (size_t size = 1; size < 12; ++size) {
    EXPECT_EQ(Shown("Hello\nUser: again", size), "Hello");
    EXPECT_EQ(Shown("Hello\nUse a pen\n\nUser:", size), "Hello\nUse a pen\n");
    EXPECT_EQ(Shown("ends with \nUse", size), "ends with \nUse");
    EXPECT_EQ(Shown("", size), "");
  }
}

}  // namespace
}  // namespace tq
