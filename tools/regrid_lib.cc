#include "regrid_lib.h"

#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "base/random.h"

namespace tq {
namespace {

using Factors = std::vector<double>;

class Regridder {
 public:
  Regridder(const ModelSource& source, const RegridOptions& options)
      : source_(source), options_(options) {}

  StatusOr<std::vector<OutputTensor>> Run() {
    for (const SourceTensorInfo& info : source_.tensors()) {
      TQ_ASSIGN_OR_RETURN(Tensor tensor, source_.LoadFloat(info.name));
      index_.emplace(info.name, tensors_.size());
      tensors_.push_back({info.name, std::move(tensor)});
    }
    for (uint32_t i = 0; i < source_.config().num_layers; ++i) {
      RegridLayer(fmt::format("model.layers.{}.", i));
    }
    return std::move(tensors_);
  }

 private:
  Tensor& Get(const std::string& name) { return tensors_[index_.at(name)].tensor; }

  Factors Draw(const std::string& name, uint64_t n) const {
    Random random(options_.seed, "regrid " + name);
    Factors factors(n);
    for (double& factor : factors) factor = std::exp(options_.sigma * random.NextNormal());
    return factors;
  }

  // Rows (of a bias: elements) times s.
  void ScaleRows(const std::string& name, const Factors& s) {
    Tensor& tensor = Get(name);
    const uint64_t width = tensor.num_elements() / s.size();
    auto* values = tensor.mutable_as<float>();
    for (uint64_t i = 0; i < tensor.num_elements(); ++i) {
      values[i] = static_cast<float>(values[i] * s[i / width]);
    }
  }

  // A norm times s, where it may be stored less 1.
  void ScaleNorm(const std::string& name, const Factors& s) {
    const double added = source_.config().norm_plus_one ? 1 : 0;
    auto* values = Get(name).mutable_as<float>();
    for (size_t i = 0; i < s.size(); ++i) {
      values[i] = static_cast<float>((values[i] + added) * s[i] - added);
    }
  }

  void DivideColumns(const std::string& name, const Factors& s) {
    Tensor& tensor = Get(name);
    auto* values = tensor.mutable_as<float>();
    for (uint64_t i = 0; i < tensor.num_elements(); ++i) {
      values[i] = static_cast<float>(values[i] / s[i % s.size()]);
    }
  }

  // Of a layer: one, or those of all experts.
  std::vector<MlpNames> Mlps() const {
    const ModelConfig& config = source_.config();
    if (config.num_experts == 0) return {NamesOfMlp(config)};
    std::vector<MlpNames> names;
    for (uint32_t e = 0; e < config.num_experts; ++e) names.push_back(NamesOfMlp(config, e));
    return names;
  }

  void RegridLayer(const std::string& layer) {
    const ModelConfig& config = source_.config();
    const Factors input = Draw(layer + "input", config.hidden_size);
    const LayerNormNames norms = NormNames(config);
    ScaleNorm(fmt::format("{}{}.weight", layer, norms.attention), input);
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
      DivideColumns(layer + "self_attn." + name + ".weight", input);
    }
    const Factors mlp = Draw(layer + "mlp", config.hidden_size);
    ScaleNorm(fmt::format("{}{}.weight", layer, norms.mlp), mlp);
    if (config.num_experts != 0) {
      DivideColumns(fmt::format("{}{}.weight", layer, RouterName(config)), mlp);
    }
    for (const MlpNames& names : Mlps()) {
      DivideColumns(layer + names.gate + ".weight", mlp);
      DivideColumns(layer + names.up + ".weight", mlp);
    }
    // Norms before o and down would undo factors that differ.
    if (config.sub_norms) return;
    const Factors value = Draw(layer + "value", config.kv_size());
    ScaleRows(layer + "self_attn.v_proj.weight", value);
    if (config.qkv_bias) ScaleRows(layer + "self_attn.v_proj.bias", value);
    Factors per_query(config.q_size());
    const uint32_t shared_by = config.num_heads / config.num_kv_heads;
    for (uint32_t i = 0; i < config.q_size(); ++i) {
      const uint32_t head = i / config.head_dim / shared_by;
      per_query[i] = value[head * config.head_dim + i % config.head_dim];
    }
    DivideColumns(layer + "self_attn.o_proj.weight", per_query);
    for (const MlpNames& names : Mlps()) {
      const Factors inner =
          Draw(layer + (config.num_experts == 0 ? "inner" : names.up), config.mlp_size());
      ScaleRows(layer + names.up + ".weight", inner);
      DivideColumns(layer + names.down + ".weight", inner);
    }
  }

  const ModelSource& source_;
  RegridOptions options_;
  std::vector<OutputTensor> tensors_;
  std::map<std::string, size_t> index_;
};

}  // namespace

StatusOr<std::vector<OutputTensor>> RegridTensors(const ModelSource& source,
                                                  const RegridOptions& options) {
  if (!(options.sigma >= 0 && options.sigma <= 2)) {
    return InvalidArgument("sigma is {}, allowed are 0 to 2", options.sigma);
  }
  return Regridder(source, options).Run();
}

}  // namespace tq
