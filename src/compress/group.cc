#include "compress/group.h"

#include <algorithm>
#include <chrono>
#include <utility>

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

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

uint64_t BytesOfMatrix(std::span<const OutputTensor> tensors, const PlannedMatrix& matrix,
                       bool first_of_group) {
  uint64_t bytes = 0;
  for (const OutputTensor& t : tensors) {
    const bool shared = t.name == matrix.group + ".in_scale";
    const bool own = t.name.starts_with(matrix.name + ".") && !shared;
    if (own || (shared && first_of_group)) bytes += t.tensor.num_bytes();
  }
  return bytes;
}

StatusOr<std::vector<Tensor>> LoadWeights(const ModelSource& source,
                                          std::span<const PlannedMatrix> matrices) {
  std::vector<Tensor> weights;
  for (const PlannedMatrix& m : matrices) {
    TQ_ASSIGN_OR_RETURN(Tensor w, source.LoadFloat(m.name + ".weight"));
    weights.push_back(std::move(w));
  }
  return weights;
}

StatusOr<GroupQuantizer> GroupQuantizer::Load(const ModelSource& source,
                                              const QuantizeOptions& options,
                                              std::span<const PlannedMatrix> matrices,
                                              std::optional<Tensor> hessian,
                                              const LayerScales* scales, Executor& executor) {
  TQ_ASSIGN_OR_RETURN(std::vector<Tensor> weights, LoadWeights(source, matrices));
  if (scales != nullptr) {
    for (size_t i = 0; i < matrices.size(); ++i) {
      scales->ScaleWeights(matrices[i], executor, weights[i].mutable_as<float>());
    }
    if (hessian) scales->ScaleHessian(matrices[0].group, executor, *hessian);
  }
  GroupQuantizer group({matrices.begin(), matrices.end()}, std::move(weights), scales);
  TQ_ASSIGN_OR_RETURN(group.coder_, MakeGroupCoder(matrices[0].method, options, group.matrices_,
                                                   group.weights_, std::move(hessian), executor));
  return group;
}

StatusOr<QuantizedMatrix> GroupQuantizer::Quantize(size_t i, const PlannedMatrix& m, Weights keep,
                                                   Executor& executor) {
  TQ_CHECK(m.name == matrices_[i].name && m.method == matrices_[i].method);
  TQ_CHECK(weights_[i].data() != nullptr);
  const auto start = std::chrono::steady_clock::now();
  Tensor weights;
  if (keep == Weights::kKeep) {
    TQ_ASSIGN_OR_RETURN(weights, Tensor::FromBytes(DType::kF32, weights_[i].shape(),
                                                   {weights_[i].data(), weights_[i].num_bytes()}));
  } else {
    weights = std::exchange(weights_[i], Tensor());
  }
  const double norm = SumOfSquares(weights, executor);
  TQ_ASSIGN_OR_RETURN(CodingResult coded, coder_->Code(i, m, weights, executor));
  QuantizedMatrix result;
  result.tensors = std::move(coded.tensors);
  if (i == 0 && scales_ != nullptr) {
    if (const OutputTensor* scaled = scales_->Norm(m.group)) result.tensors.push_back(*scaled);
  }
  result.report.name = m.name;
  result.report.rows = m.rows;
  result.report.cols = m.cols;
  result.report.relative_error = Ratio(SumOfSquares(weights, executor), norm);
  result.report.hessian_error = Ratio(coded.loss, coded.norm);
  result.report.bytes = BytesOfMatrix(result.tensors, m, i == 0);
  result.report.bits =
      8.0 * static_cast<double>(result.report.bytes) / static_cast<double>(m.rows * m.cols);
  result.report.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace tq
