#include "evaluate/report.h"

#include <cmath>
#include <string_view>

#include "tokenizer/utf8.h"

namespace tq {
namespace {

using Json = nlohmann::ordered_json;

// Names and texts may hold any bytes, and JSON is UTF-8.
Json Text(std::string_view text) { return ReplaceInvalidUtf8(text); }

// JSON has no NaN: what is not finite is null, like what was not measured.
Json Number(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json();
}

// With the keys of `tq eval`.
Json ToJson(const std::optional<EvaluateResult>& result) {
  if (!result) return Json();
  const auto& kl = result->kl;
  const auto of_kl = [&](double EvaluateResult::Kl::*member) {
    return kl ? Number((*kl).*member) : Json();
  };
  return {{"tokens", result->tokens},
          {"windows", result->windows},
          {"perplexity", Number(result->perplexity)},
          {"perplexity_stderr", Number(result->perplexity_stderr)},
          {"kl_mean", of_kl(&EvaluateResult::Kl::mean)},
          {"kl_stderr", of_kl(&EvaluateResult::Kl::stderr_)},
          {"kl_p99", of_kl(&EvaluateResult::Kl::p99)},
          {"top1_agreement", of_kl(&EvaluateResult::Kl::top1_agreement)}};
}

Json ToJson(const ReportMatrix& matrix) {
  return {{"name", Text(matrix.name)},
          {"role", Text(matrix.role)},
          {"layer", matrix.layer},
          {"shape", {matrix.rows, matrix.cols}},
          {"bytes", matrix.bytes},
          {"bits", Number(matrix.rate)},
          {"relative_error", Number(matrix.relative_error)},
          {"hessian_error", Number(matrix.hessian_error)},
          {"sensitivity", Number(matrix.sensitivity)},
          {"exponent", Number(matrix.exponent)},
          {"predicted_kl", Number(matrix.predicted_kl)}};
}

Json ToJson(const ReportCandidate& candidate) {
  return {{"name", Text(candidate.name)},
          {"bytes", candidate.bytes},
          {"bits_per_weight", Number(candidate.bits_per_weight)},
          {"predicted_kl", Number(candidate.predicted_kl)},
          {"measured", ToJson(candidate.measured)},
          {"chosen", candidate.chosen}};
}

Json ToJson(const FrontierPoint& point) {
  return {{"bits_per_weight", Number(point.bits_per_weight)},
          {"bytes", point.bytes},
          {"predicted_kl", Number(point.predicted_kl)},
          {"chosen", point.chosen}};
}

Json ToJson(const BytePart& part) { return {{"name", Text(part.name)}, {"bytes", part.bytes}}; }

Json ToJson(const TextSample& sample) {
  return {{"prompt", Text(sample.prompt)},
          {"original", Text(sample.original)},
          {"compressed", Text(sample.compressed)}};
}

Json ToJson(const ReportModel& model);

template <typename T>
Json ToArray(const std::vector<T>& items) {
  Json array = Json::array();
  for (const T& item : items) array.push_back(ToJson(item));
  return array;
}

Json ToJson(const ReportModel& model) {
  return {{"name", Text(model.name)},
          {"method", Text(model.method)},
          {"bytes", model.bytes},
          {"bits_per_weight", Number(model.bits_per_weight)},
          {"decoder_bits_per_weight", Number(model.decoder_bits_per_weight)},
          {"seconds", Number(model.seconds)},
          {"peak_rss_bytes", model.peak_rss_bytes},
          {"measured", ToJson(model.measured)},
          {"matrices", ToArray(model.matrices)},
          {"candidates", ToArray(model.candidates)},
          {"frontier", ToArray(model.frontier)},
          {"parts", ToArray(model.parts)},
          {"samples", ToArray(model.samples)}};
}

}  // namespace

nlohmann::ordered_json MemoryToJson(const MemoryUse& use) {
  return {{"budget", use.budget},     {"context", use.context},         {"weights", use.weights},
          {"kv_cache", use.kv_cache}, {"activations", use.activations}, {"reserve", use.reserve}};
}

nlohmann::ordered_json ReportToJson(const CompressionReport& report) {
  return {{"title", Text(report.title)},
          {"model", Text(report.model)},
          {"command", Text(report.command)},
          {"version", Text(report.version)},
          {"parameters", report.parameters},
          {"original_bytes", report.original_bytes},
          {"text", Text(report.text)},
          {"original", ToJson(report.original)},
          {"memory", report.memory ? MemoryToJson(*report.memory) : Json()},
          {"models", ToArray(report.models)}};
}

}  // namespace tq
