#include "evaluate/svg_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <limits>

namespace tq {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// No number that is none, in any spelling that a formatter may use.
void ExpectFinite(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  EXPECT_THAT(text, Not(HasSubstr("nan")));
  EXPECT_THAT(text, Not(HasSubstr("inf")));
}

LogPlot Plot(std::vector<LogPlot::Point> points) {
  LogPlot plot{.label = "l", .x_caption = "x", .y_caption = "y", .series = {}};
  plot.series.push_back({.name = "s", .line = true, .points = std::move(points)});
  return plot;
}

size_t Count(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++count;
  return count;
}

TEST(HeatMap, ACellPerMatrixWithItsShadeAndTitle) {
  HeatMap map{.label = "l", .rows = {"q", "k"}, .columns = {"0"}};
  map.cells = {{0, 0, 0, "a<b"}, {1, 0, 1, "high"}, {0, 0, kNan, "lost"}};
  map.sides = {{"head", 0.5, "side"}};
  const std::string out = HeatMapMarkup(map);
  EXPECT_THAT(out, HasSubstr(R"(class="b0")"));
  EXPECT_THAT(out, HasSubstr(R"(class="b11")"));
  EXPECT_THAT(out, HasSubstr("<title>a&lt;b</title>"));
  EXPECT_THAT(out, HasSubstr("<title>side</title>"));
  EXPECT_THAT(out, Not(HasSubstr("lost")));
}

TEST(HeatMap, NamesFewEnoughColumns) {
  for (const size_t n : {1, 2, 8, 9, 30, 126, 5000}) {
    HeatMap map{.rows = {"q"}, .columns = std::vector<std::string>(n, "L")};
    EXPECT_LE(Count(HeatMapMarkup(map), ">L<"), 8u) << n;
    EXPECT_GE(Count(HeatMapMarkup(map), ">L<"), std::min<size_t>(n, 3)) << n;
  }
}

TEST(LogPlot, HasTicksOnBothAxes) {
  const std::string out = LogPlotMarkup(Plot({{.x = 1, .y = 0.5}, {.x = 4, .y = 0.001}}));
  for (const char* tick : {">0.001<", ">0.01<", ">0.1<", ">2<", ">3<"}) {
    EXPECT_THAT(out, HasSubstr(tick));
  }
}

TEST(LogPlot, ZeroIsDrawnAtTheLowerEdge) {
  const std::string out = LogPlotMarkup(Plot({{.x = 1, .y = 0.5, .title = "a"},
                                              {.x = 2, .y = 0, .title = "b"},
                                              {.x = 3, .y = -1e-9, .title = "c"}}));
  EXPECT_EQ(Count(out, "y=\"100.000%\"><title>"), 2u);
  ExpectFinite(out);
}

// Robustness case 71.
TEST(LogPlot, AnyDoubleGivesAFinitePicture) {
  const double values[] = {
      0,     -0.0,    1,      -1,   1e-320,    5e-324,     1e-9,
      1e300, 1.7e308, -1e308, kNan, kInfinity, -kInfinity, 2.2250738585072014e-308};
  for (const double a : values) {
    for (const double b : values) {
      ExpectFinite(
          LogPlotMarkup(Plot({{.x = a, .y = b, .y_error = a}, {.x = 2, .y = a, .y_error = b}})));
    }
  }
  EXPECT_EQ(LogPlotMarkup(Plot({{.x = kNan, .y = 1}})), "");
  EXPECT_EQ(LogPlotMarkup(LogPlot{}), "");
}

TEST(LogPlot, TextsThatWouldMeetAreLeftOut) {
  std::vector<LogPlot::Point> points(50, {.x = 1, .y = 1, .text = "beside"});
  EXPECT_LE(Count(LogPlotMarkup(Plot(points)), ">beside<"), 4u);
  points.resize(1);
  EXPECT_EQ(Count(LogPlotMarkup(Plot(points)), ">beside<"), 1u);
}

TEST(StackedBar, PartsAndTheLimit) {
  const std::string out =
      StackedBarMarkup({.label = "l",
                        .parts = {{1, 0, "one"}, {kNan, 1, ""}, {-2, 1, ""}, {1, 9, "two"}},
                        .limit = 4,
                        .limit_title = "budget"});
  EXPECT_THAT(out, HasSubstr(R"(class="part c0" x="0.000%" y="3" width="25.000%")"));
  EXPECT_THAT(out, HasSubstr(R"(class="part c1" x="25.000%" y="3" width="25.000%")"));
  EXPECT_THAT(out, HasSubstr(R"(x1="100.000%")"));
  ExpectFinite(out);
  EXPECT_EQ(StackedBarMarkup({}), "");
  // More than the limit: the line stands inside.
  EXPECT_THAT(StackedBarMarkup({.parts = {{8, 0, ""}}, .limit = 4}), HasSubstr(R"(x1="50.000%")"));
}

}  // namespace
}  // namespace tq
