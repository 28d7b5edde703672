// The quantization_config of a Hugging Face directory, of the kinds that are read.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <variant>

#include "base/status.h"
#include "checkpoint/bitnet_quantization.h"
#include "checkpoint/exchange_quantization.h"

namespace tq {

// Nothing, for a directory of floats.
using Quantization = std::variant<std::monostate, BitNetQuantization, ExchangeQuantization>;

// Takes the field out of a config.json if it is an object. Errors name `file` and another
// quant_method, or what of the field is not honoured.
StatusOr<Quantization> TakeQuantization(nlohmann::json& config, std::string_view file);

}  // namespace tq
