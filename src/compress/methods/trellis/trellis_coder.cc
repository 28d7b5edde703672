#include "compress/methods/trellis/trellis_coder.h"

#include <memory>
#include <string>
#include <utility>

#include "checkpoint/packed_model.h"
#include "codec/packed_matrix.h"
#include "codec/rotation.h"
#include "compress/feedback.h"
#include "compress/methods/trellis/round_matrix.h"
#include "compress/noise.h"

namespace tq {
namespace {

// Signs alone, where the scales are to be left out of the Hessian.
std::vector<float> Signs(std::vector<float> scales) {
  for (float& s : scales) s = s < 0 ? -1.0f : 1.0f;
  return scales;
}

}  // namespace

StatusOr<TrellisCoder> TrellisCoder::Create(const QuantizeOptions& options,
                                            const TrellisSettings& settings,
                                            std::span<const PlannedMatrix> matrices,
                                            std::span<const Tensor> weights,
                                            std::optional<Tensor> hessian, Executor& executor) {
  TrellisCoder coder(options, settings, matrices);
  const std::string& name = matrices[0].group;
  const uint64_t cols = matrices[0].cols;
  std::vector<NamedWeights> named;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const PlannedMatrix& m = matrices[i];
    named.push_back({m.name, m.rows, m.cols, weights[i].as<float>()});
  }
  std::vector<float> diagonal;
  if (hessian) {
    for (uint64_t j = 0; j < cols; ++j) diagonal.push_back(hessian->as<float>()[j * cols + j]);
  }
  ScaleRule rule = hessian ? settings.rule : settings.rule_without_hessian;
  // Rows that are not mixed with others each need unit power.
  if (matrices[0].vocabulary || options.no_rotation) rule.row_power = 1;
  TQ_ASSIGN_OR_RETURN(coder.scales_,
                      ChooseScales(name, named, diagonal, rule, options.seed, executor));
  if (!options.no_rotation) coder.in_block_ = LargestHadamardOrder(cols, settings.rotation_limit);
  if (hessian) {
    std::vector<float> in_scale = HalfToFloats(coder.scales_.in_scale);
    if (options.hessian_without_scales) in_scale = Signs(std::move(in_scale));
    RotateHessian(in_scale, coder.in_block_, executor, *hessian);
    TQ_ASSIGN_OR_RETURN(coder.factor_,
                        HessianFactor::Create(name, *std::move(hessian), settings.damping, executor,
                                              options.dense.get()));
  }
  return coder;
}

WeightTransform TrellisCoder::TransformOf(size_t i) const {
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

StatusOr<DisturbedMatrix> TrellisCoder::Disturb(size_t i, const Tensor& weights, double error,
                                                Executor& executor) const {
  const PlannedMatrix& m = matrices_[i];
  const WeightTransform transform = TransformOf(i);
  DisturbedMatrix result;
  TQ_ASSIGN_OR_RETURN(result.weights, Tensor::FromBytes(DType::kF32, {m.rows, m.cols},
                                                        {weights.data(), weights.num_bytes()}));
  float* w = result.weights.mutable_as<float>();
  RotateWeights(transform, executor, w);
  const Feedback feedback(factor_ ? &*factor_ : nullptr, m.cols, kNoiseBlock);
  const NoiseLoss noise =
      RoundWithNoise(feedback, m.rows, m.cols, error, {options_->seed, m.name}, w, executor);
  UnrotateWeights(transform, executor, w);  // the error
  const float* original = weights.as<float>();
  executor.ParallelFor(m.rows, 64, [&](size_t begin, size_t end, size_t) {
    for (uint64_t at = begin * m.cols; at < end * m.cols; ++at) w[at] = original[at] - w[at];
  });
  const double power = transform.magnitude * transform.magnitude;
  result.loss = noise.loss * power;
  result.norm = noise.norm * power;
  return result;
}

StatusOr<CodingResult> TrellisCoder::Code(size_t i, const PlannedMatrix& m, Tensor& weights,
                                          Executor& executor) const {
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

  CodingResult result;
  TQ_RETURN_IF_ERROR(AppendMatrix(m.name, packed, &result.tensors));
  AppendInputScale(m.group, *packed.input, &result.tensors);
  result.loss = rounded.loss;
  result.norm = rounded.norm;
  return result;
}

}  // namespace tq
