#include "evaluate/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "evaluate/markup.h"

namespace tq {
namespace {

// Steps of a scale of colours: the classes b0 .. b11 and e0 .. e11 of evaluate/report_style.h.
constexpr int kShades = 12;

// Average advance of a character of the charts' 12-pixel font, in pixels.
constexpr double kCharWidth = 7.3;

// A position across, as a percentage with enough digits for a wide screen.
std::string Percent(double share) { return fmt::format("{:.3f}%", 100 * share); }

int ShadeStep(double shade) {
  return static_cast<int>(std::lround(std::clamp(shade, 0.0, 1.0) * (kShades - 1)));
}

std::string Title(std::string_view text) {
  return text.empty() ? "" : fmt::format("<title>{}</title>", EscapeMarkup(text));
}

// The width that row labels need left of a picture.
double LabelWidth(const std::vector<std::string>& labels) {
  size_t longest = 0;
  for (const std::string& label : labels) longest = std::max(longest, label.size());
  return kCharWidth * static_cast<double>(longest) + 10;
}

}  // namespace

// --- Heat map ---------------------------------------------------------------------------------

namespace {

constexpr int kRowHeight = 20;  // pixels
constexpr int kMaxColumn = 40;  // pixels; few layers do not fill the page
constexpr int kSideWidth = 46;  // pixels
constexpr int kMaxTicks = 8;    // so that three digits each fit on a phone
constexpr size_t kLabelChars = 14;
constexpr size_t kDenseColumns = 49;  // from here on a phone has no pixels for gaps between them

// Every n-th column is named, n from 1, 2, 5, 10, 20, ...
size_t TickStep(size_t columns) {
  size_t step = 1;
  for (size_t decade = 1;; decade *= 10) {
    for (const size_t factor : {1, 2, 5}) {
      step = decade * factor;
      if (columns <= step * kMaxTicks) return step;
    }
  }
}

std::string HeatMapCells(const HeatMap& map) {
  std::string out;
  const auto columns = static_cast<double>(map.columns.size());
  const std::string width = Percent(1 / columns);
  for (const HeatMap::Cell& cell : map.cells) {
    if (!std::isfinite(cell.shade)) continue;
    out += fmt::format(R"(<rect class="{}{}" x="{}" y="{}" width="{}" height="{}">{}</rect>)",
                       map.scale, ShadeStep(cell.shade),
                       Percent(static_cast<double>(cell.column) / columns), kRowHeight * cell.row,
                       width, kRowHeight - 1, Title(cell.title));
  }
  return out;
}

std::string HeatMapLabels(const HeatMap& map) {
  std::string out;
  for (size_t row = 0; row < map.rows.size(); ++row) {
    out += fmt::format(R"(<text x="-8" y="{}" text-anchor="end">{}</text>)", kRowHeight * row + 14,
                       EscapeMarkup(map.rows[row]));
  }
  const size_t step = TickStep(map.columns.size());
  const size_t bottom = kRowHeight * map.rows.size();
  for (size_t column = 0; column < map.columns.size(); column += step) {
    const double x = (static_cast<double>(column) + 0.5) / static_cast<double>(map.columns.size());
    out += fmt::format(R"(<text x="{}" y="{}" text-anchor="middle">{}</text>)", Percent(x),
                       bottom + 15, EscapeMarkup(map.columns[column]));
  }
  out += fmt::format(R"(<text class="caption" x="50%" y="{}" text-anchor="middle">{}</text>)",
                     bottom + 31, EscapeMarkup(map.column_caption));
  return out;
}

std::string HeatMapSides(const HeatMap& map, size_t rows) {
  std::string out;
  int x = 0;
  for (const HeatMap::Side& side : map.sides) {
    if (!std::isfinite(side.shade)) continue;
    out += fmt::format(R"(<rect class="{}{}" x="{}" y="0" width="{}" height="{}">{}</rect>)"
                       R"(<text x="{}" y="{}" text-anchor="middle">{}</text>)",
                       map.scale, ShadeStep(side.shade), x + 3, kSideWidth - 6, kRowHeight * rows,
                       Title(side.title), x + kSideWidth / 2, kRowHeight * rows + 15,
                       EscapeMarkup(Shorten(side.name, 6)));
    x += kSideWidth;
  }
  if (out.empty()) return out;
  return fmt::format(R"(<svg class="sides" width="{}" height="{}" aria-hidden="true">{}</svg>)", x,
                     kRowHeight * rows + 36, out);
}

std::string HeatMapScale(const HeatMap& map) {
  std::string out =
      fmt::format(R"(<div class="scale"><span>{}</span>)", EscapeMarkup(map.scale_caption));
  out += R"(<svg width="204" height="32" aria-hidden="true">)";
  constexpr double kStep = 17;  // pixels
  for (int i = 0; i < kShades; ++i) {
    out += fmt::format(R"(<rect class="{}{}" x="{}" y="1" width="{}" height="12"/>)", map.scale, i,
                       kStep * i, kStep);
  }
  const size_t ticks = map.scale_ticks.size();
  for (size_t i = 0; i < ticks; ++i) {
    // The first and the last stay within the scale's ends.
    const double share = ticks == 1 ? 0.5 : static_cast<double>(i) / static_cast<double>(ticks - 1);
    out += fmt::format(R"(<text x="{}" y="27" text-anchor="{}">{}</text>)", share * kShades * kStep,
                       share == 0   ? "start"
                       : share == 1 ? "end"
                                    : "middle",
                       EscapeMarkup(map.scale_ticks[i]));
  }
  return out + "</svg></div>\n";
}

}  // namespace

std::string HeatMapMarkup(const HeatMap& map) {
  HeatMap shown = map;
  for (std::string& row : shown.rows) row = Shorten(row, kLabelChars);
  const size_t rows = std::max<size_t>(shown.rows.size(), 3);
  std::string out = fmt::format("<div class=\"map\" role=\"img\" aria-label=\"{}\">\n",
                                EscapeMarkup(shown.label));
  if (!shown.columns.empty()) {
    out += fmt::format(
        "<div class=\"layers{}\" style=\"padding-left:{:.0f}px;max-width:{:.0f}px\">"
        "<svg width=\"100%\" height=\"{}\" aria-hidden=\"true\">{}{}</svg></div>\n",
        shown.columns.size() < kDenseColumns ? "" : " dense", LabelWidth(shown.rows),
        LabelWidth(shown.rows) + kMaxColumn * static_cast<double>(shown.columns.size()),
        kRowHeight * rows + 36, HeatMapCells(shown), HeatMapLabels(shown));
  }
  return out + HeatMapSides(shown, rows) + "\n</div>\n" + HeatMapScale(shown);
}

// --- Plot -------------------------------------------------------------------------------------

namespace {

constexpr int kPlotHeight = 340;      // pixels
constexpr double kNarrowPlot = 270;   // pixels: the plot's width on a phone of 360
constexpr double kLeastRatio = 1e-9;  // of the ends of a logarithmic axis
constexpr double kLineHeight = 14;    // pixels

struct Tick {
  double share = 0;  // of the axis, from its start
  std::string text;
};

struct Axis {
  double low = 0, high = 1;  // of the value, or of its logarithm
  bool log = false;
  std::vector<Tick> ticks = {};

  double Share(double value) const {
    if (log && value <= 0) return 0;
    const double v = log ? std::log10(value) : value;
    return std::clamp((v - low) / (high - low), 0.0, 1.0);
  }
};

Axis LinearAxis(double low, double high) {
  // Halves, so that the range of doubles of any size is finite.
  const double centre = low / 2 + high / 2;
  double half = std::max(high / 2 - low / 2, std::abs(centre) * 0.01) * 1.08;
  if (half == 0) half = 1;
  Axis axis{.low = centre - half, .high = centre + half};
  // At most five steps of 1, 2 or 5 times a power of ten.
  const double raw = 2 * half / 5;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double mantissa = raw / power;
  const double step = power * (mantissa <= 1 ? 1 : mantissa <= 2 ? 2 : mantissa <= 5 ? 5 : 10);
  for (double i = std::ceil(axis.low / step); i * step <= axis.high && axis.ticks.size() < 12;
       ++i) {
    axis.ticks.push_back({axis.Share(i * step), FormatTick(i * step)});
  }
  return axis;
}

Axis LogAxis(double low, double high) {
  low = std::max(low, high * kLeastRatio);
  Axis axis{.low = std::log10(low) - 0.12, .high = std::log10(high) + 0.12, .log = true};
  const double decades = axis.high - axis.low;
  const auto stride = static_cast<int>(std::ceil(decades / 7));
  for (auto e = static_cast<int>(std::floor(axis.low)); e <= axis.high; ++e) {
    if (e % stride != 0) continue;
    for (const int mantissa : {1, 2, 3, 5, 7}) {
      const bool shown = mantissa == 1 || (decades < 3.2 && (mantissa == 2 || mantissa == 5)) ||
                         (decades < 0.8 && (mantissa == 3 || mantissa == 7));
      const double value = mantissa * std::pow(10.0, e), at = e + std::log10(mantissa);
      if (!shown || at < axis.low || at > axis.high) continue;
      axis.ticks.push_back({(at - axis.low) / decades, FormatTick(value)});
    }
  }
  return axis;
}

// Finite, and so far from the ends of double that an axis around it is finite too.
bool Drawable(const LogPlot::Point& point) {
  return std::abs(point.x) < 1e300 && std::abs(point.y) < 1e300;
}

struct Frame {
  Axis x, y;
};

// The axes around all finite points; none when there is no such point.
std::optional<Frame> FrameOf(const LogPlot& plot) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = 0;
  for (const LogPlot::Series& series : plot.series) {
    for (const LogPlot::Point& point : series.points) {
      if (!Drawable(point)) continue;
      x_low = std::min(x_low, point.x);
      x_high = std::max(x_high, point.x);
      // A denormal's logarithm is fine, but a tenth of it is not.
      if (point.y < std::numeric_limits<double>::min()) continue;
      y_low = std::min(y_low, point.y);
      y_high = std::max(y_high, point.y);
    }
  }
  if (x_low > x_high) return std::nullopt;
  if (y_high == 0) y_low = 1e-6, y_high = 1e-3;  // all are zero: any axis shows that
  return Frame{LinearAxis(x_low, x_high), LogAxis(y_low, y_high)};
}

std::string PlotGrid(const LogPlot& plot, const Frame& frame) {
  std::string out;
  for (const Tick& tick : frame.y.ticks) {
    const std::string y = Percent(1 - tick.share);
    out += fmt::format(R"(<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>)"
                       R"(<text x="-8" y="{0}" dy="4" text-anchor="end">{1}</text>)",
                       y, tick.text);
  }
  for (const Tick& tick : frame.x.ticks) {
    const std::string x = Percent(tick.share);
    out += fmt::format(R"(<line class="grid" x1="{0}" x2="{0}" y1="0" y2="100%"/>)"
                       R"(<text x="{0}" y="100%" dy="18" text-anchor="middle">{1}</text>)",
                       x, tick.text);
  }
  return out + fmt::format(R"(<text class="caption" x="50%" y="100%" dy="38" text-anchor="middle">)"
                           "{}</text>",
                           EscapeMarkup(plot.x_caption));
}

// Paths know no percentages: they are drawn in a frame of their own that is stretched.
std::string PlotLine(const LogPlot::Series& series, const Frame& frame) {
  std::string path;
  for (const LogPlot::Point& point : series.points) {
    if (!Drawable(point)) continue;
    path += fmt::format("{}{:.2f} {:.2f}", path.empty() ? "M" : "L", 1000 * frame.x.Share(point.x),
                        1000 * (1 - frame.y.Share(point.y)));
  }
  if (path.empty()) return path;
  return fmt::format(
      R"(<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">)"
      R"(<path class="line{} c{}" d="{}"/></svg>)",
      series.dashed ? " dashed" : "", series.colour % kCategoryColours, path);
}

std::string MarkerShape(LogPlot::Marker marker, size_t colour) {
  const size_t c = colour % kCategoryColours;
  switch (marker) {
    case LogPlot::Marker::kDot:
      return fmt::format(R"(<circle class="mark c{}" r="5"/>)", c);
    case LogPlot::Marker::kCircle:
      return fmt::format(R"(<circle class="hollow c{}" r="4.5"/>)", c);
    case LogPlot::Marker::kDiamond:
      return fmt::format(R"(<path class="mark c{}" d="M-7 0L0-7L7 0L0 7Z"/>)", c);
    case LogPlot::Marker::kSquare:
      return fmt::format(R"(<rect class="mark c{}" x="-4.5" y="-4.5" width="9" height="9"/>)", c);
    case LogPlot::Marker::kNone:
      // Nothing to see, but something to point at.
      return R"(<circle class="bare" r="5"/>)";
  }
  return "";
}

std::string PlotMarkers(const LogPlot::Series& series, const Frame& frame) {
  std::string out;
  for (const LogPlot::Point& point : series.points) {
    if (!Drawable(point)) continue;
    const std::string x = Percent(frame.x.Share(point.x));
    const double error = point.y_error.value_or(0);
    if (std::isfinite(error) && error > 0) {
      out += fmt::format(R"(<line class="line c{}" x1="{}" x2="{}" y1="{}" y2="{}"/>)",
                         series.colour % kCategoryColours, x, x,
                         Percent(1 - frame.y.Share(point.y - error)),
                         Percent(1 - frame.y.Share(point.y + error)));
    }
    out += fmt::format(R"(<svg x="{}" y="{}">{}{}</svg>)", x, Percent(1 - frame.y.Share(point.y)),
                       Title(point.title), MarkerShape(series.marker, series.colour));
  }
  return out;
}

struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;

  bool Meets(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

// Text beside points, where on a narrow screen it meets no marker and no other text. What has
// no room is left out: legend and title say the same.
std::string PlotTexts(const LogPlot& plot, const Frame& frame) {
  const Box inside{0, 0, kNarrowPlot, kPlotHeight};
  std::vector<Box> taken;
  for (const LogPlot::Series& series : plot.series) {
    for (const LogPlot::Point& point : series.points) {
      if (!Drawable(point) || series.marker == LogPlot::Marker::kNone) continue;
      const double x = kNarrowPlot * frame.x.Share(point.x);
      const double y = kPlotHeight * (1 - frame.y.Share(point.y));
      taken.push_back({x - 6, y - 6, x + 6, y + 6});
    }
  }
  struct Place {
    const char* anchor;
    double dx, dy, left;  // `left`: of the text, in widths of it
  };
  // First where a falling curve does not pass.
  constexpr Place kPlaces[] = {
      {"start", 7, -8, 0},      {"end", -7, 18, -1},     {"start", 10, 4, 0}, {"end", -10, 4, -1},
      {"middle", 0, -11, -0.5}, {"middle", 0, 20, -0.5}, {"start", 7, 18, 0}, {"end", -7, -8, -1}};
  std::string out;
  for (const LogPlot::Series& series : plot.series) {
    for (const LogPlot::Point& point : series.points) {
      if (!Drawable(point) || point.text.empty()) continue;
      const std::string text = Shorten(point.text, 24);
      const double x = frame.x.Share(point.x), y = 1 - frame.y.Share(point.y);
      const double width = kCharWidth * static_cast<double>(text.size());
      for (const Place& place : kPlaces) {
        const double left = kNarrowPlot * x + place.dx + place.left * width;
        const double base = kPlotHeight * y + place.dy;
        const Box box{left, base - kLineHeight + 3, left + width, base + 3};
        const bool fits = box.left >= inside.left && box.right <= inside.right &&
                          box.top >= inside.top && box.bottom <= inside.bottom;
        if (!fits || std::ranges::any_of(taken, [&](const Box& b) { return b.Meets(box); }))
          continue;
        taken.push_back(box);
        out += fmt::format(
            R"(<text class="beside" x="{}" y="{}" dx="{}" dy="{}" text-anchor="{}">{}</text>)",
            Percent(x), Percent(y), place.dx, place.dy, place.anchor, EscapeMarkup(text));
        break;
      }
    }
  }
  return out;
}

std::string PlotKey(const LogPlot& plot) {
  std::string out;
  for (const LogPlot::Series& series : plot.series) {
    if (series.name.empty()) continue;
    std::string sign =
        series.marker == LogPlot::Marker::kNone ? "" : MarkerShape(series.marker, series.colour);
    if (series.line) {
      sign = fmt::format(R"(<path class="line{} c{}" d="M-13 0H13"/>)",
                         series.dashed ? " dashed" : "", series.colour % kCategoryColours) +
             sign;
    }
    out += fmt::format(
        "<li><svg width=\"28\" height=\"16\" viewBox=\"-14 -8 28 16\" aria-hidden=\"true\">{}</svg>"
        "<span>{}</span></li>\n",
        sign, EscapeMarkup(series.name));
  }
  return out.empty() ? out : "<ul class=\"key\">\n" + out + "</ul>\n";
}

}  // namespace

std::string LogPlotMarkup(const LogPlot& plot) {
  const std::optional<Frame> frame = FrameOf(plot);
  if (!frame) return "";
  std::string lines, markers;
  for (const LogPlot::Series& series : plot.series) {
    if (series.line) lines += PlotLine(series, *frame);
    markers += PlotMarkers(series, *frame);
  }
  return fmt::format(
             "<p class=\"caption\">{}</p>\n<div class=\"plot\" role=\"img\" aria-label=\"{}\">"
             "<svg width=\"100%\" height=\"{}\" aria-hidden=\"true\">{}{}{}{}</svg></div>\n",
             EscapeMarkup(plot.y_caption), EscapeMarkup(plot.label), kPlotHeight,
             PlotGrid(plot, *frame), lines, markers, PlotTexts(plot, *frame)) +
         PlotKey(plot);
}

// --- Stacked bar ------------------------------------------------------------------------------

std::string StackedBarMarkup(const StackedBar& bar) {
  const auto usable = [](double size) { return std::isfinite(size) && size > 0; };
  double sum = 0;
  for (const StackedBar::Part& part : bar.parts) {
    if (usable(part.size)) sum += part.size;
  }
  const double limit = bar.limit && usable(*bar.limit) ? *bar.limit : 0;
  const double length = std::max(sum, limit);
  if (!usable(length)) return "";
  std::string out = fmt::format(
      "<div class=\"bar\" role=\"img\" aria-label=\"{}\"><svg width=\"100%\" height=\"34\" "
      "aria-hidden=\"true\"><rect class=\"free\" x=\"0\" y=\"3\" width=\"100%\" height=\"28\"/>",
      EscapeMarkup(bar.label));
  double at = 0;
  for (const StackedBar::Part& part : bar.parts) {
    if (!usable(part.size)) continue;
    out += fmt::format(R"(<rect class="part c{}" x="{}" y="3" width="{}" height="28">{}</rect>)",
                       part.colour % kCategoryColours, Percent(at / length),
                       Percent(part.size / length), Title(part.title));
    at += part.size;
  }
  if (limit > 0) {
    out += fmt::format(R"(<line class="limit" x1="{0}" x2="{0}" y1="0" y2="34">{1}</line>)",
                       Percent(limit / length), Title(bar.limit_title));
  }
  return out + "</svg></div>\n";
}

std::string Swatch(size_t colour) {
  return fmt::format(R"(<svg class="swatch" width="12" height="12" aria-hidden="true">)"
                     R"(<rect class="part c{}" width="12" height="12"/></svg>)",
                     colour % kCategoryColours);
}

}  // namespace tq
