#include "model/running_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/checked.h"
#include "codec/dense_matmul.h"
#include "codec/grouped_matmul.h"
#include "model/layer_tensors.h"

namespace tq {
namespace {

// Rows decoded together on the reference path: whole tiles.
constexpr uint64_t kDecodedRows = ternary::kTileRows;

// [out, in].
Shape ShapeOf(const RunningMatrix& matrix) {
  if (const auto* dense = std::get_if<Tensor>(&matrix)) return dense->shape();
  if (const auto* ternary = std::get_if<TernaryMatrix>(&matrix)) {
    return {ternary->rows, ternary->cols};
  }
  const auto& grouped = std::get<GroupedMatrix>(matrix);
  return {grouped.rows, grouped.cols};
}

class RunningGroup final : public LinearGroup {
 public:
  RunningGroup(std::vector<RunningMatrix> matrices, std::shared_ptr<TernaryInput> input)
      : matrices_(std::move(matrices)), ternary_input_(std::move(input)) {
    TQ_CHECK(!matrices_.empty());
    for (const RunningMatrix& matrix : matrices_) {
      TQ_CHECK(ShapeOf(matrix)[1] == in_features());
      if (const auto* ternary = std::get_if<TernaryMatrix>(&matrix)) ternary_.push_back(ternary);
      if (const auto* grouped = std::get_if<GroupedMatrix>(&matrix)) grouped_.push_back(grouped);
    }
  }
  uint64_t in_features() const override { return ShapeOf(matrices_[0])[1]; }
  size_t size() const override { return matrices_.size(); }
  uint64_t out_features(size_t i) const override { return ShapeOf(matrices_[i])[0]; }
  uint64_t weight_bytes() const override {
    uint64_t bytes = 0;
    for (const RunningMatrix& matrix : matrices_) {
      bytes += std::visit([](const auto& m) { return m.num_bytes(); }, matrix);
    }
    return bytes;
  }

  Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                 std::span<float* const> y) override {
    const bool in_floats = context.path == MatmulPath::kReference;
    std::vector<float*> ternary_y, grouped_y;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      if (const auto* dense = std::get_if<Tensor>(&matrices_[i])) {
        DenseMatmul(x, n, in_features(), dense->as<float>(), out_features(i), *context.executor,
                    y[i]);
      } else if (std::holds_alternative<GroupedMatrix>(matrices_[i])) {
        grouped_y.push_back(y[i]);
      } else if (in_floats) {
        MultiplyFloats(std::get<TernaryMatrix>(matrices_[i]), x, n, *context.executor, y[i]);
      } else {
        ternary_y.push_back(y[i]);
      }
    }
    if (!ternary_y.empty()) {
      ternary_input_->Prepare(x, n, in_features(), *context.executor);
      TernaryMatmul(ternary_, *ternary_input_, *context.executor, ternary_y);
    }
    if (!grouped_y.empty()) {
      GroupedMatmul(grouped_, x, n, context.path, one_row_, *context.executor, grouped_y);
    }
    return OkStatus();
  }

 private:
  static void MultiplyFloats(const TernaryMatrix& matrix, const float* x, uint64_t n,
                             Executor& executor, float* y) {
    std::vector<float> weights(matrix.rows * matrix.cols);
    executor.ParallelFor(CeilDiv(matrix.rows, kDecodedRows), 1,
                         [&](size_t begin, size_t end, size_t) {
                           const uint64_t first = begin * kDecodedRows;
                           DecodeRows(matrix, first, std::min(end * kDecodedRows, matrix.rows),
                                      weights.data() + first * matrix.cols);
                         });
    DenseMatmul(x, n, matrix.cols, weights.data(), matrix.rows, executor, y);
  }

  std::vector<RunningMatrix> matrices_;
  std::vector<const TernaryMatrix*> ternary_;  // those of matrices_
  std::vector<const GroupedMatrix*> grouped_;  // the same
  std::shared_ptr<TernaryInput> ternary_input_;
  GroupedInput one_row_;
};

// A layer's packed matrices by their names in it: "mlp.up_proj".
using CodedMatrices = std::map<std::string_view, CodedMatrix>;

class LayerLoader {
 public:
  LayerLoader(const ModelSource& source, uint32_t index) : source_(source), index_(index) {}

  std::string Name(std::string_view member) const {
    return fmt::format("model.layers.{}.{}.weight", index_, member);
  }

  StatusOr<CodedMatrices> LoadCoded() const {
    const ternary::Packing packing = TernaryPackingFor(source_.config());
    CodedMatrices matrices;
    for (const std::string_view member :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      TQ_ASSIGN_OR_RETURN(auto matrix, source_.LoadCoded(Name(member), packing));
      if (matrix) matrices.emplace(member, *std::move(matrix));
    }
    return matrices;
  }

  // Matrices of `rows` each with one input of `cols` values; takes the packed ones.
  StatusOr<std::unique_ptr<LinearGroup>> Group(
      std::initializer_list<std::pair<std::string_view, uint64_t>> members, uint64_t cols,
      CodedMatrices& coded, const std::shared_ptr<TernaryInput>& input) const {
    std::vector<RunningMatrix> matrices;
    for (const auto& [member, rows] : members) {
      if (auto found = coded.extract(member)) {
        std::visit([&](auto& matrix) { matrices.emplace_back(std::move(matrix)); }, found.mapped());
      } else {
        TQ_ASSIGN_OR_RETURN(Tensor tensor, source_.LoadFloat(Name(member)));
        matrices.emplace_back(std::move(tensor));
      }
      const Shape shape = ShapeOf(matrices.back());
      if (const Shape expected{rows, cols}; shape != expected) {
        return InvalidArgument("{}: {} has shape {}, not {}", source_.path().string(), Name(member),
                               ShapeToString(shape), ShapeToString(expected));
      }
    }
    return MakeRunningGroup(std::move(matrices), input);
  }

 private:
  const ModelSource& source_;
  const uint32_t index_;
};

}  // namespace

ternary::Packing TernaryPackingFor(const ModelConfig& config) {
  constexpr uint64_t kCachedBytes = uint64_t{32} << 20;
  const uint64_t weights = config.num_layers * (FloatLayerBytes(config) / sizeof(float));
  return weights / 4 > kCachedBytes ? ternary::Packing::kBase3 : ternary::Packing::k2Bits;
}

std::unique_ptr<LinearGroup> MakeRunningGroup(std::vector<RunningMatrix> matrices,
                                              std::shared_ptr<TernaryInput> input) {
  return std::make_unique<RunningGroup>(std::move(matrices), std::move(input));
}

StatusOr<std::unique_ptr<DecoderLayer>> LoadRunningLayer(
    const ModelSource& source, uint32_t index, std::shared_ptr<LayerWorkspace> workspace) {
  const LayerLoader loader(source, index);
  TQ_ASSIGN_OR_RETURN(CodedMatrices coded, loader.LoadCoded());
  if (coded.empty()) return LoadFloatLayer(source, index, std::move(workspace));
  const ModelConfig& config = source.config();
  const uint64_t q = config.q_size(), kv = config.kv_size(), wide = config.mlp_size();
  const uint64_t hidden = config.hidden_size;
  const auto group = [&](std::initializer_list<std::pair<std::string_view, uint64_t>> members,
                         uint64_t cols) {
    return loader.Group(members, cols, coded, workspace->ternary);
  };
  AttentionWeights attention;
  TQ_ASSIGN_OR_RETURN(attention.vectors, LoadAttentionVectors(config, index, VectorsOf(source)));
  TQ_ASSIGN_OR_RETURN(
      attention.qkv,
      group({{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}}, hidden));
  TQ_ASSIGN_OR_RETURN(attention.o, group({{"self_attn.o_proj", hidden}}, q));
  MlpWeights mlp;
  TQ_ASSIGN_OR_RETURN(mlp.vectors, LoadMlpVectors(config, index, VectorsOf(source)));
  TQ_ASSIGN_OR_RETURN(mlp.dense.gate_up,
                      group({{"mlp.gate_proj", wide}, {"mlp.up_proj", wide}}, hidden));
  TQ_ASSIGN_OR_RETURN(mlp.dense.down, group({{"mlp.down_proj", hidden}}, wide));
  return std::make_unique<DecoderLayer>(config, index, std::move(attention), std::move(mlp),
                                        std::move(workspace));
}

}  // namespace tq
