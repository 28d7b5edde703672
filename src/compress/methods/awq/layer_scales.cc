#include "compress/methods/awq/layer_scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/cancel.h"
#include "codec/grouped_rounding.h"
#include "compress/output_error.h"
#include "tensor/dtype.h"

namespace tq {
namespace {

constexpr int kAlphaSteps = 20;
// The smallest scale of a channel beside the mean one, before they are centred.
constexpr double kSmallestScale = 1e-4;

// What makes a group's input, by tensor or matrix: one of them, or neither.
struct Origin {
  std::string norm, matrix;
};

Origin OriginOf(const ModelConfig& config, const MatrixGroup& group) {
  const std::string layer = fmt::format("model.layers.{}.", group.layer);
  const auto norm = [&](std::string_view name) {
    return Origin{fmt::format("{}{}.weight", layer, name), ""};
  };
  if (group.suffix == "qkv") return norm(NormNames(config).attention);
  if (group.suffix == "gate_up") return norm(NormNames(config).mlp);
  if (group.suffix == "o") {
    if (config.sub_norms) return norm(kAttentionSubNorm);
    if (config.num_heads == config.num_kv_heads && !config.qkv_bias) {
      return {"", layer + "self_attn.v_proj"};
    }
  }
  if (group.suffix == "down") {
    if (config.sub_norms) return norm(kMlpSubNorm);
    return {"", layer + "mlp.up_proj"};
  }
  return {};
}

float ReadValue(const Tensor& tensor, uint64_t i) {
  switch (tensor.dtype()) {
    case DType::kF16:
      return HalfToFloat(tensor.as<uint16_t>()[i]);
    case DType::kBF16:
      return BFloat16ToFloat(tensor.as<uint16_t>()[i]);
    default:
      return tensor.as<float>()[i];
  }
}

void WriteValue(float value, uint64_t i, Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::kF16:
      tensor.mutable_as<uint16_t>()[i] = FloatToHalf(value);
      return;
    case DType::kBF16:
      tensor.mutable_as<uint16_t>()[i] = FloatToBFloat16(value);
      return;
    default:
      tensor.mutable_as<float>()[i] = value;
  }
}

// Divides a norm's weights by `scales`, which become what the rounded weights leave. A channel
// whose weight would be 0 or beyond its type keeps it.
StatusOr<Tensor> FoldIntoNorm(const Tensor& stored, bool plus_one, std::vector<float>& scales) {
  TQ_ASSIGN_OR_RETURN(Tensor norm, Tensor::FromBytes(stored.dtype(), stored.shape(),
                                                     {stored.data(), stored.num_bytes()}));
  const float one = plus_one ? 1 : 0;
  for (uint64_t j = 0; j < scales.size(); ++j) {
    const float weight = ReadValue(norm, j);
    if (scales[j] == 1) continue;
    WriteValue((one + weight) / scales[j] - one, j, norm);
    const float left = (one + weight) / (one + ReadValue(norm, j));
    if (std::isfinite(left) && left != 0) {
      scales[j] = left;
    } else {
      WriteValue(weight, j, norm);
      scales[j] = 1;
    }
  }
  return norm;
}

// tr(dW H dW^T) of one matrix at these scales.
StatusOr<double> ErrorAt(const ScaledWeights& m, const Tensor& hessian,
                         std::span<const float> scales, Executor& executor) {
  const uint64_t rows = m.layout.rows, cols = m.layout.cols;
  TQ_ASSIGN_OR_RETURN(Tensor error, Tensor::Zeros(DType::kF32, {rows, cols}));
  float* e = error.mutable_as<float>();
  FirstRow bad(rows);
  executor.ParallelFor(rows, 16, [&](size_t begin, size_t end, size_t) {
    std::vector<float> scaled(cols);
    for (uint64_t row = begin; row < end; ++row) {
      const float* w = m.values + row * cols;
      float* out = e + row * cols;
      for (uint64_t j = 0; j < cols; ++j) scaled[j] = w[j] * scales[j];
      if (!RoundRowToNearest(m.layout, scaled.data(), out)) bad.Note(row);
      for (uint64_t j = 0; j < cols; ++j) out[j] = (scaled[j] - out[j]) / scales[j];
    }
  });
  if (bad.found()) {
    return CannotRound(m.values + bad.row() * cols, bad.row(), cols, m.layout.group_size);
  }
  return OutputError(hessian, e, rows, executor);
}

}  // namespace

std::vector<float> ChannelScales(std::span<const float> magnitude, double alpha) {
  double mean = 0;
  for (const float m : magnitude) mean += m / static_cast<double>(magnitude.size());
  std::vector<float> scales(magnitude.size(), 1);
  if (!(mean > 0) || alpha == 0) return scales;
  std::vector<double> powers;
  for (const float m : magnitude) {
    powers.push_back(std::max(std::pow(m / mean, alpha), kSmallestScale));
  }
  const auto [min, max] = std::ranges::minmax(powers);
  const double centre = std::sqrt(min * max);
  for (size_t j = 0; j < scales.size(); ++j) scales[j] = static_cast<float>(powers[j] / centre);
  return scales;
}

StatusOr<double> SearchAlpha(std::span<const ScaledWeights> matrices, const GroupInput& input,
                             Executor& executor) {
  double best = 0, least = std::numeric_limits<double>::infinity();
  for (int step = 0; step < kAlphaSteps; ++step) {
    const double alpha = static_cast<double>(step) / kAlphaSteps;
    const std::vector<float> scales = ChannelScales(input.magnitude, alpha);
    double sum = 0;
    for (const ScaledWeights& m : matrices) {
      TQ_ASSIGN_OR_RETURN(const double error, ErrorAt(m, input.hessian, scales, executor));
      sum += error;
    }
    if (sum < least) {
      least = sum;
      best = alpha;
    }
  }
  return best;
}

StatusOr<LayerScales> LayerScales::Search(const ModelSource& source,
                                          std::span<const PlannedGroup> groups,
                                          const std::map<std::string, GroupInput>& inputs,
                                          Executor& executor) {
  LayerScales result;
  for (const PlannedGroup& group : groups) {
    TQ_RETURN_IF_ERROR(CheckCancelled());
    const std::string& name = group.matrices[0].group;
    Group& found = result.groups_[name];
    Origin origin = OriginOf(source.config(), group.place);
    if (origin.norm.empty() && origin.matrix.empty()) {
      found.scales.assign(group.matrices[0].cols, 1);
      continue;
    }
    std::vector<Tensor> weights;
    std::vector<ScaledWeights> scaled;
    for (const PlannedMatrix& m : group.matrices) {
      TQ_ASSIGN_OR_RETURN(Tensor w, source.LoadFloat(m.name + ".weight"));
      weights.push_back(std::move(w));
      scaled.push_back({weights.back().as<float>(), m.layout});
    }
    const GroupInput& input = inputs.at(name);
    const StatusOr<double> alpha = SearchAlpha(scaled, input, executor);
    if (!alpha.ok()) return alpha.status().WithContext(name);
    found.scales = ChannelScales(input.magnitude, *alpha);
    found.rows_of = std::move(origin.matrix);
    if (!origin.norm.empty()) {
      TQ_ASSIGN_OR_RETURN(const Tensor stored, source.LoadStored(origin.norm));
      TQ_ASSIGN_OR_RETURN(Tensor norm,
                          FoldIntoNorm(stored, source.config().norm_plus_one, found.scales));
      found.norm = OutputTensor{std::move(origin.norm), std::move(norm)};
    }
  }
  return result;
}

void LayerScales::ScaleWeights(const PlannedMatrix& m, Executor& executor, float* w) const {
  const std::vector<float>& columns = scales(m.group);
  const auto follower = std::ranges::find_if(
      groups_, [&](const auto& group) { return group.second.rows_of == m.name; });
  executor.ParallelFor(m.rows, 64, [&](size_t begin, size_t end, size_t) {
    for (uint64_t row = begin; row < end; ++row) {
      const float divisor = follower == groups_.end() ? 1 : follower->second.scales[row];
      for (uint64_t j = 0; j < m.cols; ++j) {
        w[row * m.cols + j] = w[row * m.cols + j] * columns[j] / divisor;
      }
    }
  });
}

void LayerScales::ScaleHessian(const std::string& group, Executor& executor, Tensor& h) const {
  const std::vector<float>& s = scales(group);
  const uint64_t n = s.size();
  float* a = h.mutable_as<float>();
  executor.ParallelFor(n, 16, [&](size_t begin, size_t end, size_t) {
    for (uint64_t i = begin; i < end; ++i) {
      for (uint64_t j = 0; j < n; ++j) a[i * n + j] /= s[i] * s[j];
    }
  });
}

const OutputTensor* LayerScales::Norm(const std::string& group) const {
  const auto& norm = groups_.at(group).norm;
  return norm ? &*norm : nullptr;
}

const std::vector<float>& LayerScales::scales(const std::string& group) const {
  return groups_.at(group).scales;
}

}  // namespace tq
