#include "checkpoint/bitnet_quantization.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "checkpoint/source_kinds.h"

namespace tq {
namespace {

using nlohmann::json;

constexpr std::string_view kWeight = ".weight";

// Whether one of modules_to_not_convert means a module: all of the name, its beginning up to a dot,
// or its end.
bool Means(std::string_view entry, std::string_view module) {
  if (module.ends_with(entry)) return true;
  return module.starts_with(entry) && (entry.back() == '.' || module[entry.size()] == '.');
}

bool IsKept(const std::vector<std::string>& kept, std::string_view module) {
  return std::ranges::any_of(kept, [&](const std::string& entry) { return Means(entry, module); });
}

// transformers takes the entries for regular expressions as well, in which the dots of plain names
// make no difference.
Status ReadKept(const json& value, std::string_view where, BitNetQuantization& quantization) {
  constexpr std::string_view kField = "modules_to_not_convert";
  if (value.is_null()) return OkStatus();  // the head stays as it is
  if (!value.is_array()) return FieldNotSupported(where, kField, value);
  for (const json& entry : value) {
    if (!entry.is_string()) return FieldNotSupported(where, kField, value);
    const auto& name = entry.get_ref<const std::string&>();
    if (name.empty() || name.find_first_of("*+?|()[]{}^$\\") != std::string::npos) {
      return Unimplemented("{}: {}: {} is not supported, only names are", where, kField,
                           Quote(name));
    }
    quantization.kept.push_back(name);
  }
  if (!IsKept(quantization.kept, "lm_head")) {
    return Unimplemented("{}: {} = {} is not supported: the head, lm_head, would be ternary", where,
                         kField, Quote(value.dump()));
  }
  return OkStatus();
}

}  // namespace

bool BitNetQuantization::Holds(std::string_view tensor) const {
  return IsLayerMatrix(tensor) && !IsKept(kept, tensor.substr(0, tensor.size() - kWeight.size()));
}

StatusOr<BitNetQuantization> ReadBitNetQuantization(const json& fields, std::string_view where) {
  BitNetQuantization quantization;
  bool multiplies = false, online = false;
  for (const auto& [key, value] : fields.items()) {
    if (key == "quant_method") continue;
    if (key == "rms_norm_eps") continue;  // of the norms that use_rms_norm adds
    if (key == "use_rms_norm" && value == false) continue;
    if (key == "linear_class" && (value == "bitlinear" || value == "autobitlinear")) {
      multiplies = value == "autobitlinear";
    } else if (key == "quantization_mode" && (value == "offline" || value == "online")) {
      online = value == "online";
    } else if (key == "modules_to_not_convert") {
      TQ_RETURN_IF_ERROR(ReadKept(value, where, quantization));
    } else {
      return FieldNotSupported(where, key, value);
    }
  }
  quantization.scale = multiplies ? WeightScale::kMultiplies : WeightScale::kDivides;
  // A `bitlinear` is packed whatever the mode.
  quantization.packed = !(multiplies && online);
  return quantization;
}

}  // namespace tq
