#include "model/packed_decoder.h"

#include <initializer_list>
#include <string_view>
#include <utility>
#include <variant>

namespace tq {
namespace {

class Finder {
 public:
  explicit Finder(const PackedModel& model) : model_(model) {}

  StatusOr<const StoredMatrix*> Matrix(const std::string& name, uint64_t rows,
                                       uint64_t cols) const {
    TQ_ASSIGN_OR_RETURN(const StoredMatrix* matrix, model_.Matrix(name));
    const auto [r, c] =
        std::visit([](const auto& m) { return std::pair(m.rows, m.cols); }, *matrix);
    if (r == rows && c == cols) return matrix;
    return InvalidArgument("{}: {} has shape [{}, {}], not [{}, {}]", model_.path().string(), name,
                           r, c, rows, cols);
  }

  StatusOr<PackedGroup> Group(const std::string& prefix,
                              std::initializer_list<std::pair<std::string_view, uint64_t>> members,
                              uint64_t cols) const {
    PackedGroup group;
    for (const auto& [suffix, rows] : members) {
      const std::string name = fmt::format("{}{}", prefix, suffix);
      TQ_ASSIGN_OR_RETURN(const StoredMatrix* matrix, Matrix(name, rows, cols));
      group.matrices.push_back(matrix);
      group.name = GroupName(name);
    }
    return group;
  }

  VectorSource Vectors() const {
    return {[this](const std::string& name) { return model_.LoadFloat(name); },
            model_.path().string()};
  }

  StatusOr<PackedLayer> Layer(uint32_t index) const {
    const ModelConfig& config = model_.config();
    const uint64_t q = config.q_size(), kv = config.kv_size(), hidden = config.hidden_size;
    const std::string prefix = fmt::format("model.layers.{}.", index);
    PackedLayer layer;
    TQ_ASSIGN_OR_RETURN(layer.attention, LoadAttentionVectors(config, index, Vectors()));
    TQ_ASSIGN_OR_RETURN(
        layer.qkv,
        Group(prefix, {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}},
              hidden));
    TQ_ASSIGN_OR_RETURN(layer.o, Group(prefix, {{"self_attn.o_proj", hidden}}, q));
    TQ_ASSIGN_OR_RETURN(layer.mlp, LoadMlpVectors(config, index, Vectors()));
    if (config.num_experts == 0) {
      TQ_ASSIGN_OR_RETURN(PackedMlp mlp, Mlp(prefix, NamesOfMlp(config)));
      layer.gate_up = std::move(mlp.gate_up), layer.down = std::move(mlp.down);
    }
    for (uint32_t e = 0; e < config.num_experts; ++e) {
      TQ_ASSIGN_OR_RETURN(PackedMlp expert, Mlp(prefix, NamesOfMlp(config, e)));
      layer.experts.push_back(std::move(expert));
    }
    return layer;
  }

  StatusOr<PackedMlp> Mlp(const std::string& prefix, const MlpNames& names) const {
    const uint64_t wide = model_.config().mlp_size(), hidden = model_.config().hidden_size;
    PackedMlp mlp;
    TQ_ASSIGN_OR_RETURN(mlp.gate_up, Group(prefix, {{names.gate, wide}, {names.up, wide}}, hidden));
    TQ_ASSIGN_OR_RETURN(mlp.down, Group(prefix, {{names.down, hidden}}, wide));
    return mlp;
  }

 private:
  const PackedModel& model_;
};

}  // namespace

StatusOr<PackedDecoder> FindPackedDecoder(const PackedModel& model) {
  const ModelConfig& config = model.config();
  const Finder finder(model);
  const std::string embedding = "model.embed_tokens";
  PackedDecoder decoder;
  TQ_ASSIGN_OR_RETURN(decoder.embedding,
                      finder.Matrix(embedding, config.vocab_size, config.hidden_size));
  TQ_ASSIGN_OR_RETURN(decoder.head, finder.Group(config.tie_embeddings ? embedding : "lm_head",
                                                 {{"", config.vocab_size}}, config.hidden_size));
  TQ_ASSIGN_OR_RETURN(decoder.norm, LoadFinalNorm(config, finder.Vectors()));
  for (uint32_t i = 0; i < config.num_layers; ++i) {
    TQ_ASSIGN_OR_RETURN(PackedLayer layer, finder.Layer(i));
    decoder.layers.push_back(std::move(layer));
  }
  return decoder;
}

}  // namespace tq
