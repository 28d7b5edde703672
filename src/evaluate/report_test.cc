#include "evaluate/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string_view>

#include "evaluate/report_samples_for_test.h"
#include "tokenizer/utf8.h"

namespace tq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<std::string> Keys(const nlohmann::ordered_json& object) {
  std::vector<std::string> keys;
  for (const auto& item : object.items()) keys.push_back(item.key());
  return keys;
}

// What makes `page` no well-formed XML: an unbalanced tag, a bare & or <, an attribute without
// quotes or twice. Empty: nothing.
std::string Fault(std::string_view page) {
  const auto near = [&](size_t at) { return std::string(page.substr(at, 80)); };
  std::vector<std::string> open;
  size_t at = page.find("<html");
  while (at < page.size()) {
    if (page[at] == '&') {
      const std::string_view name = page.substr(at, page.find(';', at) - at + 1);
      if (name != "&amp;" && name != "&lt;" && name != "&gt;" && name != "&quot;" &&
          name != "&#39;") {
        return "reference: " + near(at);
      }
    }
    if (page[at] != '<') {
      if (open.empty() && !std::isspace(static_cast<unsigned char>(page[at]))) {
        return "text behind the end: " + near(at);
      }
      ++at;
      continue;
    }
    const bool closing = page[at + 1] == '/';
    size_t i = at + 1 + closing;
    const size_t name_end = page.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789", i);
    const std::string name(page.substr(i, name_end - i));
    if (name.empty()) return "tag: " + near(at);
    i = name_end;
    std::vector<std::string> attributes;
    while (i < page.size() && page[i] == ' ') {
      const size_t equals = page.find_first_of("= >", i + 1);
      const std::string attribute(page.substr(i + 1, equals - i - 1));
      if (page.substr(equals, 2) != "=\"") return "attribute: " + near(i);
      if (std::ranges::count(attributes, attribute) > 0) return "attribute twice: " + near(i);
      attributes.push_back(attribute);
      const size_t end = page.find_first_of("\"<", equals + 2);
      if (end == std::string_view::npos || page[end] != '"') return "value: " + near(i);
      i = end + 1;
    }
    const bool empty = page.substr(i, 2) == "/>";
    if (!empty && page.substr(i, 1) != ">") return "end of tag: " + near(at);
    if (closing) {
      if (open.empty() || open.back() != name) return "unbalanced: " + near(at);
      open.pop_back();
    } else if (!empty) {
      open.push_back(name);
    }
    at = i + 1 + empty;
  }
  return open.empty() ? "" : "left open: " + open.back();
}

// What holds for every page, whatever is in the report.
void ExpectSoundPage(const std::string& page) {
  EXPECT_EQ(Fault(page), "");
  EXPECT_EQ(Utf8ValidPrefix(page), page.size());
  for (const char* text : {"http://", "https://", "src=", "url(", "@import", "<script", "<link",
                           "javascript:", "=\"nan", "\"inf", ">nan<", ">inf<", ":nan", "nan%"}) {
    EXPECT_THAT(page, Not(HasSubstr(text)));
  }
}

TEST(WellFormedness, TheCheckFindsFaults) {
  EXPECT_EQ(Fault("<html><p a=\"1\">x &lt; y<br/></p></html>"), "");
  for (const char* page :
       {"<html><p></html>", "<html></p></html>", "<html>a & b</html>", "<html>a < b</html>",
        "<html><p a=1></p></html>", "<html>", "<html><p a=\"1\" a=\"1\"></p></html>",
        "<html></html>x", "<html><p a=\"<\"></p></html>", "<html>&nbsp;</html>"}) {
    EXPECT_NE(Fault(page), "") << page;
  }
}

TEST(ReportToJson, KeysAreCompleteAndStable) {
  const auto full = ReportToJson(SampleQuantizeReport(2));
  EXPECT_THAT(Keys(full), ElementsAre("title", "model", "command", "version", "parameters",
                                      "original_bytes", "text", "original", "memory", "models"));
  EXPECT_THAT(Keys(full["memory"]),
              ElementsAre("budget", "context", "weights", "kv_cache", "activations", "reserve"));
  const auto& model = full["models"][0];
  EXPECT_THAT(Keys(model),
              ElementsAre("name", "method", "bytes", "bits_per_weight", "decoder_bits_per_weight",
                          "seconds", "peak_rss_bytes", "measured", "matrices", "candidates",
                          "frontier", "parts", "samples"));
  EXPECT_THAT(Keys(model["measured"]),
              ElementsAre("tokens", "windows", "perplexity", "perplexity_stderr", "kl_mean",
                          "kl_stderr", "kl_p99", "top1_agreement"));
  EXPECT_THAT(Keys(model["matrices"][0]),
              ElementsAre("name", "role", "layer", "shape", "bytes", "bits", "relative_error",
                          "hessian_error", "sensitivity", "exponent", "predicted_kl"));
  EXPECT_THAT(Keys(model["candidates"][0]), ElementsAre("name", "bytes", "bits_per_weight",
                                                        "predicted_kl", "measured", "chosen"));
  EXPECT_THAT(Keys(model["frontier"][0]),
              ElementsAre("bits_per_weight", "bytes", "predicted_kl", "chosen"));
  EXPECT_THAT(Keys(model["parts"][0]), ElementsAre("name", "bytes"));
  EXPECT_THAT(Keys(model["samples"][0]), ElementsAre("prompt", "original", "compressed"));

  EXPECT_EQ(model["matrices"].size(), 15u);
  EXPECT_EQ(model["matrices"][0]["shape"].dump(), "[576,576]");
  EXPECT_DOUBLE_EQ(model["measured"]["kl_mean"].get<double>(), 0.0812);
  EXPECT_TRUE(full["original"]["kl_mean"].is_null());
}

TEST(ReportToJson, WhatIsAbsentOrNotFiniteIsNull) {
  CompressionReport report;
  report.title = "bad \xFF bytes";
  report.models.resize(1);
  report.models[0].bits_per_weight = kNan;
  report.models[0].matrices.resize(1);
  report.models[0].matrices[0].sensitivity = kInfinity;
  const auto json = ReportToJson(report);
  EXPECT_EQ(Keys(json), Keys(ReportToJson(SampleQuantizeReport(1))));
  EXPECT_TRUE(json["memory"].is_null());
  EXPECT_TRUE(json["models"][0]["measured"].is_null());
  EXPECT_TRUE(json["models"][0]["bits_per_weight"].is_null());
  EXPECT_TRUE(json["models"][0]["matrices"][0]["sensitivity"].is_null());
  EXPECT_THAT(json.dump(), HasSubstr("bad � bytes"));  // dump throws at ill-formed UTF-8
}

TEST(ReportToHtml, HoldsAllFigures) {
  const std::string page = ReportToHtml(SampleQuantizeReport(30));
  ExpectSoundPage(page);
  for (const char* text :
       {"<h1>SmolLM2-135M-Instruct at 2 bits per weight</h1>",
        "0.0812 ± 0.0014",
        "original 16.9",
        "of 32,640 tokens",
        "4 min 32 s",
        "Where the bits went",
        "layer 29, down: ",
        "Where the loss comes from",
        "Size against loss",
        "next smaller",
        "next larger",
        "Where the bytes are",
        "channel scales",
        "Candidates",
        "Written was <b>allocated</b>, which has the least measured KL divergence",
        "Memory when it runs",
        "At a context of 8,192 tokens, budget of 256.0 MiB: ",
        "Text, before and after",
        "largest city in <mark>France",
        "tq quantize models/",
        "prefers-color-scheme:dark"}) {
    EXPECT_THAT(page, HasSubstr(text));
  }
}

TEST(ReportToHtml, AnyNumberOfLayers) {
  for (const int64_t layers : {1, 2, 126}) {
    const std::string page = ReportToHtml(SampleQuantizeReport(layers));
    ExpectSoundPage(page);
    EXPECT_THAT(page, HasSubstr(fmt::format("layer {}, q: ", layers - 1)));
    EXPECT_LT(page.size(), 1'000'000u);
  }
}

TEST(ReportToHtml, ComparesModels) {
  const std::string page = ReportToHtml(SampleCompareReport());
  ExpectSoundPage(page);
  for (const char* text : {"All models", "<a href=\"#m6\">rtn-4</a>", "Loss over size",
                           "<section id=\"m6\">", "error of outputs"}) {
    EXPECT_THAT(page, HasSubstr(text));
  }
}

TEST(ReportToHtml, WhatWasNotMeasuredIsNotThere) {
  CompressionReport report;
  ExpectSoundPage(ReportToHtml(report));
  EXPECT_THAT(ReportToHtml(report), HasSubstr("Compression report"));
  report.models.resize(1);
  const std::string page = ReportToHtml(report);
  ExpectSoundPage(page);
  EXPECT_THAT(page, Not(HasSubstr("<h2>")));
  EXPECT_THAT(page, Not(HasSubstr("<dt>")));
  report.models.resize(3);
  ExpectSoundPage(ReportToHtml(report));
}

// Robustness case 71.
TEST(ReportToHtml, NamesAndFiguresFromFilesStayText) {
  const std::string hostile[] = {"</title></style><script>alert(1)</script>",
                                 "\" onload=\"alert(1)\" x='",
                                 "\xFF\xC3(\xED\xA0\x80 \x01\x1B[31m",
                                 std::string("nul\0nul", 7),
                                 "&lt;&#x3C;]]><!--",
                                 std::string(10000, 'w')};
  for (const std::string& text : hostile) {
    for (const double number : {0.0, -1.0, 1e-300, 1e308, kNan, kInfinity, -kInfinity}) {
      CompressionReport report = SampleCompareReport();
      report.models.resize(2);
      report.title = report.model = report.command = report.version = report.text = text;
      report.memory = MemoryUse{~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull};
      for (ReportModel& model : report.models) {
        model.name = model.method = text;
        model.bytes = ~0ull;
        model.bits_per_weight = model.decoder_bits_per_weight = model.seconds = number;
        model.measured = EvaluateResult{1, 1, number, number,
                                        EvaluateResult::Kl{number, number, number, number}};
        model.samples = {{text, text, "x" + text}};
        for (BytePart& part : model.parts) part = {text, ~0ull};
        model.matrices[0].layer = std::numeric_limits<int64_t>::max();
        model.matrices[1].layer = std::numeric_limits<int64_t>::min();
        for (ReportMatrix& matrix : model.matrices) {
          matrix.name = matrix.role = text;
          matrix.rows = matrix.cols = ~0ull;
          matrix.rate = matrix.relative_error = matrix.hessian_error = number;
          matrix.predicted_kl = matrix.sensitivity = matrix.exponent = number;
        }
        for (FrontierPoint& point : model.frontier) {
          point = {.bits_per_weight = number, .bytes = 1, .predicted_kl = number, .chosen = true};
        }
        for (ReportCandidate& candidate : model.candidates) {
          candidate.name = text;
          candidate.predicted_kl = candidate.bits_per_weight = number;
          candidate.measured = model.measured;
        }
      }
      ExpectSoundPage(ReportToHtml(report));
      report.models.resize(1);
      ExpectSoundPage(ReportToHtml(report));
      EXPECT_FALSE(ReportToJson(report).dump().empty());
    }
  }
}

TEST(ReportToHtml, WhyOneWasWrittenIsOnlySaidWhereItHolds) {
  CompressionReport report = SampleQuantizeReport(2);
  auto& candidates = report.models[0].candidates;
  std::swap(candidates[0].chosen, candidates[1].chosen);
  EXPECT_THAT(ReportToHtml(report), HasSubstr("Written was <b>uniform</b>.</p>"));
  std::swap(candidates[0].chosen, candidates[1].chosen);
  for (ReportCandidate& candidate : candidates) candidate.measured.reset();
  EXPECT_THAT(ReportToHtml(report),
              HasSubstr("Written was <b>allocated</b>, which has the least predicted KL"));
}

TEST(ReportToHtml, FiguresOfTheWrittenCandidateStandInForMissingOnes) {
  CompressionReport report = SampleQuantizeReport(2);
  report.models[0].measured.reset();
  const std::string page = ReportToHtml(report);
  EXPECT_THAT(page, HasSubstr("Measured on text held apart"));
  EXPECT_THAT(page, Not(HasSubstr("original 16.9")));  // of another text
}

TEST(ReportToHtml, SamplesPartBetweenCharacters) {
  CompressionReport report;
  report.models.resize(1);
  report.models[0].samples = {{"p", "é日", "é本"}, {"p", "same", "same"}};
  const std::string page = ReportToHtml(report);
  ExpectSoundPage(page);
  EXPECT_THAT(page, HasSubstr("é<mark>日</mark>"));
  EXPECT_THAT(page, HasSubstr("é<mark>本</mark>"));
  EXPECT_THAT(page, HasSubstr(">same<"));
}

}  // namespace
}  // namespace tq
