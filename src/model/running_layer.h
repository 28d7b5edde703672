// Layers of models in other tools' files as they run: ternary matrices (BitNet b1.58, arXiv
// 2402.17764) and grouped ones (GPTQ, AWQ) stay packed, all others are float32.
#pragma once

#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "base/status.h"
#include "checkpoint/model_source.h"
#include "codec/grouped_matrix.h"
#include "codec/ternary_matmul.h"
#include "model/decoder_layer.h"
#include "model/linear.h"
#include "tensor/tensor.h"

namespace tq {

// How ternary matrices of a model lie in memory: in 1.6 bits a weight where 2 bits of them all are
// more than caches hold, 32 MiB, and in 2 bits elsewhere. The former take less time from memory,
// the latter from a cache (docs/performance.md, "Ternary weights").
ternary::Packing TernaryPackingFor(const ModelConfig& config);

// Packed, or float32 [out, in].
using RunningMatrix = std::variant<Tensor, TernaryMatrix, GroupedMatrix>;

// Matrices of one input [n, in], which the ternary ones see rounded to 8 bits with a scale for each
// row, as models of this kind compute, and the grouped ones as grouped_matmul.h says; on the
// reference path all see it in float. `input` may be shared by all groups of a model, which run one
// at a time.
std::unique_ptr<LinearGroup> MakeRunningGroup(std::vector<RunningMatrix> matrices,
                                              std::shared_ptr<TernaryInput> input);

// Layer `index` of the model. Where none of its matrices is packed: LoadFloatLayer. An error names
// a tensor whose shape is not what the config says.
StatusOr<std::unique_ptr<DecoderLayer>> LoadRunningLayer(const ModelSource& source, uint32_t index,
                                                         std::shared_ptr<LayerWorkspace> workspace);

}  // namespace tq
