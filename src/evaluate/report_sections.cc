#include "evaluate/report_sections.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/format.h"
#include "evaluate/html_table.h"
#include "evaluate/markup.h"
#include "evaluate/svg_chart.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

constexpr size_t kNameChars = 60;

// Around the chosen point, the frontier is drawn over this ratio of sizes to both sides: over its
// whole length, what was chosen and what was measured would lie on one spot.
constexpr double kFrontierRatio = 1.6;

// A frontier of more points than this is drawn as a line without a mark per point.
constexpr size_t kMarkedPoints = 80;

std::string Bits(double bits) { return IsFigure(bits) ? fmt::format("{:.3f}", bits) : ""; }

std::string Name(std::string_view name) { return EscapeMarkup(Shorten(name, kNameChars)); }

bool HasKl(const ReportCandidate& candidate) {
  return candidate.measured && candidate.measured->kl &&
         std::isfinite(candidate.measured->kl->mean);
}

// Why a candidate was written, as far as its figures tell.
std::string WhyChosen(const std::vector<ReportCandidate>& candidates) {
  const auto chosen = std::ranges::find_if(candidates, &ReportCandidate::chosen);
  if (chosen == candidates.end()) return "";
  const auto least_by = [&](auto has, auto value) {
    return candidates.size() > 1 && has(*chosen) &&
           std::ranges::all_of(candidates, [&](const ReportCandidate& other) {
             return !has(other) || value(other) >= value(*chosen);
           });
  };
  const bool measured = std::ranges::any_of(candidates, HasKl);
  std::string why;
  if (measured && least_by(HasKl, [](const auto& c) { return c.measured->kl->mean; })) {
    why = ", which has the least measured KL divergence";
  } else if (!measured &&
             least_by(
                 [](const auto& c) { return c.predicted_kl && std::isfinite(*c.predicted_kl); },
                 [](const auto& c) { return *c.predicted_kl; })) {
    why = ", which has the least predicted KL divergence";
  }
  return fmt::format("<p>Written was <b>{}</b>{}.</p>\n", Name(chosen->name), why);
}

struct SizedPart {
  std::string name;
  uint64_t bytes = 0;
};

// A bar and its table, with shares of the sum.
std::string PartsMarkup(const std::vector<SizedPart>& parts, StackedBar bar,
                        std::string_view sum_name) {
  double sum = 0;
  for (const SizedPart& part : parts) sum += static_cast<double>(part.bytes);
  if (sum == 0) return "";
  HtmlTable table{.columns = {{"part", false}, {"size"}, {"share"}}};
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].bytes == 0) continue;
    const auto bytes = static_cast<double>(parts[i].bytes);
    const std::string size = FormatBytes(parts[i].bytes), share = FormatShare(bytes / sum);
    bar.parts.push_back({bytes, i, fmt::format("{}: {}, {}", parts[i].name, size, share)});
    table.Add({Swatch(i) + Name(parts[i].name), size, share});
  }
  // As a double, which cannot overflow; sizes that add up to 2^64 are no model's.
  const auto total = static_cast<uint64_t>(std::min(sum, 1.8e19));
  table.Add({EscapeMarkup(sum_name), FormatBytes(total), FormatShare(1)}, "sum");
  return StackedBarMarkup(bar) + table.Markup();
}

// Where the texts of a sample part, in bytes, at a character's edge.
size_t CommonPrefix(std::string_view a, std::string_view b) {
  const auto parted = std::ranges::mismatch(a, b);
  auto at = static_cast<size_t>(parted.in1 - a.begin());
  const auto inside = [](std::string_view text, size_t i) {
    return i < text.size() && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80;
  };
  while (at > 0 && (inside(a, at) || inside(b, at))) --at;
  return at;
}

std::string SampleText(std::string_view heading, std::string_view text, size_t common) {
  std::string rest = EscapeMarkup(text.substr(common));
  if (!rest.empty()) rest = "<mark>" + rest + "</mark>";
  return fmt::format("<div><b>{}</b><span class=\"text\">{}{}</span></div>\n", heading,
                     EscapeMarkup(text.substr(0, common)), rest);
}

LogPlot::Series FrontierLine(const ReportModel& model) {
  LogPlot::Series line{.name = "least predicted KL of a size",
                       .colour = 7,
                       .marker = LogPlot::Marker::kNone,
                       .line = true};
  const bool marked = model.frontier.size() <= kMarkedPoints;
  const auto chosen = std::ranges::find_if(model.frontier, &FrontierPoint::chosen);
  for (const FrontierPoint& point : model.frontier) {
    if (chosen != model.frontier.end() &&
        (point.bits_per_weight * kFrontierRatio < chosen->bits_per_weight ||
         point.bits_per_weight > chosen->bits_per_weight * kFrontierRatio)) {
      continue;
    }
    line.points.push_back(
        {.x = point.bits_per_weight,
         .y = point.predicted_kl,
         .title = marked ? fmt::format("{} bits per weight, {}: predicted KL {}",
                                       Bits(point.bits_per_weight), FormatBytes(point.bytes),
                                       FormatNumber(point.predicted_kl))
                         : ""});
  }
  return line;
}

// The whole frontier, also what the picture leaves out.
std::string FrontierTable(const std::vector<FrontierPoint>& frontier) {
  if (frontier.empty()) return "";
  HtmlTable table{.columns = {{"bits per weight"}, {"size"}, {"predicted KL"}}};
  for (const FrontierPoint& point : frontier) {
    table.Add(
        {Bits(point.bits_per_weight), FormatBytes(point.bytes), FormatNumber(point.predicted_kl)},
        point.chosen ? "chosen" : "");
  }
  return fmt::format("<details><summary>All {} sizes as a table</summary>\n{}</details>\n",
                     frontier.size(), table.Markup(true));
}

// The chosen point and those beside it.
void AddChosen(const std::vector<FrontierPoint>& frontier, LogPlot& plot) {
  const auto chosen = std::ranges::find_if(frontier, &FrontierPoint::chosen);
  if (chosen == frontier.end()) return;
  const auto add = [&](const FrontierPoint& point, std::string_view what, bool is_chosen) {
    const std::string title =
        fmt::format("{}: {} bits, {}, predicted KL {}", what, Bits(point.bits_per_weight),
                    FormatBytes(point.bytes), FormatNumber(point.predicted_kl));
    plot.series.push_back(
        {.name = title,
         .colour = 0,
         .marker = is_chosen ? LogPlot::Marker::kDiamond : LogPlot::Marker::kCircle,
         .points = {{.x = point.bits_per_weight,
                     .y = point.predicted_kl,
                     .text = is_chosen ? "chosen" : "",
                     .title = title}}});
  };
  if (chosen != frontier.begin()) add(*(chosen - 1), "next smaller", false);
  if (chosen + 1 != frontier.end()) add(*(chosen + 1), "next larger", false);
  add(*chosen, "chosen", true);
}

// Predicted (hollow) and measured (filled), joined.
void AddCandidate(const ReportCandidate& candidate, size_t colour, LogPlot& plot) {
  const double bits = candidate.bits_per_weight;
  const bool measured = HasKl(candidate);
  const bool predicted = candidate.predicted_kl && std::isfinite(*candidate.predicted_kl);
  if (!IsFigure(bits) || (!measured && !predicted)) return;
  const std::string name = Shorten(candidate.name, kNameChars);
  std::string title = name;
  LogPlot::Series guess{.name = "", .colour = colour, .marker = LogPlot::Marker::kCircle};
  LogPlot::Series truth{.name = "", .colour = colour, .marker = LogPlot::Marker::kSquare};
  LogPlot::Series join{
      .name = "", .colour = colour, .marker = LogPlot::Marker::kNone, .line = true, .dashed = true};
  if (predicted) {
    const std::string text = FormatNumber(*candidate.predicted_kl);
    title += ": predicted " + text;
    guess.points.push_back({.x = bits,
                            .y = *candidate.predicted_kl,
                            .title = fmt::format("{}: predicted KL {}", name, text)});
    join.points = guess.points;
  }
  if (measured) {
    const EvaluateResult::Kl& kl = *candidate.measured->kl;
    const std::string text = FormatWithError(kl.mean, kl.stderr_);
    title += (predicted ? ", measured " : ": measured ") + text;
    truth.points.push_back({.x = bits,
                            .y = kl.mean,
                            .y_error = kl.stderr_,
                            .text = name,
                            .title = fmt::format("{}: measured KL {}", name, text)});
    join.points.push_back(truth.points.back());
  }
  (measured ? truth : guess).name = title;
  for (LogPlot::Point& point : join.points) point.text = point.title = "";
  join.points.resize(measured && predicted ? 2 : 0);
  for (LogPlot::Series* series : {&join, &guess, &truth}) {
    if (!series->points.empty()) plot.series.push_back(std::move(*series));
  }
}

}  // namespace

std::string Heading(int level, std::string_view text) {
  return fmt::format("<h{0}>{1}</h{0}>\n", level, EscapeMarkup(text));
}

std::optional<Measured> MeasuredOf(const ReportModel& model) {
  if (model.measured) return Measured{*model.measured, false};
  const auto chosen = std::ranges::find_if(model.candidates, &ReportCandidate::chosen);
  if (chosen == model.candidates.end() || !chosen->measured) return std::nullopt;
  return Measured{*chosen->measured, true};
}

std::string KlCell(const std::optional<EvaluateResult>& result) {
  if (!result || !result->kl || !std::isfinite(result->kl->mean)) return "";
  return FormatWithError(result->kl->mean, result->kl->stderr_);
}

std::string PerplexityCell(const std::optional<EvaluateResult>& result) {
  if (!result || !IsFigure(result->perplexity)) return "";
  return FormatWithError(result->perplexity, result->perplexity_stderr);
}

std::string AgreementCell(const std::optional<EvaluateResult>& result) {
  if (!result || !result->kl || !std::isfinite(result->kl->top1_agreement)) return "";
  return FormatShare(result->kl->top1_agreement);
}

std::string FrontierSection(const ReportModel& model, int level) {
  LogPlot plot;
  plot.label = "Predicted KL divergence over bits per weight, with what was measured";
  plot.x_caption = "bits per weight, whole model";
  plot.y_caption = "KL divergence from the original, nats per token (logarithmic)";
  if (!model.frontier.empty()) plot.series.push_back(FrontierLine(model));
  for (size_t i = 0; i < model.candidates.size(); ++i) {
    AddCandidate(model.candidates[i], i + 1, plot);
  }
  AddChosen(model.frontier, plot);
  const std::string picture = LogPlotMarkup(plot);
  if (picture.empty()) return "";
  return Heading(level, "Size against loss") +
         fmt::format("<p class=\"soft\">{}Squares are measured, circles predicted.</p>\n",
                     model.frontier.empty() ? ""
                                            : "The line is the least loss that the predictions "
                                              "promise at sizes around the chosen one. ") +
         picture + FrontierTable(model.frontier);
}

std::string PartsSection(const ReportModel& model, int level) {
  std::vector<SizedPart> parts;
  for (const BytePart& part : model.parts) parts.push_back({part.name, part.bytes});
  StackedBar bar;
  bar.label = "Bytes of the compressed model by part; a table follows";
  const std::string body = PartsMarkup(parts, std::move(bar), "whole model");
  return body.empty() ? body : Heading(level, "Where the bytes are") + body;
}

std::string CandidatesSection(const ReportModel& model, int level) {
  if (model.candidates.empty()) return "";
  HtmlTable table{.columns = {{"candidate", false},
                              {"size"},
                              {"bits per weight"},
                              {"predicted KL"},
                              {"measured KL"},
                              {"perplexity"},
                              {"same top token"}}};
  for (const ReportCandidate& c : model.candidates) {
    const bool predicted = c.predicted_kl && std::isfinite(*c.predicted_kl);
    table.Add(
        {Name(c.name) + (c.chosen ? " (written)" : ""), c.bytes == 0 ? "" : FormatBytes(c.bytes),
         Bits(c.bits_per_weight), predicted ? FormatNumber(*c.predicted_kl) : "",
         KlCell(c.measured), PerplexityCell(c.measured), AgreementCell(c.measured)},
        c.chosen ? "chosen" : "");
  }
  return Heading(level, "Candidates") + WhyChosen(model.candidates) + table.Markup();
}

std::string SamplesSection(const ReportModel& model, int level) {
  if (model.samples.empty()) return "";
  std::string out = Heading(level, "Text, before and after") +
                    "<p class=\"soft\">The same prompts, continued by the original and by the "
                    "compressed model. Underlined from where they part.</p>\n";
  for (const TextSample& sample : model.samples) {
    // First what is not UTF-8 is replaced: the cut then lies between characters.
    const std::string original = ReplaceInvalidUtf8(sample.original);
    const std::string compressed = ReplaceInvalidUtf8(sample.compressed);
    const size_t common = CommonPrefix(original, compressed);
    out += fmt::format(
        "<div class=\"sample\">\n<div class=\"prompt\"><b>prompt</b><span class=\"text\">{}</span>"
        "</div>\n{}{}</div>\n",
        EscapeMarkup(sample.prompt), SampleText("original", original, common),
        SampleText("compressed", compressed, common));
  }
  return out;
}

std::string MemorySection(const MemoryUse& memory, int level) {
  StackedBar bar;
  bar.label = "Memory when the compressed model runs; a table follows";
  if (memory.budget > 0) {
    bar.limit = static_cast<double>(memory.budget);
    bar.limit_title = "budget: " + FormatBytes(memory.budget);
  }
  const std::string body = PartsMarkup({{"weights", memory.weights},
                                        {"KV cache", memory.kv_cache},
                                        {"activations", memory.activations},
                                        {"reserve", memory.reserve}},
                                       std::move(bar), "together");
  if (body.empty()) return "";
  std::string caption;
  if (memory.context > 0) {
    caption = fmt::format("At a context of {} tokens", FormatCount(memory.context));
  }
  if (memory.budget > 0) {
    const double sum = static_cast<double>(memory.weights) + static_cast<double>(memory.kv_cache) +
                       static_cast<double>(memory.activations) +
                       static_cast<double>(memory.reserve);
    const auto budget = static_cast<double>(memory.budget);
    const auto gap = static_cast<uint64_t>(std::min(std::abs(budget - sum), 1.8e19));
    caption += fmt::format("{}udget of {}: {} {}.", caption.empty() ? "B" : ", b",
                           FormatBytes(memory.budget), FormatBytes(gap),
                           sum > budget ? "too little" : "left");
  } else if (!caption.empty()) {
    caption += ".";
  }
  return Heading(level, "Memory when it runs") +
         (caption.empty() ? "" : fmt::format("<p class=\"soft\">{}</p>\n", caption)) + body;
}

}  // namespace tq
