// What a table predicts, and the file it is kept in.

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/cancel.h"
#include "base/file_io.h"
#include "checkpoint/json.h"
#include "compress/sensitivity.h"

namespace tq {
namespace {

using Json = nlohmann::json;

constexpr int kFileFormat = 1;
// Where the two measures are brought to one scale.
constexpr double kBlendError = 0.1;
// The power of the Hessian measure in their mean is this by the bits per weight, at most 1.
constexpr double kHessianShare = 0.6;

constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;

bool IsVocabulary(std::string_view matrix) {
  return matrix == "model.embed_tokens" || matrix == "lm_head";
}

// Numbers of a table are losses and powers: anything else would poison every sum.
StatusOr<double> Number(const Json& object, const char* field, double lowest, double highest) {
  const auto found = object.find(field);
  if (found == object.end() || !found->is_number()) {
    return InvalidArgument("'{}' is missing or no number", field);
  }
  const double value = found->get<double>();
  if (!(value >= lowest && value <= highest)) {
    return InvalidArgument("'{}' is {}: must be from {} to {}", field, value, lowest, highest);
  }
  return value;
}

StatusOr<std::string> Text(const Json& object, const char* field) {
  const auto found = object.find(field);
  if (found == object.end() || !found->is_string()) {
    return InvalidArgument("'{}' is missing or no text", field);
  }
  return found->get<std::string>();
}

StatusOr<const Json*> List(const Json& object, const char* field) {
  const auto found = object.find(field);
  if (found == object.end() || !found->is_array()) {
    return InvalidArgument("'{}' is missing or no list", field);
  }
  return &*found;
}

StatusOr<SensitivityItem> ParseItem(const Json& object) {
  if (!object.is_object()) return InvalidArgument("'items' holds something that is no object");
  constexpr double kLargestRow = 1 << 30;
  SensitivityItem item;
  TQ_ASSIGN_OR_RETURN(item.matrix, Text(object, "matrix"));
  TQ_ASSIGN_OR_RETURN(const double begin, Number(object, "row_begin", 0, kLargestRow));
  TQ_ASSIGN_OR_RETURN(const double end, Number(object, "row_end", 1, kLargestRow));
  item.row_begin = static_cast<uint64_t>(begin);
  item.row_end = static_cast<uint64_t>(end);
  TQ_ASSIGN_OR_RETURN(item.scale, Number(object, "scale", 0, 1e30));
  TQ_ASSIGN_OR_RETURN(item.exponent, Number(object, "exponent", 0.1, 10));
  TQ_ASSIGN_OR_RETURN(item.hessian_error, Number(object, "hessian_error", 0, 1e30));
  TQ_ASSIGN_OR_RETURN(item.hessian_loss, Number(object, "hessian_loss", 0, 1e30));
  return item;
}

// The items of each matrix must be its rows from the first to the last, in order: a decoder's
// matrix is one item, a vocabulary its slices. (More would give codes of more segments than a
// matrix may have.)
Status CheckItems(const std::vector<SensitivityItem>& items, const ModelOutline& outline) {
  size_t next = 0;
  for (size_t m = 0; m < outline.matrices.size(); ++m) {
    const PlannedMatrix& matrix = outline.matrices[m];
    const std::vector<uint64_t> rows =
        matrix.vocabulary ? VocabularySlices(matrix.rows) : std::vector<uint64_t>{0, matrix.rows};
    for (size_t i = 0; i + 1 < rows.size(); ++i, ++next) {
      if (next == items.size() || items[next].matrix != matrix.name) {
        return InvalidArgument("{}: {} of its {} rows", matrix.name, rows[i], matrix.rows);
      }
      if (items[next].row_begin != rows[i] || items[next].row_end != rows[i + 1]) {
        return InvalidArgument("{}: rows {} to {} where {} to {} are next", matrix.name,
                               items[next].row_begin, items[next].row_end, rows[i], rows[i + 1]);
      }
    }
  }
  if (next != items.size()) {
    return InvalidArgument("{}: no such matrix, or out of order", items[next].matrix);
  }
  return OkStatus();
}

StatusOr<SensitivityTable> ParseTable(const Json& object, const Hash128& model) {
  if (!object.is_object()) return InvalidArgument("no object");
  TQ_ASSIGN_OR_RETURN(const double format, Number(object, "format", 0, 1e9));
  if (format != kFileFormat) {
    return Unimplemented("format {}, this version reads {}", format, kFileFormat);
  }
  TQ_ASSIGN_OR_RETURN(const std::string fingerprint, Text(object, "model"));
  if (fingerprint != model.Hex()) {
    return InvalidArgument("it was measured on another model ({}, not {})", fingerprint,
                           model.Hex());
  }
  SensitivityTable table;
  table.model = model;
  TQ_ASSIGN_OR_RETURN(const std::string measure, Text(object, "measure"));
  if (measure != "kl" && measure != "hessian") {
    return InvalidArgument("'measure' is '{}', not kl or hessian", measure);
  }
  table.measure = measure == "kl" ? SensitivityMeasure::kKl : SensitivityMeasure::kHessian;
  TQ_ASSIGN_OR_RETURN(const double tokens, Number(object, "tokens", 0, 1e12));
  table.tokens = static_cast<uint64_t>(tokens);
  TQ_ASSIGN_OR_RETURN(const Json* items, List(object, "items"));
  for (const Json& entry : *items) {
    TQ_ASSIGN_OR_RETURN(SensitivityItem item, ParseItem(entry));
    table.items.push_back(std::move(item));
  }
  TQ_ASSIGN_OR_RETURN(const Json* joint, List(object, "joint"));
  for (const Json& entry : *joint) {
    if (!entry.is_object()) return InvalidArgument("'joint' holds something that is no object");
    JointLoss point;
    TQ_ASSIGN_OR_RETURN(point.sum, Number(entry, "sum", 0, 1e30));
    TQ_ASSIGN_OR_RETURN(point.together, Number(entry, "together", 0, 1e30));
    table.joint.push_back(point);
  }
  return table;
}

}  // namespace

double SensitivityItem::Loss(double error) const { return scale * std::pow(error, exponent); }

SensitivityTable SensitivityTable::ByHessians() const {
  SensitivityTable table = *this;
  table.measure = SensitivityMeasure::kHessian;
  table.joint.clear();
  table.tokens = 0;
  double decoder = 0;
  std::map<std::string, uint64_t> rows;
  for (const SensitivityItem& item : items) {
    decoder += item.hessian_loss;
    rows[item.matrix] = std::max(rows[item.matrix], item.row_end);
  }
  if (!(decoder > 0)) decoder = 1;
  for (SensitivityItem& item : table.items) {
    item.exponent = 1;
    item.scale = item.hessian_loss;
    if (!IsVocabulary(item.matrix)) continue;
    const auto share = [&](uint64_t row) {
      return FrequencyShare(static_cast<double>(row) / static_cast<double>(rows[item.matrix]));
    };
    item.scale = kVocabularyShare * decoder * (share(item.row_end) - share(item.row_begin));
  }
  return table;
}

std::vector<double> SensitivityTable::AllocationWeights(double bits) const {
  std::vector<double> weights(items.size(), 1.0);
  if (measure != SensitivityMeasure::kKl) return weights;
  const double power = std::min(1.0, kHessianShare / bits);
  double kl = 0, hessian = 0;
  for (const SensitivityItem& item : items) {
    if (item.hessian_loss <= 0) continue;
    kl += item.Loss(kBlendError);
    hessian += item.hessian_loss;
  }
  double before = 0, after = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const double loss = items[i].Loss(kBlendError);
    if (items[i].hessian_loss <= 0 || !(loss > 0)) continue;
    weights[i] = std::pow(items[i].hessian_loss / hessian * kl / loss, power);
    before += loss;
    after += weights[i] * loss;
  }
  // The decoder as a whole keeps its weight against the vocabulary.
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].hessian_loss > 0 && after > 0) weights[i] *= before / after;
  }
  return weights;
}

std::optional<SensitivityTable> SensitivityTable::By(SensitivityMeasure asked) const {
  if (asked == measure) return *this;
  if (asked == SensitivityMeasure::kHessian) return ByHessians();
  return std::nullopt;
}

std::optional<double> SensitivityTable::TotalKl(double sum) const {
  if (measure != SensitivityMeasure::kKl) return std::nullopt;
  // The ratio of measured to added losses, linear in log(sum) between the measured points.
  std::vector<JointLoss> points;
  for (const JointLoss& p : joint) {
    if (p.sum > 0 && (points.empty() || p.sum > points.back().sum)) points.push_back(p);
  }
  if (points.empty() || !(sum > 0)) return sum;
  const auto ratio = [](const JointLoss& p) { return p.together / p.sum; };
  if (sum <= points.front().sum) return sum * ratio(points.front());
  for (size_t i = 1; i < points.size(); ++i) {
    if (sum > points[i].sum) continue;
    const double t =
        std::log(sum / points[i - 1].sum) / std::log(points[i].sum / points[i - 1].sum);
    return sum * ((1 - t) * ratio(points[i - 1]) + t * ratio(points[i]));
  }
  return sum * ratio(points.back());
}

StatusOr<Hash128> ModelFingerprint(const ModelSource& source) {
  Hasher hasher;
  hasher.UpdateString(ModelConfigToJson(source.config()));
  for (const SourceTensorInfo& info : source.tensors()) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    hasher.UpdateString(info.name);
    TQ_RETURN_IF_ERROR(source.HashTensor(info.name, hasher));
  }
  return hasher.Digest();
}

Status WriteSensitivity(const std::filesystem::path& file, const SensitivityTable& table) {
  nlohmann::ordered_json object = {{"format", kFileFormat},
                                   {"model", table.model.Hex()},
                                   {"measure", NameOf(table.measure)},
                                   {"tokens", table.tokens},
                                   {"items", nlohmann::ordered_json::array()},
                                   {"joint", nlohmann::ordered_json::array()}};
  for (const SensitivityItem& item : table.items) {
    object["items"].push_back({{"matrix", item.matrix},
                               {"row_begin", item.row_begin},
                               {"row_end", item.row_end},
                               {"scale", item.scale},
                               {"exponent", item.exponent},
                               {"hessian_error", item.hessian_error},
                               {"hessian_loss", item.hessian_loss}});
  }
  for (const JointLoss& point : table.joint) {
    object["joint"].push_back({{"sum", point.sum}, {"together", point.together}});
  }
  return WriteFileAtomically(file, object.dump(1) + "\n");
}

StatusOr<SensitivityTable> ReadSensitivity(const std::filesystem::path& file, const Hash128& model,
                                           const ModelOutline& outline) {
  TQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kMaxFileBytes));
  const std::string what = "sensitivity file " + file.string();
  TQ_ASSIGN_OR_RETURN(const Json object, ParseJson(text, what));
  StatusOr<SensitivityTable> table = ParseTable(object, model);
  if (!table.ok()) return table.status().WithContext(what);
  TQ_RETURN_IF_ERROR(CheckItems(table->items, outline).WithContext(what));
  return table;
}

}  // namespace tq
