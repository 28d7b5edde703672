#include "checkpoint/quantization_config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "checkpoint/json.h"

namespace tq {

StatusOr<Quantization> TakeQuantization(nlohmann::json& config, std::string_view file) {
  constexpr const char* kField = "quantization_config";
  if (!config.is_object() || !config.contains(kField) || !config[kField].is_object()) {
    return Quantization();
  }
  const nlohmann::json fields = std::move(config[kField]);
  config.erase(kField);
  const std::string where = fmt::format("{}: {}", file, kField);
  const nlohmann::json method = fields.value("quant_method", nlohmann::json());
  if (method == "bitnet") {
    TQ_ASSIGN_OR_RETURN(auto bitnet, ReadBitNetQuantization(fields, where));
    return Quantization(std::move(bitnet));
  }
  if (method == "gptq" || method == "awq") {
    TQ_ASSIGN_OR_RETURN(const auto exchange, ReadExchangeQuantization(fields, where));
    return Quantization(exchange);
  }
  return FieldNotSupported(where, "quant_method", method);
}

}  // namespace tq
