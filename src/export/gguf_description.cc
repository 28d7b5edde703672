#include "export/gguf_description.h"

#include <fmt/format.h>

#include "checkpoint/architectures/architecture.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_names.h"
#include "checkpoint/quote.h"
#include "checkpoint/rope_factors.h"

namespace tq {
namespace {

// A layer sees all positions within its window. A file without a word for windows therefore is
// right up to that context, and says so by its length.
void LimitToWindow(ModelConfig& config, std::vector<std::string>& notes) {
  if (config.sliding_window == 0) return;
  if (config.sliding_window < config.max_position) {
    notes.push_back(fmt::format(
        "GGUF has no word for: a window of {0} positions in models of {1}; its context is {0} "
        "instead of {2}",
        config.sliding_window, config.architecture, config.max_position));
    config.max_position = config.sliding_window;
  }
  config.sliding_window = 0;
}

double Value(const ConfigMember& member, const ModelConfig& config) {
  return VisitMember(member, config, [](auto value) { return static_cast<double>(value); });
}

// Fields without a key are what the architecture's models have in common.
Status CheckFields(const Architecture& own, const Architecture& written,
                   const ModelConfig& config) {
  for (const ConfigField& field : own.fields) {
    if (field.gguf != nullptr || field.member == ConfigMember(&ModelConfig::query_scalar)) continue;
    const double value = Value(field.member, config);
    const double meant = Value(field.member, written.defaults);
    if (value != meant) {
      return Unimplemented("{} is {}: a GGUF file of {} means {}", field.json, value,
                           written.gguf_name, meant);
    }
  }
  const bool wide = config.num_layers == written.gguf_wide_query_layers;
  const uint32_t scalar = wide ? config.hidden_size / config.num_heads : config.head_dim;
  if (config.query_scalar != 0 && config.query_scalar != static_cast<float>(scalar)) {
    return Unimplemented("scores divided by the root of {}: a GGUF file of {} means that of {}",
                         config.query_scalar, written.gguf_name, scalar);
  }
  return OkStatus();
}

Status CheckRopeScaling(const Architecture& written, const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::kLlama3) return OkStatus();
  if (!written.gguf_rope_factors) {
    return Unimplemented("rope_scaling as Llama 3's: GGUF files of {} have no tensor {}",
                         written.gguf_name, kGgufRopeFactors);
  }
  const std::vector<float> factors = RopeFactors(config.head_dim, config.rope_theta, scaling);
  if (RopeScalingOf(factors, config.head_dim, config.rope_theta) != scaling) {
    return Unimplemented(
        "rope_scaling as Llama 3's with factor {}, low_freq_factor {}, high_freq_factor {} and "
        "original_max_position_embeddings {}: readers of GGUF cannot tell these from the tensor {}",
        scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor,
        scaling.original_max_position, kGgufRopeFactors);
  }
  return OkStatus();
}

}  // namespace

StatusOr<ModelConfig> DescribeForGguf(const ModelConfig& model, std::vector<std::string>& notes) {
  const Architecture& own = *FindArchitecture(model.architecture);
  const Architecture& written = own.gguf_as == nullptr ? own : *FindArchitecture(own.gguf_as);
  if (written.gguf_name == nullptr) {
    return Unimplemented("models of architecture {} are not written to GGUF",
                         Quote(own.model_type));
  }
  if (model.num_experts != 0) {
    return Unimplemented("models with experts are not written to GGUF");
  }
  ModelConfig config = model;
  if (own.gguf_as != nullptr) {
    LimitToWindow(config, notes);
    config.architecture = written.defaults.architecture;
  }
  TQ_RETURN_IF_ERROR(CheckFields(own, written, config));
  TQ_RETURN_IF_ERROR(CheckRopeScaling(written, config));
  return config;
}

void AppendConfigKeys(const ModelConfig& config, GgufKeys& keys) {
  const Architecture& architecture = *FindArchitecture(config.architecture);
  const std::string prefix = fmt::format("{}.", architecture.gguf_name);
  const auto append = [&](std::string_view key, const ConfigMember& member) {
    const auto number = [&](auto value) { keys.Number(fmt::format("{}{}", prefix, key), value); };
    VisitMember(member, config, number);
  };
  keys.String("general.architecture", architecture.gguf_name);
  keys.String("general.type", "model");
  for (const GgufConfigKey& row : GgufCommonKeys()) append(row.key, row.field);
  for (const ConfigField& field : architecture.fields) {
    if (field.gguf != nullptr) append(field.gguf, field.member);
  }
  if (config.rope_scaling.kind == RopeScaling::Kind::kLinear) {
    keys.String(prefix + "rope.scaling.type", "linear");
    keys.Float(prefix + "rope.scaling.factor", config.rope_scaling.factor);
  }
}

}  // namespace tq
