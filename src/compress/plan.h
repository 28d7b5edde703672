// What a compressed model will consist of, before its contents: codes of every matrix, tensors
// and bytes of the file; and the uniform choice of rates.
//
// Uniform: all decoder matrices share one rate r_d: between two native rates the first rows of a
// matrix are coded at the lower one and the rest at the next. Embedding and head share one rate
// r_e, chosen by its predicted loss; there the first rows, the frequent tokens, have the higher
// of two native rates. Matrices with an override have that rate instead, and the others make up
// for it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "checkpoint/model_source.h"
#include "codec/grouped_matrix.h"
#include "codec/packed_matrix.h"
#include "compress/quantize.h"
#include "compress/rates.h"
#include "tensor/tensor.h"

namespace tq {

struct PlannedMatrix {
  std::string name;   // without ".weight"
  std::string group;  // GroupName(name)
  uint64_t rows = 0, cols = 0;
  bool vocabulary = false;  // embedding or head: nothing is mixed along the rows
  double fixed_rate = 0;    // by an override; 0: none
  Method method = Method::kTrellis;
  // Trellis: codes and rows; scales are found later.
  std::vector<Segment> segments;
  GroupedLayout layout;  // of scalar codes
};

// A tensor of the output file, known before its contents.
struct OutputSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

struct ModelPlan {
  Method method = Method::kTrellis;     // of the decoder
  std::vector<PlannedMatrix> matrices;  // in the order of work: layer by layer, then the head
  std::vector<OutputSpec> tensors;      // of the output file, in its order
  double decoder_rate = 0, embedding_rate = 0;
  uint64_t bytes = 0;  // of the file, header included
  uint64_t parameters = 0;
  double bits_per_weight = 0;
};

// What is known of a model before rates are chosen.
struct ModelOutline {
  std::vector<PlannedMatrix> matrices;  // without codes; overrides applied
  std::vector<OutputSpec> plain;        // norms and routers: tensors without codes
  uint64_t parameters = 0;

  // Of a file of so many bytes.
  double BitsPerWeight(uint64_t bytes) const {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
  }
};
StatusOr<ModelOutline> OutlineModel(const ModelSource& source, const QuantizeOptions& options);

// Bytes of the file with the lowest rates that the options allow.
uint64_t SmallestBytes(const ModelOutline& outline, const QuantizeOptions& options);
// The bytes that the file may have: by options.bits, or options.budget_bytes, at most what the
// largest rates give. An error naming the smallest or largest possible value when that cannot be
// had.
StatusOr<uint64_t> TargetBytes(const ModelOutline& outline, const QuantizeOptions& options);

// Of the uniform plans of TargetBytes, that with the least `loss`; without one, with the least
// expected error, that of embedding and head weighing kVocabularyShare.
using PlanLoss = std::function<double(std::span<const PlannedMatrix>)>;
StatusOr<ModelPlan> PlanUniform(const ModelOutline& outline, const QuantizeOptions& options,
                                const PlanLoss& loss = {});
// Whether codes of a scalar method may have so many bits: 2 to 8, a whole number; for ternary
// kTernaryRate alone.
bool IsWidth(Method method, double bits);
// Whether options are asked for that the scalar method does not have.
Status CheckScalarOptions(const QuantizeOptions& options);
// Scalar codes of options.bits in the decoder. Embedding and head have trellis codes of that rate
// (or of an override's) by whatever method, so that methods differ in the decoder alone. An error
// if the options have no such codes.
StatusOr<ModelPlan> PlanScalar(const ModelOutline& outline, const QuantizeOptions& options);
// Tensors and sizes that follow from matrices whose codes are chosen.
ModelPlan FinishPlan(const ModelOutline& outline, std::vector<PlannedMatrix> matrices);

// A run of matrices with one input, [begin, end) of a plan's or an outline's.
struct MatrixGroup {
  size_t begin = 0, end = 0;
  int64_t layer = -1;                   // -1: embedding or head
  std::string suffix;                   // "qkv", "o", "gate_up", "down" of a layer's group
  bool is_head = false;                 // its input is the last layer's output
  std::optional<uint32_t> expert = {};  // of the layer's MLP, if it has any
};
std::vector<MatrixGroup> GroupsOf(const std::vector<PlannedMatrix>& matrices, bool tied);

// Bytes of a matrix's codes and of the segments' entries in X.layout.
uint64_t BytesOfSegments(const std::vector<Segment>& segments, uint64_t cols);
// Bits per weight of a matrix's codes.
double CodeRate(const PlannedMatrix& matrix);
// Equal for plans of one model whose matrices have the same codes.
Hash128 HashOfCodes(std::span<const PlannedMatrix> matrices);

HigherRows HigherRowsOf(const PlannedMatrix& matrix);
CodeVariant VariantOf(const QuantizeOptions& options);

// The data type in which a plain tensor (norm) of the source is stored: its own, if it
// is one of F32, F16, BF16, else F32.
DType PlainTensorType(const SourceTensorInfo& info);

// Bytes of a safetensors file of these tensors as checkpoint writes it.
uint64_t SafetensorsFileBytes(const std::vector<OutputSpec>& tensors);

}  // namespace tq
