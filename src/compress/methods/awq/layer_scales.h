// AWQ's scales of input channels (Lin et al., arXiv 2306.00978, section 3.2): channels with large
// inputs get large weights, whose rounding errors are then small beside them.
//
//   W x = (W diag(s)) (x / s),   s_j = (mean |x_j|)^alpha / sqrt(max s min s)
//
// x / s costs nothing: the scales are taken out of what makes x.
//   q, k, v and gate, up   the norm before them; the norm of o's or down's input where there is one
//   o                      the rows of v, where every head has its own (else v's rows serve several
//                          heads, and o has no scales, as in the authors' code) and v has no bias
//   down                   the rows of up: the gate multiplies after them
// So the file is a plain one of grouped matrices, and no byte is added. A norm keeps its type: it
// is rounded first, and s is what the rounded norm leaves.
//
// alpha is the best of 0, 1/20 .. 19/20 by tr(dW H dW^T) of the group's matrices rounded to
// nearest: the mean squared error of their outputs over all of the calibration text, exactly. The
// authors' code measures the same of samples, for q, k, v and for gate, up behind the attention and
// the MLP.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "checkpoint/safetensors.h"
#include "codec/grouped_matrix.h"
#include "compress/plan.h"
#include "device/executor.h"
#include "tensor/tensor.h"

namespace tq {

// What calibration tells of a group's input.
struct GroupInput {
  Tensor hessian;                // E[x x^T], float [cols, cols]
  std::vector<float> magnitude;  // mean |x_j|, [cols]
};

// A group of a layer and its matrices as they are planned.
struct PlannedGroup {
  MatrixGroup place;
  std::vector<PlannedMatrix> matrices;
};

// Channel scales [cols] for alpha; channels without input count as the smallest.
std::vector<float> ChannelScales(std::span<const float> magnitude, double alpha);

// The alpha of least output error of matrices [rows, cols] of one input, rounded to nearest in
// these layouts. An error if their weights have no grid.
struct ScaledWeights {
  const float* values = nullptr;
  GroupedLayout layout;
};
StatusOr<double> SearchAlpha(std::span<const ScaledWeights> matrices, const GroupInput& input,
                             Executor& executor);

class LayerScales {
 public:
  // Of all groups of one layer, with the inputs that have their names.
  static StatusOr<LayerScales> Search(const ModelSource& source,
                                      std::span<const PlannedGroup> groups,
                                      const std::map<std::string, GroupInput>& inputs,
                                      Executor& executor);

  // W of matrix m, float [rows, cols], as it is to be rounded.
  void ScaleWeights(const PlannedMatrix& m, Executor& executor, float* w) const;
  // H of the group's input, float [cols, cols], as its matrices will see it.
  void ScaleHessian(const std::string& group, Executor& executor, Tensor& h) const;
  // The norm that the group's scales were taken out of, under its name; null if it was no norm.
  const OutputTensor* Norm(const std::string& group) const;
  // The group's s [cols].
  const std::vector<float>& scales(const std::string& group) const;

 private:
  struct Group {
    std::vector<float> scales;
    std::optional<OutputTensor> norm;
    std::string rows_of;  // the matrix whose rows are divided instead
  };
  std::map<std::string, Group> groups_;
};

}  // namespace tq
