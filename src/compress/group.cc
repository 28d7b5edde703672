#include "compress/group.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "checkpoint/packed_model.h"
#include "codec/grouped_matrix.h"
#include "codec/packed_matrix.h"
#include "codec/rotation.h"
#include "compress/feedback.h"
#include "compress/methods/trellis/round_matrix.h"
#include "compress/noise.h"

namespace tq {
namespace {

double SumOfSquares(const Tensor& values, Executor& executor) {
  // Fixed pieces, so that the sum does not depend on the number of threads.
  constexpr uint64_t kPiece = 1 << 16;
  const uint64_t n = values.num_elements();
  std::vector<double> sums((n + kPiece - 1) / kPiece);
  executor.ParallelFor(sums.size(), 1, [&](size_t begin, size_t end, size_t) {
    for (size_t piece = begin; piece < end; ++piece) {
      const uint64_t last = std::min(n, (piece + 1) * kPiece);
      for (uint64_t i = piece * kPiece; i < last; ++i) {
        sums[piece] += static_cast<double>(values.as<float>()[i]) * values.as<float>()[i];
      }
    }
  });
  double sum = 0;
  for (double piece : sums) sum += piece;
  return sum;
}

// Signs alone, where the scales are to be left out of the Hessian.
std::vector<float> Signs(std::vector<float> scales) {
  for (float& s : scales) s = s < 0 ? -1.0f : 1.0f;
  return scales;
}

uint64_t Bytes(const std::vector<OutputTensor>& tensors, std::string_view except) {
  uint64_t bytes = 0;
  for (const OutputTensor& t : tensors) bytes += t.name == except ? 0 : t.tensor.num_bytes();
  return bytes;
}

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

StatusOr<GroupQuantizer> GroupQuantizer::Create(const QuantizeOptions& options,
                                                const GroupSettings& settings,
                                                std::vector<PlannedMatrix> matrices,
                                                std::vector<Tensor> weights,
                                                std::optional<Tensor> hessian, Executor& executor) {
  TQ_CHECK(!matrices.empty() && matrices.size() == weights.size());
  GroupQuantizer group(options, settings, std::move(matrices), std::move(weights));
  if (options.method == Method::kRtn) return group;
  const std::string& name = group.matrices_[0].group;
  const uint64_t cols = group.matrices_[0].cols;
  std::vector<NamedWeights> named;
  for (size_t i = 0; i < group.size(); ++i) {
    const PlannedMatrix& m = group.matrices_[i];
    named.push_back({m.name, m.rows, m.cols, group.weights_[i].mutable_as<float>()});
  }
  std::vector<float> diagonal;
  if (hessian) {
    for (uint64_t j = 0; j < cols; ++j) diagonal.push_back(hessian->as<float>()[j * cols + j]);
  }
  ScaleRule rule = hessian ? settings.rule : settings.rule_without_hessian;
  // Rows that are not mixed with others each need unit power.
  if (group.matrices_[0].vocabulary || options.no_rotation) rule.row_power = 1;
  TQ_ASSIGN_OR_RETURN(group.scales_,
                      ChooseScales(name, named, diagonal, rule, options.seed, executor));
  if (!options.no_rotation) group.in_block_ = LargestHadamardOrder(cols, settings.rotation_limit);
  if (hessian) {
    std::vector<float> in_scale = HalfToFloats(group.scales_.in_scale);
    if (options.hessian_without_scales) in_scale = Signs(std::move(in_scale));
    RotateHessian(in_scale, group.in_block_, executor, *hessian);
    TQ_ASSIGN_OR_RETURN(group.factor_,
                        HessianFactor::Create(name, *std::move(hessian), settings.damping, executor,
                                              options.dense.get()));
  }
  return group;
}

StatusOr<GroupQuantizer> GroupQuantizer::Load(const ModelSource& source,
                                              const QuantizeOptions& options,
                                              const std::vector<PlannedMatrix>& matrices,
                                              const MatrixGroup& group,
                                              std::optional<Tensor> hessian, Executor& executor) {
  std::vector<PlannedMatrix> members(matrices.begin() + static_cast<ptrdiff_t>(group.begin),
                                     matrices.begin() + static_cast<ptrdiff_t>(group.end));
  std::vector<Tensor> weights;
  for (const PlannedMatrix& m : members) {
    TQ_ASSIGN_OR_RETURN(Tensor w, source.LoadFloat(m.name + ".weight"));
    weights.push_back(std::move(w));
  }
  return Create(options, GroupSettings{}, std::move(members), std::move(weights),
                std::move(hessian), executor);
}

StatusOr<QuantizedMatrix> GroupQuantizer::Quantize(size_t i, const PlannedMatrix& m, Weights keep,
                                                   Executor& executor) {
  TQ_CHECK(m.name == matrices_[i].name && weights_[i].data() != nullptr);
  const auto start = std::chrono::steady_clock::now();
  Tensor weights;
  if (keep == Weights::kKeep) {
    TQ_ASSIGN_OR_RETURN(weights, Tensor::FromBytes(DType::kF32, weights_[i].shape(),
                                                   {weights_[i].data(), weights_[i].num_bytes()}));
  } else {
    weights = std::exchange(weights_[i], Tensor());
  }
  TQ_ASSIGN_OR_RETURN(QuantizedMatrix result, options_->method == Method::kRtn
                                                  ? QuantizeRtn(m, weights, executor)
                                                  : QuantizeTrellis(i, m, weights, executor));
  result.report.name = m.name;
  result.report.rows = m.rows;
  result.report.cols = m.cols;
  // The group's in_scale is counted with the group's first matrix.
  result.report.bytes = Bytes(result.tensors, i == 0 ? "" : m.group + ".in_scale");
  result.report.bits =
      8.0 * static_cast<double>(result.report.bytes) / static_cast<double>(m.rows * m.cols);
  result.report.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

WeightTransform GroupQuantizer::TransformOf(size_t i) const {
  const PlannedMatrix& m = matrices_[i];
  WeightTransform transform;
  transform.out_scale = HalfToFloats(scales_.out_scale[i]);
  transform.in_scale = HalfToFloats(scales_.in_scale);
  transform.in_block = in_block_;
  transform.magnitude = scales_.magnitude[i];
  if (!m.vocabulary && !options_->no_rotation) {
    transform.out_block = LargestHadamardOrder(m.rows, settings_.rotation_limit);
  }
  return transform;
}

StatusOr<DisturbedMatrix> GroupQuantizer::Disturb(size_t i, double error,
                                                  Executor& executor) const {
  const PlannedMatrix& m = matrices_[i];
  const WeightTransform transform = TransformOf(i);
  DisturbedMatrix result;
  TQ_ASSIGN_OR_RETURN(result.weights,
                      Tensor::FromBytes(DType::kF32, {m.rows, m.cols},
                                        {weights_[i].data(), weights_[i].num_bytes()}));
  float* w = result.weights.mutable_as<float>();
  RotateWeights(transform, executor, w);
  const Feedback feedback(factor_ ? &*factor_ : nullptr, m.cols, kNoiseBlock);
  const NoiseLoss noise =
      RoundWithNoise(feedback, m.rows, m.cols, error, {options_->seed, m.name}, w, executor);
  UnrotateWeights(transform, executor, w);  // the error
  const float* original = weights_[i].as<float>();
  executor.ParallelFor(m.rows, 64, [&](size_t begin, size_t end, size_t) {
    for (uint64_t at = begin * m.cols; at < end * m.cols; ++at) w[at] = original[at] - w[at];
  });
  const double power = transform.magnitude * transform.magnitude;
  result.loss = noise.loss * power;
  result.norm = noise.norm * power;
  return result;
}

StatusOr<QuantizedMatrix> GroupQuantizer::QuantizeTrellis(size_t i, const PlannedMatrix& m,
                                                          Tensor& weights, Executor& executor) {
  const double weight_norm = SumOfSquares(weights, executor);
  const WeightTransform transform = TransformOf(i);
  RotateWeights(transform, executor, weights.mutable_as<float>());
  TQ_ASSIGN_OR_RETURN(RoundedMatrix rounded,
                      RoundMatrix(m.rows, m.cols, m.segments, factor_ ? &*factor_ : nullptr,
                                  weights.mutable_as<float>(), executor,
                                  options_->rounding ? *options_->rounding : ProcessorRounding()));
  UnrotateWeights(transform, executor, weights.mutable_as<float>());

  PackedMatrix packed;
  packed.rows = m.rows;
  packed.cols = m.cols;
  packed.segments = std::move(rounded.segments);
  for (Segment& segment : packed.segments) {
    segment.scale = static_cast<float>(segment.scale * transform.magnitude);
  }
  packed.codes = rounded.codes;
  packed.out_scale = scales_.out_scale[i];
  packed.out_block = transform.out_block;
  packed.input = std::make_shared<InputTransform>(InputTransform{scales_.in_scale, in_block_});

  QuantizedMatrix result;
  TQ_RETURN_IF_ERROR(AppendMatrix(m.name, packed, &result.tensors));
  AppendInputScale(m.group, *packed.input, &result.tensors);
  result.report.relative_error = Ratio(SumOfSquares(weights, executor), weight_norm);
  result.report.hessian_error = Ratio(rounded.loss, rounded.norm);
  return result;
}

StatusOr<QuantizedMatrix> GroupQuantizer::QuantizeRtn(const PlannedMatrix& m, Tensor& weights,
                                                      Executor& executor) {
  const StatusOr<GroupedMatrix> rounded =
      QuantizeToNearest(weights.as<float>(), m.rows, m.cols, m.rtn_bits, kRtnGroupSize, executor);
  if (!rounded.ok()) return rounded.status().WithContext(m.name);
  const GroupedMatrix& grouped = *rounded;
  const double weight_norm = SumOfSquares(weights, executor);
  executor.ParallelFor(m.rows, 64, [&](size_t begin, size_t end, size_t) {
    std::vector<float> decoded(m.cols);
    for (uint64_t row = begin; row < end; ++row) {
      DecodeRows(grouped, row, row + 1, decoded.data());
      float* w = weights.mutable_as<float>() + row * m.cols;
      for (uint64_t j = 0; j < m.cols; ++j) w[j] -= decoded[j];
    }
  });
  QuantizedMatrix result;
  TQ_RETURN_IF_ERROR(AppendMatrix(m.name, grouped, &result.tensors));
  result.report.relative_error = Ratio(SumOfSquares(weights, executor), weight_norm);
  return result;
}

}  // namespace tq
