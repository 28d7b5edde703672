// Pictures for an HTML page, as inline SVG with HTML around it. They fill the width of their
// parent: positions across are percentages, so that text and markers keep their size on any
// screen. Every mark carries a <title>, shown when the pointer rests on it. Styles are in
// evaluate/report_style.h. All text is escaped here; what is not finite is left out.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace tq {

// Colours of categories: series, parts. More than this many start again.
inline constexpr size_t kCategoryColours = 8;

// A table of coloured cells: rows by columns, and cells of full height beside it.
struct HeatMap {
  struct Cell {
    size_t row = 0, column = 0;
    double shade = 0;  // 0 to 1
    std::string title = {};
  };
  struct Side {
    std::string name = {};
    double shade = 0;
    std::string title = {};
  };
  std::string label = {};           // what it shows, for those who do not see it
  char scale = 'b';                 // of colours: 'b' (amount) or 'e' (loss)
  std::string column_caption = {};  // below
  std::vector<std::string> rows = {}, columns = {};
  std::vector<Cell> cells = {};
  std::vector<Side> sides = {};
  std::vector<std::string> scale_ticks = {};  // evenly along the scale of colours
  std::string scale_caption = {};
};
std::string HeatMapMarkup(const HeatMap& map);

// Points and lines over a linear x and a logarithmic y.
struct LogPlot {
  enum class Marker { kNone, kDot, kCircle, kDiamond, kSquare };
  struct Point {
    double x = 0, y = 0;                 // y <= 0 is drawn at the lower edge
    std::optional<double> y_error = {};  // a bar of +- this
    std::string text = {};               // beside the point, where there is room
    std::string title = {};
  };
  struct Series {
    std::string name = {};  // in the legend; empty: not there
    size_t colour = 0;
    Marker marker = Marker::kDot;
    bool line = false, dashed = false;  // through the points, in their order
    std::vector<Point> points = {};
  };
  std::string label = {}, x_caption = {}, y_caption = {};
  std::vector<Series> series = {};  // later ones are drawn over earlier ones
};
// Empty when no point is finite.
std::string LogPlotMarkup(const LogPlot& plot);

// One bar of parts, as long as the greater of their sum and `limit`, which a line marks.
struct StackedBar {
  struct Part {
    double size = 0;
    size_t colour = 0;
    std::string title = {};
  };
  std::string label = {};
  std::vector<Part> parts = {};
  std::optional<double> limit = {};
  std::string limit_title = {};
};
std::string StackedBarMarkup(const StackedBar& bar);

// A small square of a category's colour.
std::string Swatch(size_t colour);

}  // namespace tq
