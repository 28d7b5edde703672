#include "compress/report_model.h"

#include <charconv>
#include <string_view>
#include <utility>

#include "compress/assign_rates.h"

namespace tq {
namespace {

struct LayerAndRole {
  int64_t layer = -1;
  std::string role;
};

// "model.layers.3.mlp.down_proj" -> 3, "down".
LayerAndRole Place(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (name == "model.embed_tokens") return {-1, "embedding"};
  if (name == "lm_head") return {-1, "head"};
  LayerAndRole place;
  if (name.starts_with(kLayers)) {
    const std::string_view rest = name.substr(kLayers.size());
    std::from_chars(rest.data(), rest.data() + rest.size(), place.layer);
  }
  place.role = MatrixRole(name);
  return place;
}

ReportMatrix MakeReportMatrix(const MatrixReport& m, SensitivityMeasure measure) {
  LayerAndRole place = Place(m.name);
  ReportMatrix matrix;
  matrix.name = m.name;
  matrix.role = std::move(place.role);
  matrix.layer = place.layer;
  matrix.rows = m.rows;
  matrix.cols = m.cols;
  matrix.bytes = m.bytes;
  matrix.rate = m.rate;
  matrix.relative_error = m.relative_error;
  matrix.hessian_error = m.hessian_error;
  if (measure == SensitivityMeasure::kKl) {
    matrix.predicted_kl = m.predicted_loss;
    if (m.sensitivity.size() == 1) {
      matrix.sensitivity = m.sensitivity[0].scale;
      matrix.exponent = m.sensitivity[0].exponent;
    }
  }
  return matrix;
}

}  // namespace

std::vector<BytePart> PartsOf(const ModelPlan& plan) {
  BytePart decoder{"decoder codes", 0}, vocabulary{"embedding and head codes", 0},
      scales{"scales and layouts", 0}, norms{"norms", 0}, header{"header", plan.bytes};
  for (const OutputSpec& t : plan.tensors) {
    uint64_t bytes = DTypeSize(t.dtype);
    for (const uint64_t dim : t.shape) bytes *= dim;
    header.bytes -= bytes;
    const bool is_vocabulary =
        t.name.starts_with("lm_head") || t.name.starts_with("model.embed_tokens");
    if (t.name.ends_with(".codes")) {
      (is_vocabulary ? vocabulary : decoder).bytes += bytes;
    } else if (t.name.ends_with("_scale") || t.name.ends_with(".layout") ||
               t.name.ends_with(".scale") || t.name.ends_with(".zero") ||
               t.name.ends_with(".order")) {
      scales.bytes += bytes;
    } else {
      norms.bytes += bytes;
      if (t.shape.size() == 2) norms.name = "norms and routers";
    }
  }
  return {decoder, vocabulary, scales, norms, header};
}

double DecoderBits(const ModelPlan& plan, const std::vector<MatrixReport>& reports) {
  uint64_t bytes = 0, weights = 0;
  for (size_t i = 0; i < reports.size(); ++i) {
    if (plan.matrices[i].vocabulary) continue;
    bytes += reports[i].bytes;
    weights += reports[i].rows * reports[i].cols;
  }
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

void AddPredictions(const SensitivityTable& table, const ModelPlan& plan,
                    std::vector<MatrixReport>& reports) {
  for (size_t i = 0; i < reports.size(); ++i) {
    reports[i].predicted_loss = PredictLoss(table, plan.matrices[i]);
    for (const SensitivityItem& item : table.items) {
      if (item.matrix == reports[i].name) {
        reports[i].sensitivity.push_back({item.scale, item.exponent});
      }
    }
  }
}

ReportModel MakeReportModel(std::string name, Method method, const QuantizeReport& report) {
  ReportModel model;
  model.name = std::move(name);
  model.method = NameOf(method);
  model.bytes = report.bytes;
  model.bits_per_weight = report.bits_per_weight;
  model.decoder_bits_per_weight = report.decoder_bits_per_weight;
  model.seconds = report.seconds;
  model.peak_rss_bytes = report.peak_rss_bytes;
  for (const MatrixReport& m : report.matrices) {
    model.matrices.push_back(MakeReportMatrix(m, report.measure));
  }
  if (report.candidates.size() > 1 || report.measure != SensitivityMeasure::kNone) {
    model.candidates = report.candidates;
  }
  model.frontier = report.frontier;
  model.parts = report.parts;
  return model;
}

}  // namespace tq
