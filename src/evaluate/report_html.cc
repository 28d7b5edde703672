// The report's page: head, key figures, comparison, then the sections of each model.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/format.h"
#include "base/progress.h"
#include "evaluate/html_table.h"
#include "evaluate/markup.h"
#include "evaluate/report.h"
#include "evaluate/report_sections.h"
#include "evaluate/report_style.h"
#include "evaluate/svg_chart.h"

namespace tq {
namespace {

constexpr size_t kNameChars = 60;

// More names than this beside the points of a plot hide it.
constexpr size_t kNamedPoints = 12;

std::string FormatSeconds(double seconds) {
  // Beyond a century it is no duration, and would not fit FormatDuration's integer.
  return IsFigure(seconds) && seconds < 3.2e9 ? FormatDuration(seconds) : "";
}

std::string FormatBits(double bits) { return IsFigure(bits) ? fmt::format("{:.3f}", bits) : ""; }

// Figures in tiles; one without a value is left out.
class Figures {
 public:
  void Add(std::string_view name, const std::string& value, std::string_view note = "") {
    if (value.empty()) return;
    // A long value, such as one with its error, is set smaller on a phone rather than broken.
    const char* const style = value.size() > 10 ? "value small" : "value";
    out_ +=
        fmt::format("<div><dt>{}</dt><dd class=\"{}\">{}</dd>", name, style, EscapeMarkup(value));
    if (!note.empty()) out_ += fmt::format("<dd class=\"note\">{}</dd>", EscapeMarkup(note));
    out_ += "</div>\n";
  }
  std::string Markup() const {
    return out_.empty() ? out_ : "<dl class=\"figures\">\n" + out_ + "</dl>\n";
  }

 private:
  std::string out_;
};

std::string PerplexityNote(const CompressionReport& report, const Measured& measured) {
  // Of another text, the original's perplexity would mislead.
  if (measured.on_candidates_text || !report.original || !IsFigure(report.original->perplexity)) {
    return "";
  }
  const double was = report.original->perplexity, is = measured.result.perplexity;
  return fmt::format("original {} ({:+.1f}\u00A0%)", FormatNumber(was), 100 * (is / was - 1));
}

std::string ModelFigures(const CompressionReport& report, const ReportModel& model) {
  Figures figures;
  const auto original = static_cast<double>(report.original_bytes);
  if (model.bytes > 0) {
    figures.Add("size", FormatBytes(model.bytes),
                report.original_bytes == 0
                    ? ""
                    : fmt::format("original {}", FormatBytes(report.original_bytes)));
  }
  const std::string decoder = FormatBits(model.decoder_bits_per_weight);
  figures.Add("bits per weight", FormatBits(model.bits_per_weight),
              decoder.empty() ? "" : "decoder " + decoder);
  if (model.bytes > 0 && report.original_bytes > 0) {
    figures.Add("times smaller",
                fmt::format("{:.2f} ×", original / static_cast<double>(model.bytes)));
  }
  if (const std::optional<Measured> measured = MeasuredOf(model)) {
    const EvaluateResult& result = measured->result;
    std::string p99;
    if (result.kl && IsFigure(result.kl->p99)) {
      p99 = "nats per token; 99\u00A0% below " + FormatNumber(result.kl->p99);
    }
    figures.Add("KL divergence", KlCell(result), p99);
    figures.Add("perplexity", PerplexityCell(result), PerplexityNote(report, *measured));
    figures.Add("same top token", AgreementCell(result),
                result.tokens == 0 ? "" : fmt::format("of {} tokens", FormatCount(result.tokens)));
  }
  figures.Add("time to compress", FormatSeconds(model.seconds));
  if (model.peak_rss_bytes > 0) figures.Add("peak memory", FormatBytes(model.peak_rss_bytes));
  return figures.Markup();
}

std::string ModelNotes(const CompressionReport& report, const ReportModel& model) {
  std::string notes;
  if (!model.method.empty()) notes += fmt::format("Method {}. ", EscapeMarkup(model.method));
  const std::optional<Measured> measured = MeasuredOf(model);
  if (measured && measured->on_candidates_text) {
    notes += "Measured on text held apart, when the candidates were compared.";
  } else if (measured && !report.text.empty()) {
    notes += fmt::format("Measured on {}.", EscapeMarkup(report.text));
  }
  return notes.empty() ? notes : fmt::format("<p class=\"soft\">{}</p>\n", notes);
}

std::string ModelSections(const ReportModel& model, const RateRange& range, int level) {
  return NetworkSection(model, range, level) + LossSection(model, level) +
         FrontierSection(model, level) + PartsSection(model, level) +
         CandidatesSection(model, level);
}

// --- Several models ---------------------------------------------------------------------------

std::string OriginalFigures(const CompressionReport& report) {
  Figures figures;
  if (report.parameters > 0) figures.Add("parameters", FormatCount(report.parameters));
  if (report.original_bytes > 0) figures.Add("original", FormatBytes(report.original_bytes));
  figures.Add("perplexity of the original", PerplexityCell(report.original));
  figures.Add("compressed models", FormatCount(report.models.size()));
  std::string text;
  if (!report.text.empty()) {
    text = fmt::format("<p class=\"soft\">Measured on {}.</p>\n", EscapeMarkup(report.text));
  }
  return figures.Markup() + text;
}

std::string CompareTable(const CompressionReport& report) {
  HtmlTable table{.columns = {{"model", false},
                              {"method", false},
                              {"size"},
                              {"bits per weight"},
                              {"KL divergence"},
                              {"perplexity"},
                              {"same top token"},
                              {"time"}}};
  if (report.original_bytes > 0 || report.original) {
    double bits = 0;
    if (report.parameters > 0) {
      bits =
          8 * static_cast<double>(report.original_bytes) / static_cast<double>(report.parameters);
    }
    table.Add({"original", "", report.original_bytes == 0 ? "" : FormatBytes(report.original_bytes),
               FormatBits(bits), "", PerplexityCell(report.original), "", ""});
  }
  for (size_t i = 0; i < report.models.size(); ++i) {
    const ReportModel& model = report.models[i];
    table.Add({fmt::format("<a href=\"#m{}\">{}</a>", i + 1,
                           EscapeMarkup(Shorten(model.name, kNameChars))),
               EscapeMarkup(Shorten(model.method, kNameChars)),
               model.bytes == 0 ? "" : FormatBytes(model.bytes), FormatBits(model.bits_per_weight),
               KlCell(model.measured), PerplexityCell(model.measured),
               AgreementCell(model.measured), FormatSeconds(model.seconds)});
  }
  return Heading(2, "All models") + table.Markup();
}

std::string ComparePlot(const CompressionReport& report) {
  // One unit for the whole axis: that of the greatest size.
  uint64_t most = 0;
  for (const ReportModel& model : report.models) most = std::max(most, model.bytes);
  const bool gib = most >= uint64_t{4} << 30;
  const double unit = gib ? 0x1p30 : 0x1p20;
  // By method, in the order of their first models.
  std::vector<std::pair<std::string, std::vector<const ReportModel*>>> methods;
  for (const ReportModel& model : report.models) {
    if (!model.measured || !model.measured->kl) continue;
    auto found = std::ranges::find(methods, model.method, [](const auto& m) { return m.first; });
    if (found == methods.end()) found = methods.insert(found, {model.method, {}});
    found->second.push_back(&model);
  }
  using Marker = LogPlot::Marker;
  constexpr Marker kMarkers[] = {Marker::kDot, Marker::kSquare, Marker::kDiamond};
  LogPlot plot;
  plot.label = "KL divergence over size, a line per method; the table above has the figures";
  plot.x_caption = gib ? "size in GiB" : "size in MiB";
  plot.y_caption = "KL divergence from the original, nats per token (logarithmic)";
  for (auto& [method, models] : methods) {
    std::ranges::stable_sort(models, {}, &ReportModel::bytes);
    const size_t index = plot.series.size();
    LogPlot::Series series{.name = Shorten(method.empty() ? "no method named" : method, kNameChars),
                           .colour = index,
                           .marker = kMarkers[index % std::size(kMarkers)],
                           .line = true};
    for (const ReportModel* model : models) {
      const EvaluateResult::Kl& kl = *model->measured->kl;
      const std::string bits = FormatBits(model->bits_per_weight);
      series.points.push_back(
          {.x = static_cast<double>(model->bytes) / unit,
           .y = kl.mean,
           .y_error = kl.stderr_,
           .text = report.models.size() <= kNamedPoints && IsFigure(model->bits_per_weight)
                       ? fmt::format("{:.3g} bits", model->bits_per_weight)
                       : "",
           .title =
               fmt::format("{}: {}, {} bits per weight, KL {}", Shorten(model->name, kNameChars),
                           FormatBytes(model->bytes), bits, FormatWithError(kl.mean, kl.stderr_))});
    }
    plot.series.push_back(std::move(series));
  }
  const std::string picture = LogPlotMarkup(plot);
  return picture.empty() ? picture : Heading(2, "Loss over size") + picture;
}

// --- The page ---------------------------------------------------------------------------------

std::string FactsSection(const CompressionReport& report) {
  std::string facts;
  const auto add = [&](std::string_view name, std::string_view value, bool code) {
    if (value.empty()) return;
    const std::string text = EscapeMarkup(value);
    facts +=
        fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, code ? "<code>" + text + "</code>" : text);
  };
  add("command", report.command, true);
  add("model", report.model, true);
  add("version", report.version, false);
  if (report.parameters > 0) add("parameters", FormatCount(report.parameters), false);
  if (facts.empty()) return "";
  return Heading(2, "How it was made") + "<dl class=\"facts\">\n" + facts + "</dl>\n";
}

std::string OneModel(const CompressionReport& report) {
  const ReportModel& model = report.models[0];
  return ModelFigures(report, model) + ModelNotes(report, model) +
         ModelSections(model, RatesOf(report), 2) +
         (report.memory ? MemorySection(*report.memory, 2) : "") + SamplesSection(model, 2);
}

std::string SeveralModels(const CompressionReport& report) {
  std::string out = OriginalFigures(report);
  if (report.models.empty()) return out;
  out += CompareTable(report) + ComparePlot(report);
  if (report.memory) out += MemorySection(*report.memory, 2);
  const RateRange range = RatesOf(report);
  for (size_t i = 0; i < report.models.size(); ++i) {
    const ReportModel& model = report.models[i];
    out += fmt::format("<section id=\"m{}\">\n", i + 1) +
           Heading(2, Shorten(model.name.empty() ? "model" : model.name, 200)) +
           ModelFigures(report, model) + ModelNotes(report, model) +
           ModelSections(model, range, 3) + SamplesSection(model, 3) + "</section>\n";
  }
  return out;
}

}  // namespace

std::string ReportToHtml(const CompressionReport& report) {
  const std::string title =
      EscapeMarkup(report.title.empty() ? "Compression report" : report.title);
  // The policy allows nothing but the styles below, whatever a name from a file may contain.
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<h1>{}</h1>\n",
      title, kReportStyle, title);
  if (!report.model.empty()) {
    page += fmt::format("<p class=\"soft\">Compressed from {}</p>\n", EscapeMarkup(report.model));
  }
  page += report.models.size() == 1 ? OneModel(report) : SeveralModels(report);
  return page + FactsSection(report) + "</body>\n</html>\n";
}

}  // namespace tq
