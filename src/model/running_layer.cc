#include "model/ternary_layer.h"

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
#include "model/layer_tensors.h"

namespace tq {
namespace {

// Rows decoded together on the reference path: whole tiles.
constexpr uint64_t kDecodedRows = ternary::kTileRows;

uint64_t RowsOf(const SourceMatrix& matrix) {
  const auto* ternary = std::get_if<TernaryMatrix>(&matrix);
  return ternary != nullptr ? ternary->rows : std::get<Tensor>(matrix).shape()[0];
}

uint64_t ColsOf(const SourceMatrix& matrix) {
  const auto* ternary = std::get_if<TernaryMatrix>(&matrix);
  return ternary != nullptr ? ternary->cols : std::get<Tensor>(matrix).shape()[1];
}

class TernaryGroup final : public LinearGroup {
 public:
  TernaryGroup(std::vector<SourceMatrix> matrices, std::shared_ptr<TernaryInput> input)
      : matrices_(std::move(matrices)), input_(std::move(input)) {
    TQ_CHECK(!matrices_.empty());
    for (const SourceMatrix& matrix : matrices_) {
      TQ_CHECK(ColsOf(matrix) == in_features());
      if (const auto* ternary = std::get_if<TernaryMatrix>(&matrix)) ternary_.push_back(ternary);
    }
  }
  uint64_t in_features() const override { return ColsOf(matrices_[0]); }
  size_t size() const override { return matrices_.size(); }
  uint64_t out_features(size_t i) const override { return RowsOf(matrices_[i]); }
  uint64_t weight_bytes() const override {
    uint64_t bytes = 0;
    for (const SourceMatrix& matrix : matrices_) {
      bytes += std::visit([](const auto& m) { return m.num_bytes(); }, matrix);
    }
    return bytes;
  }

  Status Forward(const ForwardContext& context, const float* x, uint64_t n,
                 std::span<float* const> y) override {
    const bool in_floats = context.path == MatmulPath::kReference;
    std::vector<float*> ternary_y;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      if (const auto* dense = std::get_if<Tensor>(&matrices_[i])) {
        DenseMatmul(x, n, in_features(), dense->as<float>(), RowsOf(matrices_[i]),
                    *context.executor, y[i]);
      } else if (in_floats) {
        MultiplyFloats(std::get<TernaryMatrix>(matrices_[i]), x, n, *context.executor, y[i]);
      } else {
        ternary_y.push_back(y[i]);
      }
    }
    if (ternary_y.empty()) return OkStatus();
    input_->Prepare(x, n, in_features(), *context.executor);
    TernaryMatmul(ternary_, *input_, *context.executor, ternary_y);
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

  std::vector<SourceMatrix> matrices_;
  std::vector<const TernaryMatrix*> ternary_;  // those of matrices_
  std::shared_ptr<TernaryInput> input_;
};

// A layer's ternary matrices by their names in it: "mlp.up_proj".
using TernaryMatrices = std::map<std::string_view, TernaryMatrix>;

class LayerLoader {
 public:
  LayerLoader(const ModelSource& source, uint32_t index) : source_(source), index_(index) {}

  std::string Name(std::string_view member) const {
    return fmt::format("model.layers.{}.{}.weight", index_, member);
  }

  StatusOr<TernaryMatrices> LoadTernary() const {
    const ternary::Packing packing = TernaryPackingFor(source_.config());
    TernaryMatrices matrices;
    for (const std::string_view member :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      TQ_ASSIGN_OR_RETURN(auto matrix, source_.LoadTernary(Name(member), packing));
      if (matrix) matrices.emplace(member, *std::move(matrix));
    }
    return matrices;
  }

  // Matrices of `rows` each with one input of `cols` values; takes the ternary ones.
  StatusOr<std::unique_ptr<LinearGroup>> Group(
      std::initializer_list<std::pair<std::string_view, uint64_t>> members, uint64_t cols,
      TernaryMatrices& ternary, const std::shared_ptr<TernaryInput>& input) const {
    std::vector<SourceMatrix> matrices;
    for (const auto& [member, rows] : members) {
      Shape shape;
      if (auto found = ternary.extract(member)) {
        shape = {found.mapped().rows, found.mapped().cols};
        matrices.emplace_back(std::move(found.mapped()));
      } else {
        TQ_ASSIGN_OR_RETURN(Tensor tensor, source_.LoadFloat(Name(member)));
        shape = tensor.shape();
        matrices.emplace_back(std::move(tensor));
      }
      if (const Shape expected{rows, cols}; shape != expected) {
        return InvalidArgument("{}: {} has shape {}, not {}", source_.path().string(), Name(member),
                               ShapeToString(shape), ShapeToString(expected));
      }
    }
    return MakeTernaryGroup(std::move(matrices), input);
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

std::unique_ptr<LinearGroup> MakeTernaryGroup(std::vector<SourceMatrix> matrices,
                                              std::shared_ptr<TernaryInput> input) {
  return std::make_unique<TernaryGroup>(std::move(matrices), std::move(input));
}

StatusOr<std::unique_ptr<DecoderLayer>> LoadRunningLayer(
    const ModelSource& source, uint32_t index, std::shared_ptr<LayerWorkspace> workspace) {
  const LayerLoader loader(source, index);
  TQ_ASSIGN_OR_RETURN(TernaryMatrices ternary, loader.LoadTernary());
  if (ternary.empty()) return LoadFloatLayer(source, index, std::move(workspace));
  const ModelConfig& config = source.config();
  const uint64_t q = config.q_size(), kv = config.kv_size(), wide = config.mlp_size();
  const uint64_t hidden = config.hidden_size;
  const auto group = [&](std::initializer_list<std::pair<std::string_view, uint64_t>> members,
                         uint64_t cols) {
    return loader.Group(members, cols, ternary, workspace->ternary);
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
