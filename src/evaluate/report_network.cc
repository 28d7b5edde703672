// The network as pictures: a cell per matrix, coloured by its rate and by its loss.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "base/format.h"
#include "evaluate/html_table.h"
#include "evaluate/markup.h"
#include "evaluate/report_sections.h"
#include "evaluate/svg_chart.h"

namespace tq {
namespace {

// Matrices of one layer and role together: one, or as many as there are experts.
struct Cell {
  size_t matrices = 0;
  double weights = 0;
  double rate = 0, error = 0;  // means over weights
  double kl = 0;               // sum of those predicted
  bool has_kl = false;
};

struct Place {
  int64_t layer = -1;
  std::string role;
  auto operator<=>(const Place&) const = default;
};

struct Network {
  std::vector<int64_t> layers;
  std::vector<std::string> roles, sides;  // in the order of the forward pass
  std::map<Place, Cell> cells;
  double kl_sum = 0;
  std::string error_name;  // which error the cells hold; empty: none
};

constexpr std::array<std::string_view, 9> kRoles = {"q",  "k",    "v",         "o",   "gate",
                                                    "up", "down", "embedding", "head"};

// Roles in the order of the forward pass; unknown ones behind, by name.
std::vector<std::string> Ordered(const std::set<std::string>& roles) {
  std::vector<std::string> ordered(roles.begin(), roles.end());
  std::ranges::stable_sort(ordered, {}, [](const std::string& role) {
    return std::ranges::find(kRoles, role) - kRoles.begin();
  });
  return ordered;
}

Network NetworkOf(const ReportModel& model) {
  Network network;
  // The error in the metric of the inputs says more than the plain one, where it was measured.
  const auto has = [&](auto member) {
    return std::ranges::any_of(model.matrices,
                               [&](const ReportMatrix& m) { return IsFigure(m.*member); });
  };
  const auto error = has(&ReportMatrix::hessian_error) ? &ReportMatrix::hessian_error
                                                       : &ReportMatrix::relative_error;
  if (has(error)) {
    network.error_name =
        error == &ReportMatrix::hessian_error ? "error of outputs" : "error of weights";
  }
  std::set<int64_t> layers;
  std::set<std::string> roles, sides;
  for (const ReportMatrix& matrix : model.matrices) {
    const int64_t layer = std::max<int64_t>(matrix.layer, -1);
    if (layer >= 0) layers.insert(layer);
    (layer >= 0 ? roles : sides).insert(matrix.role);
    Cell& cell = network.cells[{layer, matrix.role}];
    // One at least, so that means over matrices of unknown shape are means all the same.
    const double weights =
        std::max(1.0, static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols));
    const double share = weights / (cell.weights + weights);
    const auto mean = [share](double old, double value) {
      return std::isfinite(value) ? old + share * (value - old) : old;
    };
    cell.rate = mean(cell.rate, matrix.rate);
    cell.error = mean(cell.error, matrix.*error);
    cell.weights += weights;
    ++cell.matrices;
    const double kl = matrix.predicted_kl.value_or(-1);
    if (!std::isfinite(kl) || kl < 0) continue;
    cell.kl += kl;
    cell.has_kl = true;
    network.kl_sum += kl;
  }
  network.layers.assign(layers.begin(), layers.end());
  network.roles = Ordered(roles);
  network.sides = Ordered(sides);
  return network;
}

std::string PlaceName(const Place& place, const Cell& cell) {
  std::string name =
      place.layer < 0 ? place.role : fmt::format("layer {}, {}", place.layer, place.role);
  if (cell.matrices > 1) name += fmt::format(" ({} matrices)", cell.matrices);
  return name;
}

// The picture; `value` gives a cell's figure as text, empty when it has none, `shade` its colour.
template <typename Value, typename Shade>
HeatMap Picture(const Network& network, const Value& value, const Shade& shade) {
  HeatMap map;
  map.column_caption = "layer";
  map.rows = network.roles;
  for (const int64_t layer : network.layers) map.columns.push_back(fmt::format("{}", layer));
  for (const auto& [place, cell] : network.cells) {
    const std::string text = value(cell);
    if (text.empty()) continue;
    const std::string title = PlaceName(place, cell) + ": " + text;
    if (place.layer < 0) continue;
    const auto row = std::ranges::find(network.roles, place.role) - network.roles.begin();
    const auto column =
        std::ranges::lower_bound(network.layers, place.layer) - network.layers.begin();
    map.cells.push_back(
        {static_cast<size_t>(row), static_cast<size_t>(column), shade(cell), title});
  }
  for (const std::string& role : network.sides) {
    const Place place{-1, role};
    const Cell& cell = network.cells.at(place);
    const std::string text = value(cell);
    if (text.empty()) continue;
    map.sides.push_back(
        {role == "embedding" ? "embed" : role, shade(cell), PlaceName(place, cell) + ": " + text});
  }
  return map;
}

// The same figures for those who cannot see or point at the picture.
template <typename Value>
std::string PictureTable(const Network& network, std::string_view summary, const Value& value) {
  HtmlTable table;
  table.columns.push_back({"layer", true});
  for (const std::string& role : network.roles) table.columns.push_back({Shorten(role, 24)});
  for (const int64_t layer : network.layers) {
    std::vector<std::string> cells = {fmt::format("{}", layer)};
    for (const std::string& role : network.roles) {
      const auto found = network.cells.find({layer, role});
      cells.push_back(found == network.cells.end() ? "" : EscapeMarkup(value(found->second)));
    }
    table.Add(std::move(cells));
  }
  HtmlTable sides{.columns = {{"beside the layers", false}, {"value"}}};
  for (const std::string& role : network.sides) {
    sides.Add({EscapeMarkup(Shorten(role, 24)), EscapeMarkup(value(network.cells.at({-1, role})))});
  }
  return fmt::format("<details><summary>{}</summary>\n{}{}</details>\n", summary,
                     network.layers.empty() ? "" : table.Markup(true),
                     network.sides.empty() ? "" : sides.Markup());
}

std::string RateText(const Cell& cell) {
  return IsFigure(cell.rate) ? fmt::format("{:.3f}", cell.rate) : "";
}

std::string AllMatrices(const ReportModel& model, double kl_sum) {
  HtmlTable table;
  table.columns = {{"matrix", false},
                   {"shape"},
                   {"bits"},
                   {"size"},
                   {"error of weights"},
                   {"error of outputs"},
                   {"predicted KL"},
                   {"share of the sum"},
                   {"sensitivity"},
                   {"exponent"}};
  const auto number = [](double value) { return IsFigure(value) ? FormatNumber(value) : ""; };
  for (const ReportMatrix& m : model.matrices) {
    const double kl = m.predicted_kl.value_or(0);
    table.Add({EscapeMarkup(Shorten(m.name, 120)),
               m.rows == 0 ? "" : fmt::format("{} × {}", m.rows, m.cols),
               IsFigure(m.rate) ? fmt::format("{:.3f}", m.rate) : "",
               m.bytes == 0 ? "" : FormatBytes(m.bytes), number(m.relative_error),
               number(m.hessian_error), number(kl),
               IsFigure(kl) && IsFigure(kl_sum) ? FormatShare(kl / kl_sum) : "",
               number(m.sensitivity.value_or(0)), number(m.exponent.value_or(0))});
  }
  return fmt::format("<details><summary>All {} matrices</summary>\n{}</details>\n",
                     model.matrices.size(), table.Markup(true));
}

}  // namespace

RateRange RatesOf(const CompressionReport& report) {
  RateRange range;
  for (const ReportModel& model : report.models) {
    for (const ReportMatrix& matrix : model.matrices) {
      if (!IsFigure(matrix.rate)) continue;
      if (range.high == 0) range = {matrix.rate, matrix.rate};
      range.low = std::min(range.low, matrix.rate);
      range.high = std::max(range.high, matrix.rate);
    }
  }
  return range;
}

std::string NetworkSection(const ReportModel& model, const RateRange& range, int level) {
  const Network network = NetworkOf(model);
  const double width = range.high - range.low;
  HeatMap map = Picture(network, RateText, [&](const Cell& cell) {
    return width > 0 ? (cell.rate - range.low) / width : 0.5;
  });
  if (map.cells.empty() && map.sides.empty()) return "";
  for (HeatMap::Cell& cell : map.cells) cell.title += " bits per weight";
  for (HeatMap::Side& side : map.sides) side.title += " bits per weight";
  map.label = fmt::format("Bits per weight of {} matrices in {} layers; a table follows",
                          model.matrices.size(), network.layers.size());
  map.scale_caption = "bits per weight";
  for (const double share : {0.0, 0.5, 1.0}) {
    if (width > 0 || share == 0) {
      map.scale_ticks.push_back(fmt::format("{:.4g}", range.low + share * width));
    }
  }
  return Heading(level, "Where the bits went") +
         "<p class=\"soft\">Each cell is a matrix of weights; the more bits it got, the more it "
         "stands out.</p>\n" +
         HeatMapMarkup(map) + PictureTable(network, "Bits per weight as a table", RateText);
}

std::string LossSection(const ReportModel& model, int level) {
  const Network network = NetworkOf(model);
  const bool predicted = IsFigure(network.kl_sum);
  if (!predicted && network.error_name.empty()) return "";
  const auto figure = [&](const Cell& cell) {
    return predicted ? (cell.has_kl ? cell.kl / network.kl_sum : 0) : cell.error;
  };
  const auto text = [&](const Cell& cell) -> std::string {
    if (predicted && !cell.has_kl) return "";
    if (!predicted && !IsFigure(cell.error)) return "";
    return predicted ? FormatShare(figure(cell)) : FormatNumber(figure(cell));
  };
  double most = 0, least = 0;
  for (const auto& [place, cell] : network.cells) {
    const double value = figure(cell);
    most = std::max(most, value);
    if (IsFigure(value)) least = least == 0 ? value : std::min(least, value);
  }
  // Shares spread over orders of magnitude: a logarithmic scale, of two decades at most.
  least = std::max(least, most / 100);
  const double decades = std::log10(most / least);
  HeatMap map = Picture(network, text, [&](const Cell& cell) {
    const double value = figure(cell);
    if (decades <= 0) return 0.5;
    return value > 0 ? std::log10(value / least) / decades : 0;
  });
  const std::string_view unit = predicted ? " of the predicted KL" : "";
  for (HeatMap::Cell& cell : map.cells) cell.title += unit;
  for (HeatMap::Side& side : map.sides) side.title += unit;
  map.scale = 'e';
  map.label = fmt::format("{} by matrix; a table follows",
                          predicted ? "Share of the predicted KL divergence" : "Error");
  map.scale_caption = predicted ? "share of the predicted KL" : network.error_name;
  for (const double share : {0.0, 0.5, 1.0}) {
    if (decades <= 0 && share > 0) break;
    const double value = least * std::pow(10.0, share * decades);
    map.scale_ticks.push_back(predicted ? FormatShare(value) : FormatNumber(value));
  }
  return Heading(level, "Where the loss comes from") +
         fmt::format("<p class=\"soft\">{}</p>\n",
                     predicted ? "How much each matrix adds to the predicted KL divergence. The "
                                 "scale is logarithmic."
                               : "What rounding changed in each matrix, relative to its size. The "
                                 "scale is logarithmic.") +
         HeatMapMarkup(map) +
         PictureTable(network, predicted ? "Shares as a table" : "Errors as a table", text) +
         AllMatrices(model, network.kl_sum);
}

}  // namespace tq
